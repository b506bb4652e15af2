"""A live step gives what the causal batch gives, to 1e-5 in float32, wherever a dialogue stands."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.heads import BCAFOutput
from bcaf_stream.model.state import DialogueState
from tests.unit.model.small import Batch, assert_close, batch, small_model

CONTEXT = 4
VARIANTS = [
    {},
    {"attention": "jan"},
    {"attention": "self"},
    {"attention": "cross"},
    {"heads": 1, "layers": 3},
    {"context": 1},
    {"bimodal": False},
    {"correlative": False},
    {"correlative": False, "bimodal": False},
    {"connection_form": "off"},
]


def logits(output: BCAFOutput) -> torch.Tensor:
    return torch.stack((output.fused_BUC, output.audio_BUC, output.text_BUC))


def utterance(given_: Batch, u: int) -> tuple[torch.Tensor, ...]:
    return (
        given_.audio_BUA[:, u],
        given_.text_BUT[:, u],
        given_.audio_present_BU[:, u],
        given_.text_present_BU[:, u],
    )


@torch.inference_mode()
def stepped(model: BCAF, given_: Batch) -> torch.Tensor:
    state, found = model.initial_state(given_.mask_BU.shape[0]), []
    for u in range(given_.mask_BU.shape[1]):
        output, state = model.step(state, *utterance(given_, u))
        found.append(logits(output))
    return torch.cat(found, dim=2)


@pytest.mark.parametrize("length", [1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 5 * CONTEXT])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_length(changes: dict, length: int):
    model = small_model(**{"context": CONTEXT, **changes})
    given_ = batch(model, [length] * 3, absent=0.3)
    with torch.inference_mode():
        expected = logits(model(*given_))
    assert_close(stepped(model, given_), expected)


def test_a_window_of_32_over_160_utterances():
    model = small_model(width=32, latent=16, heads=4, context=32, layers=3)
    given_ = batch(model, [160], absent=0.2)
    with torch.inference_mode():
        expected = logits(model(*given_))
    assert_close(stepped(model, given_), expected)


@torch.inference_mode()
def test_a_batch_of_dialogues_at_different_positions():
    model = small_model(context=CONTEXT)
    given_ = batch(model, [20] * 4, absent=0.3)
    expected = logits(model(*given_))
    starts = (0, 2, 3, 17)
    states = []
    for b, start in enumerate(starts):
        state = model.initial_state()
        for u in range(start):
            _, state = model.step(state, *(x[b : b + 1] for x in utterance(given_, u)))
        states.append(state)
    for ahead in range(3):
        columns = [[x[b] for x in utterance(given_, start + ahead)] for b, start in enumerate(starts)]
        now = [torch.stack(column) for column in zip(*columns, strict=True)]
        output, state = model.step(DialogueState.stack(states), *now)
        for b, start in enumerate(starts):
            assert_close(logits(output)[:, b, 0], expected[:, b, start + ahead])
        states = state.split()


@torch.inference_mode()
def test_a_state_may_be_used_twice():
    """Two futures of one past: a retry after a crash, or a revision."""
    model = small_model(context=CONTEXT)
    first, second = batch(model, [8], seed=1), batch(model, [8], seed=2)
    for name in Batch._fields:
        getattr(second, name)[:, :6] = getattr(first, name)[:, :6]
    state = model.initial_state()
    for u in range(6):
        _, state = model.step(state, *utterance(first, u))
    for future in (first, second, first):
        expected = logits(model(*future))
        walking = state
        for u in (6, 7):
            output, walking = model.step(walking, *utterance(future, u))
            assert_close(logits(output)[:, :, 0], expected[:, :, u])


@settings(max_examples=60, deadline=None)
@given(
    presence=st.lists(st.sampled_from([(True, True), (True, False), (False, True)]), min_size=1, max_size=14),
    attention=st.sampled_from(["ban", "jan", "self", "cross"]),
    context=st.integers(1, 6),
)
def test_any_pattern_of_absent_modalities(presence: list[tuple[bool, bool]], attention: str, context: int):
    model = small_model(attention=attention, context=context)
    audio, text = (torch.tensor([column]) for column in zip(*presence, strict=True))
    given_ = batch(model, [len(presence)])._replace(audio_present_BU=audio, text_present_BU=text)
    with torch.inference_mode():
        expected = logits(model(*given_))
    assert_close(stepped(model, given_), expected)
