"""Losses and gradients: every weight learns, nothing absent counts, ablations are whole models."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from bcaf_stream.model.attention import visible
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.bimodal import JointLayer
from tests.unit.model import paper
from tests.unit.model.small import assert_close, batch, small_config, small_model

VARIANTS = [
    {"attention": attention, "connection_form": form}
    for attention in ("ban", "jan", "self", "cross")
    for form in ("stable", "printed", "off")
] + [
    {"bimodal": False},
    {"correlative": False},
    {"correlative": False, "connection_form": "off"},
    {"bimodal": False, "correlative": False, "connection_form": "off"},
    {"audio_width": 8, "text_width": 8, "heads": 1},
    {"mode": "offline"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_parameter_gets_a_gradient(changes: dict):
    torch.manual_seed(0)
    model = BCAF(small_config(**changes)).train()
    given = batch(model, [6, 9, 3, 8], absent=0.4)
    labels = torch.randint(0, 4, given.mask_BU.shape)
    total, _ = model.loss(model(*given), labels, given.mask_BU)
    total.backward()
    dumb = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert dumb == []


@pytest.mark.parametrize("changes", VARIANTS[:12], ids=str)
def test_a_batch_without_a_single_pair_still_has_a_graph_to_every_parameter(changes: dict):
    """A distributed training step would wait for a gradient that never comes."""
    model = small_model(**changes).train()
    given = batch(model, [4, 2])
    given = given._replace(text_present_BU=torch.zeros_like(given.mask_BU))
    total, parts = model.loss(model(*given), torch.randint(0, 4, given.mask_BU.shape), given.mask_BU)
    total.backward()
    assert parts["connection"] == parts["text"] == 0
    unreached = {n for n, p in model.named_parameters() if p.grad is None}
    assert unreached == set()


def reference_cross_entropy(logits, labels, counts, weights=None) -> float:
    """Eq. 20, 22, 24, as a mean over the utterances that count."""
    total, mass = 0.0, 0.0
    for row, label, counted in zip(logits, labels, counts, strict=True):
        if counted and label != -100:
            weight = 1.0 if weights is None else weights[label]
            total -= weight * math.log(paper.softmax(list(row))[label])
            mass += weight
    return total / mass if mass else 0.0


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
def test_loss_is_eq_18(weights: list[float] | None):
    model = small_model(alpha=0.3, beta=0.7, mu=0.2).double()
    given = batch(model, [7, 4, 5], absent=0.5, dtype=torch.float64)
    labels = torch.randint(0, 4, given.mask_BU.shape)
    labels[0, 2] = labels[1, 0] = -100
    output = model(*given)
    class_weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    total, parts = model.loss(output, labels, given.mask_BU, class_weights)
    rows = lambda x: x.detach().flatten(0, 1).numpy()  # noqa: E731
    flat = [rows(x) for x in (labels[..., None], given.mask_BU[..., None])]
    label, mask = (x[:, 0].tolist() for x in flat)
    audio, text = ((p & given.mask_BU).flatten().tolist() for p in (given.audio_present_BU, given.text_present_BU))
    expected_fused = reference_cross_entropy(rows(output.fused_BUC), label, mask, weights)
    expected_audio = reference_cross_entropy(rows(output.audio_BUC), label, audio, weights)
    expected_text = reference_cross_entropy(rows(output.text_BUC), label, text, weights)
    both = np.array(audio) & np.array(text)
    assert 2 <= both.sum() < sum(mask)
    (H_a, H_l), (d_a, d_l), (e_a, e_l) = output.connection
    compared = (rows(x)[both] for x in (H_a, d_a, H_l, d_l, e_a, e_l))
    expected_connection = paper.stable_connection_loss(*compared, mu=0.2)
    assert parts["fused"].item() == pytest.approx(expected_fused, rel=1e-9)
    assert parts["audio"].item() == pytest.approx(expected_audio, rel=1e-9)
    assert parts["text"].item() == pytest.approx(expected_text, rel=1e-9)
    assert parts["connection"].item() == pytest.approx(expected_connection, rel=1e-9)
    expected = 0.3 * expected_connection + 0.7 * (expected_audio + expected_text) + expected_fused
    assert total.item() == pytest.approx(expected, rel=1e-9)
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("form", ["stable", "printed"])
def test_one_pair_has_no_correlation(form: str):
    model = small_model(connection_form=form, mu=100.0).double()
    given = batch(model, [1], dtype=torch.float64)
    output = model(*given)
    _, parts = model.loss(output, torch.tensor([[1]]), given.mask_BU)
    reduction = "mean" if form == "stable" else "sum"
    H_2BUD, d_2BUD, _ = (x.detach() for x in output.connection)
    expected = sum(F.mse_loss(d, H, reduction=reduction) for d, H in zip(d_2BUD, H_2BUD, strict=True))
    assert parts["connection"].item() == pytest.approx(expected.item())


def test_no_label_at_all_is_a_zero_not_a_nan():
    model = small_model()
    given = batch(model, [3, 2])
    total, parts = model.loss(model(*given), torch.full((2, 3), -100), given.mask_BU)
    assert parts["fused"] == parts["audio"] == parts["text"] == 0
    assert total.isfinite()


def test_padding_changes_no_loss():
    model = small_model()
    short, labels = batch(model, [4]), torch.tensor([[0, 1, 2, 3]])
    expected, _ = model.loss(model(*short), labels, short.mask_BU)
    pad = [F.pad(x, (0, 0, 0, 3), value=float("nan")) for x in short[:2]]
    flags = [F.pad(x, (0, 3)) for x in short[2:]]
    got, _ = model.loss(model(*pad, *flags), F.pad(labels, (0, 3), value=2), flags[0])
    assert_close(got, expected)


def test_what_stands_in_the_place_of_absent_features_reaches_no_gradient():
    """NaN times a zero gradient is NaN: the projection would be lost in one step."""
    model = small_model()
    given = batch(model, [6, 4], absent=0.5)
    given.audio_BUA[~(given.audio_present_BU & given.mask_BU)] = float("nan")
    given.text_BUT[~(given.text_present_BU & given.mask_BU)] = float("inf")
    model.loss(model(*given), torch.ones(2, 6, dtype=torch.long), given.mask_BU)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_reconstruction_does_not_pull_the_target():
    """A learned projection could otherwise lower the loss by shrinking H."""
    model = small_model(alpha=1.0, beta=0.0, correlative=False, mu=0.0)
    given = batch(model, [5])
    output = model(*given)
    loss = model.loss(output, torch.full((1, 5), -100), given.mask_BU)[0]
    connection = output.connection
    grad = torch.autograd.grad(loss, connection.H_2BUD, retain_graph=True)[0]
    through_d = torch.autograd.grad(
        connection.d_2BUD, connection.H_2BUD, 2 * (connection.d_2BUD - connection.H_2BUD) / 40
    )[0]
    assert_close(grad, through_d)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"labels": ("one",)}, "at least two"),
        ({"labels": ("one", "one")}, "all different"),
        ({"context": 0}, "greater than or equal to 1"),
        ({"dropout": 1.0}, "less than 1"),
        ({"attention": "flash"}, "'ban', 'jan', 'self' or 'cross'"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(changes: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        small_config(**changes)


def test_ablations_take_away_what_they_name():
    full = {name.split(".")[0] for name in small_model().state_dict()}
    assert {"bimodal", "latents", "correlative"} <= full
    assert not any(n.startswith("bimodal") for n in small_model(bimodal=False).state_dict())
    assert not any("joint" in n or "fusion" in n for n in small_model(correlative=False).state_dict())
    assert not any("decoder" in n or "encoder" in n for n in small_model(connection_form="off").state_dict())
    classifier = {tuple(small_model(**changes).fused_head[0].weight.shape) for changes in VARIANTS}
    assert len(classifier) == 1


def test_each_modality_of_a_joint_layer_has_a_dropout_of_its_own():
    layer = JointLayer(8, 2, 12, 0.5, 0.2).train()
    with torch.no_grad():
        for parameter in layer.add_norm.parameters():
            parameter[1] = parameter[0]
    same = torch.randn(1, 1, 6, 8).expand(2, -1, -1, -1)
    audio, text = layer(same, visible(torch.ones(1, 6, dtype=torch.bool), None))
    assert (audio - text).abs().max() > 0.1
    audio, text = layer.eval()(same, visible(torch.ones(1, 6, dtype=torch.bool), None))
    assert_close(audio, text)
