"""How good predictions are: F1, recall, calibration, what abstaining buys, and how sure all that is.

Everything is counted per labelled utterance; the bootstrap draws whole dialogues, because the utterances of
one dialogue are not independent.

Legend: N labelled utterances, C classes, R bootstrap draws.
"""
# ruff: noqa: N802

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatsNC = NDArray[np.float64]
IntsN = NDArray[np.int64]
BINS = 15
COVERAGES = tuple(round(0.1 * step, 1) for step in range(1, 11))
DRAWS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Predictions of one split, one way of seeing it: probabilities, truth, and the dialogue of each."""

    labels: tuple[str, ...]
    probs_NC: FloatsNC
    truth_N: IntsN
    call_N: IntsN

    @property
    def predicted_N(self) -> IntsN:
        return self.probs_NC.argmax(1)

    @property
    def correct_N(self) -> NDArray[np.bool_]:
        return self.predicted_N == self.truth_N


def weighted_f1(scored: Scored) -> float:
    """The paper's measure: F1 per class, weighted by how often the class occurs."""
    return float(weighted_f1_of_counts(_counts(scored, np.zeros_like(scored.call_N), 1))[0])


def summary(scored: Scored, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Every number of the report as plain values; `macro_f1` and recall are over the classes that occur."""
    # Seconds to import, and the workers of a training run never come here.
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    classes = np.arange(len(scored.labels))
    precision, recall, f1, count = precision_recall_fscore_support(
        scored.truth_N, scored.predicted_N, labels=classes, zero_division=0.0
    )
    there = count > 0
    coverage, risk = risk_coverage(scored)
    return {
        "n": len(scored.truth_N),
        "weighted_f1": weighted_f1(scored),
        "macro_f1": float(f1[there].mean()),
        "unweighted_recall": float(recall[there].mean()),
        "ece": expected_calibration_error(scored),
        "ece_bins": BINS,
        "ci95": {"weighted_f1": list(interval(bootstrap(scored, weighted_f1_of_counts, draws, seed)))},
        "per_class": {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
            for label, p, r, f, n in zip(scored.labels, precision, recall, f1, count, strict=True)
        },
        "risk_coverage": [
            {"coverage": share, "accuracy": 1 - float(risk[max(0, round(share * len(risk)) - 1)])}
            for share in COVERAGES
        ],
        "aurc": float(np.trapezoid(risk, coverage)) if len(risk) > 1 else float(risk[0]),
        "confusion": confusion_matrix(scored.truth_N, scored.predicted_N, labels=classes).tolist(),
    }


def expected_calibration_error(scored: Scored, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over equally wide bins of confidence, weighted by their size."""
    confidence_N = scored.probs_NC.max(1)
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    gap = np.zeros(bins)
    np.add.at(gap, bin_N, confidence_N - scored.correct_N)
    return float(np.abs(gap).sum() / len(confidence_N))


def risk_coverage(scored: Scored) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The share of errors among the most confident n of N, for every n: what a threshold would buy."""
    order_N = np.argsort(-scored.probs_NC.max(1), kind="stable")
    number_N = np.arange(1, len(order_N) + 1)
    return number_N / len(order_N), (~scored.correct_N[order_N]).cumsum() / number_N


def weighted_f1_of_counts(counts_RCC: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted F1 of R confusion matrices, truth by row."""
    hit_RC = np.diagonal(counts_RCC, axis1=1, axis2=2)
    truth_RC, said_RC = counts_RCC.sum(2), counts_RCC.sum(1)
    f1_RC = 2 * hit_RC / np.maximum(truth_RC + said_RC, 1e-12)
    return (f1_RC * truth_RC).sum(1) / np.maximum(truth_RC.sum(1), 1e-12)


def bootstrap(
    scored: Scored,
    measure: Callable[[NDArray[np.float64]], NDArray[np.float64]] = weighted_f1_of_counts,
    draws: int = DRAWS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """`measure` of `draws` corpora drawn dialogue by dialogue, (R,); the same seed draws the same dialogues.

    Two predictions of the same split and seed are therefore paired, draw by draw.
    """
    _, call_N = np.unique(scored.call_N, return_inverse=True)
    calls = int(call_N.max()) + 1
    counts = _counts(scored, call_N, calls)
    rng = np.random.default_rng(seed)
    weights_RK = rng.multinomial(calls, np.full(calls, 1 / calls), size=draws)
    return measure(np.einsum("rk,kcd->rcd", weights_RK.astype(np.float64), counts, optimize=True))


def _counts(scored: Scored, group_N: IntsN, groups: int) -> NDArray[np.float64]:
    """A confusion matrix for each group of utterances, truth by row."""
    counts = np.zeros((groups, len(scored.labels), len(scored.labels)))
    np.add.at(counts, (group_N, scored.truth_N, scored.predicted_N), 1)
    return counts


def interval(values_R: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.percentile(values_R, (2.5, 97.5))
    return float(low), float(high)


def paired_difference(first: Sequence[Scored], second: Sequence[Scored], seed: int = 0) -> dict[str, float]:
    """Mean weighted F1 of `second` minus that of `first` over their seeds, its 95 % interval, and how often <= 0.

    Both must be predictions of the same split, so that every draw holds the same dialogues for both.
    """
    difference_R = np.mean([bootstrap(s, seed=seed) for s in second], axis=0) - np.mean(
        [bootstrap(f, seed=seed) for f in first], axis=0
    )
    low, high = interval(difference_R)
    mean = float(np.mean([weighted_f1(s) for s in second]) - np.mean([weighted_f1(f) for f in first]))
    return {"difference": mean, "low": low, "high": high, "not_above_zero": float((difference_R <= 0).mean())}
