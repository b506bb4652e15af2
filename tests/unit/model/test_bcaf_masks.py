"""What may influence what: padding, the future, the window, absent modalities."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import ModelError
from bcaf_stream.model.attention import visible
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.heads import BCAFOutput
from tests.unit.model.small import assert_close, batch, small_model

HEADS = ("fused_BUC", "audio_BUC", "text_BUC")
ATTENTIONS = ("ban", "jan", "self", "cross")


def logits(output: BCAFOutput) -> torch.Tensor:
    return torch.stack([getattr(output, head) for head in HEADS])


@torch.inference_mode()
def influence(model: BCAF, U: int, changed: int) -> dict[str, list[float]]:
    """How far each utterance's logits move when utterance `changed` becomes another."""
    model = model.double()
    audio, text, mask, *_ = batch(model, [U], dtype=torch.float64)
    before = model(audio, text, mask)
    audio[:, changed] += 3
    text[:, changed] -= 3
    after = model(audio, text, mask)
    return {head: (getattr(after, head) - getattr(before, head)).abs().amax((0, 2)).tolist() for head in HEADS}


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_receptive_field_of_a_causal_model(attention: str):
    layers, context, U, changed = 2, 3, 12, 2
    moved = influence(small_model(attention=attention, layers=layers, context=context, latent=16), U, changed)
    reach = dict.fromkeys(HEADS, layers * (context - 1))
    reach["fused_BUC"] += context - 1  # the joint attention of the correlative network
    for head in HEADS:
        last = changed + reach[head]
        assert all(move == 0 for move in moved[head][:changed]), "the future changed the past"
        assert all(move > 0 for move in moved[head][changed : last + 1])
        assert all(move == 0 for move in moved[head][last + 1 :]), "it saw further than its window"


def test_context_1_sees_nothing_but_itself():
    moved = influence(small_model(context=1), 6, 3)
    assert all((move > 0) == (u == 3) for head in HEADS for u, move in enumerate(moved[head]))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_an_offline_model_sees_the_whole_dialogue(attention: str):
    moved = influence(small_model(attention=attention, mode="offline", context=2), 9, 8)
    assert all(move > 0 for head in HEADS for move in moved[head])


@pytest.mark.parametrize("mode", ["causal", "offline"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.inference_mode()
def test_padding_changes_nothing(mode: str, attention: str):
    model = small_model(mode=mode, attention=attention)
    alone = batch(model, [5], absent=0.4)
    expected = logits(model(*alone))
    padded = batch(model, [5, 11], seed=3)
    for name, mine in zip(alone._fields, alone, strict=True):
        getattr(padded, name)[:1, :5] = mine
    padded.audio_BUA[0, 5:] = float("nan")
    padded.text_BUT[0, 5:] = float("inf")
    got = logits(model(*padded))
    assert got.isfinite().all()
    assert_close(got[:, :1, :5], expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(holes=st.lists(st.booleans(), min_size=1, max_size=14), mode=st.sampled_from(["causal", "offline"]))
def test_padding_may_lie_anywhere(holes: list[bool], mode: str):
    model = small_model(mode=mode)
    mask = torch.tensor([holes])
    whole = batch(model, [len(holes)])
    with torch.inference_mode():
        got = logits(model(whole.audio_BUA, whole.text_BUT, mask))
        assert got.isfinite().all()
        if mask.any():
            audio, text = whole.audio_BUA[mask][None], whole.text_BUT[mask][None]
            expected = logits(model(audio, text, torch.ones(audio.shape[:2], dtype=torch.bool)))
            assert_close(got[:, mask], expected[:, 0], atol=1e-6)


def test_every_row_sees_something():
    mask = torch.tensor([[False, False, True, False, True]])
    for context in (None, 1, 2):
        assert visible(mask, context).any(-1).all()


@torch.inference_mode()
def test_an_empty_dialogue_is_finite():
    model = small_model()
    output = model(*batch(model, [3])._replace(mask_BU=torch.zeros(1, 3, dtype=torch.bool)))
    assert logits(output).isfinite().all()
    assert not output.audio_present_BU.any()


@torch.inference_mode()
def test_features_of_an_absent_modality_are_never_read():
    model = small_model()
    given_ = batch(model, [6])
    gone = torch.ones(1, 6, dtype=torch.bool)
    gone[0, [1, 4]] = False
    given_ = given_._replace(audio_present_BU=gone)
    expected = logits(model(*given_))
    given_.audio_BUA[0, [1, 4]] = float("nan")
    assert_close(logits(model(*given_)), expected, atol=0)


@torch.inference_mode()
def test_absence_is_not_a_vector_of_zeros():
    model = small_model()
    given_ = batch(model, [1])
    absent = given_._replace(text_present_BU=torch.zeros(1, 1, dtype=torch.bool))
    zeros = given_._replace(text_BUT=torch.zeros_like(given_.text_BUT))
    assert (model(*absent).fused_BUC - model(*zeros).fused_BUC).abs().max() > 1e-3


def test_a_wrong_width_names_both():
    model = small_model()
    given_ = batch(model, [2])
    with pytest.raises(ModelError, match=r"audio features are 7 wide; this model takes 12"):
        model(given_.audio_BUA[..., :7], given_.text_BUT, given_.mask_BU)
