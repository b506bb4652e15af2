"""The decision: what it computes, that fitting finds the best weights, and who may not speak."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bcaf_stream.errors import ModelError
from bcaf_stream.model.decision import Calibration, CaseWeights, HeadLogits, fit_calibration, fit_case
from bcaf_stream.model.heads import BCAFOutput
from tests.unit.model import paper
from tests.unit.model.small import assert_close

FITTED = Calibration(
    both=CaseWeights(audio=0.2, text=0.3, fused=0.5, temperature=1.7),
    audio_only=CaseWeights(audio=0.4, text=0.0, fused=0.6, temperature=0.8),
    text_only=CaseWeights(audio=0.0, text=0.9, fused=0.1, temperature=2.5),
)


def output_of(heads: HeadLogits, audio: torch.Tensor, text: torch.Tensor) -> BCAFOutput:
    return BCAFOutput(heads.fused, heads.audio, heads.text, audio, text, None)


def heads_of(*shape: int, seed: int = 0) -> HeadLogits:
    generator = torch.Generator().manual_seed(seed)
    return HeadLogits(*(3 * torch.randn(*shape, generator=generator) for _ in range(3)))


def reference(heads: HeadLogits, at: tuple[int, int], w: CaseWeights) -> list[float]:
    logs = [[math.log(p) for p in paper.softmax(head[at].double().tolist())] for head in heads.all]
    mixed = [(w.audio * a + w.text * t + w.fused * f) / w.temperature for a, t, f in zip(*logs, strict=True)]
    return paper.softmax(mixed)


def test_decide_is_the_weighted_tempered_mean_of_log_probabilities():
    heads = heads_of(2, 3, 5)
    audio = torch.tensor([[True, True, False], [True, False, False]])
    text = torch.tensor([[True, False, True], [True, True, False]])
    got = FITTED.decide(output_of(heads, audio, text))
    silent = CaseWeights(audio=0.0, text=0.0, fused=1.0)
    for b in range(2):
        for u in range(3):
            hears, reads = bool(audio[b, u]), bool(text[b, u])
            w = {(1, 1): FITTED.both, (1, 0): FITTED.audio_only, (0, 1): FITTED.text_only}.get(
                (hears, reads), silent
            )
            np.testing.assert_allclose(got[b, u], reference(heads, (b, u), w), atol=1e-12)
    assert got.dtype == torch.float64
    assert_close(got.sum(-1), torch.ones(2, 3, dtype=torch.float64), atol=1e-12)


def test_the_head_of_an_absent_modality_has_no_say():
    heads = heads_of(1, 1, 4)
    there, gone = torch.tensor([[True]]), torch.tensor([[False]])
    other = heads._replace(audio=-5 * heads.audio)
    same = [FITTED.decide(output_of(h, gone, there)) for h in (heads, other)]
    assert_close(same[0], same[1], atol=0)
    moved = [FITTED.decide(output_of(h, there, there)) for h in (heads, other)]
    assert (moved[0] - moved[1]).abs().max() > 1e-3


def test_a_calibration_that_lets_an_absent_head_speak_is_refused():
    loud = CaseWeights(audio=0.5, text=0.2, fused=0.3)
    with pytest.raises(ValidationError, match="absent modality must have weight 0"):
        Calibration(both=loud, audio_only=loud, text_only=loud)
    with pytest.raises(ValidationError, match="sum to 1"):
        CaseWeights(audio=0.5, text=0.2, fused=0.4)


def test_unfitted_decisions():
    mean, fused = Calibration.unfitted("mean"), Calibration.unfitted("fused")
    assert (mean.both.audio, mean.both.text, mean.both.fused) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert (mean.text_only.audio, mean.text_only.text, mean.text_only.fused) == (0, 0.5, 0.5)
    assert all((w.audio, w.text, w.fused) == (0, 0, 1) for w in (fused.both, fused.text_only, fused.audio_only))
    assert Calibration.unfitted("weighted") == mean


def sampled(scale: tuple[float, float, float], N: int, seed: int = 0) -> tuple[HeadLogits, torch.Tensor]:
    """Labels drawn from the log-linear mix of three heads with these scales (weight / temperature)."""
    heads = heads_of(N, 4, seed=seed)
    mixed = sum(s * head.log_softmax(-1) for s, head in zip(scale, heads.all, strict=True))
    generator = torch.Generator().manual_seed(seed + 1)
    return heads, torch.multinomial(mixed.softmax(-1), 1, generator=generator)[:, 0]


def nll(heads: HeadLogits, labels: torch.Tensor, w: CaseWeights) -> float:
    return -sum(math.log(reference(heads, (n,), w)[label]) for n, label in enumerate(labels.tolist())) / len(
        labels
    )


def test_the_fit_recovers_the_weights_that_made_the_labels():
    scale = (0.1, 0.2, 0.5)  # weights 1/8, 1/4, 5/8 at temperature 1.25
    heads, labels = sampled(scale, 8_000)
    w = fit_case(heads, labels, "both")
    assert (w.audio, w.text, w.fused) == pytest.approx((0.125, 0.25, 0.625), abs=0.03)
    assert w.temperature == pytest.approx(1.25, rel=0.05)


@pytest.mark.parametrize("scale", [(0.3, 0.1, 0.4), (0.0, 0.4, 0.3), (0.0, 0.0, 1.5)])
def test_no_other_weights_on_a_grid_are_better(scale: tuple[float, float, float]):
    heads, labels = sampled(scale, 150, seed=3)
    w = fit_case(heads, labels, "both")
    best = nll(heads, labels, w)
    for i in range(6):
        for j in range(6 - i):
            for temperature in (0.5 * w.temperature, 0.9 * w.temperature, w.temperature, 1.2 * w.temperature):
                other = CaseWeights(audio=i / 5, text=j / 5, fused=(5 - i - j) / 5, temperature=temperature)
                assert nll(heads, labels, other) >= best - 1e-9


def test_a_useless_head_gets_no_weight():
    heads, labels = sampled((-0.4, 0.3, 0.6), 3000)  # the audio head says the opposite of the truth
    w = fit_case(heads, labels, "both")
    assert w.audio == 0.0
    assert (w.text, w.fused) == pytest.approx((1 / 3, 2 / 3), abs=0.05)


def test_each_case_is_fitted_on_its_own_and_the_absent_head_stays_silent():
    heads, labels = sampled((0.4, 0.4, 0.4), 2000)
    labels[:5] = -100
    got = fit_calibration({"both": heads, "text_only": heads}, labels)
    assert min(got.both.audio, got.both.text, got.both.fused) > 0.2
    assert got.text_only.audio == 0
    assert got.text_only.text > 0.2
    assert got.audio_only == Calibration.unfitted("weighted").audio_only


@pytest.mark.parametrize("decision", ["fused", "mean"])
def test_fixed_weights_keep_their_shares_and_get_a_temperature(decision: str):
    heads, labels = sampled((0.2, 0.2, 0.2) if decision == "mean" else (0.0, 0.0, 0.5), 10_000)
    w = fit_calibration({"both": heads}, labels, decision).both
    fixed = Calibration.unfitted(decision).both
    assert (w.audio, w.text, w.fused) == pytest.approx((fixed.audio, fixed.text, fixed.fused), abs=1e-9)
    assert w.temperature == pytest.approx(1 / 0.6 if decision == "mean" else 2.0, rel=0.05)


def test_separable_and_hopeless_dev_splits_stay_in_bounds():
    labels = torch.arange(4).repeat(10)
    sure = 5 * torch.nn.functional.one_hot(labels, 4).float()
    assert 0.05 <= fit_case(HeadLogits(sure, sure, sure), labels, "both").temperature < 0.5
    flat = torch.nn.functional.one_hot((labels + 1) % 4, 4).float()
    assert fit_case(HeadLogits(flat, flat, flat), labels, "both").temperature == pytest.approx(20.0)


def test_what_cannot_be_fitted_is_an_error():
    heads, labels = sampled((1.0, 1.0, 1.0), 6)
    with pytest.raises(ModelError, match="no labels"):
        fit_case(heads, torch.full_like(labels, -100), "both")
    with pytest.raises(ModelError, match="not finite or do not fit"):
        fit_case(heads, labels[:5], "both")
    broken = heads._replace(text=torch.full_like(heads.text, float("nan")))
    with pytest.raises(ModelError, match="not finite or do not fit"):
        fit_case(broken, labels, "text_only")


@pytest.mark.parametrize(("signal", "noise", "seed"), [(0.001, 0.001, 4), (0.1, 0.1, 13), (1.0, 0.0, 0)])
def test_a_head_whose_best_weight_has_no_end_is_fitted_at_once(signal: float, noise: float, seed: int) -> None:
    """A faint but certain head: the more it weighs the better, and a search without bounds runs to infinity."""
    generator = torch.Generator().manual_seed(seed)
    label_N = torch.randint(0, 2, (120,), generator=generator)
    side_NC = (2 * label_N - 1).float()[:, None] * torch.tensor([-1.0, 1.0])

    def head(strength: float, spread: float) -> torch.Tensor:
        return strength * side_NC + spread * torch.randn(120, 2, generator=generator)

    fitted = fit_case(HeadLogits(head(0, 0.3), head(signal, noise), head(0.3, 0.5)), label_N, "both")
    assert max(fitted.audio, fitted.text, fitted.fused) == fitted.text
    assert fitted.temperature >= 0.05


def test_heads_that_all_say_nothing_weigh_alike() -> None:
    flat_NC = torch.zeros(20, 3)
    label_N = torch.arange(20) % 3
    fitted = fit_case(HeadLogits(flat_NC, flat_NC, flat_NC), label_N, "both")
    assert (fitted.audio, fitted.text, fitted.fused) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
