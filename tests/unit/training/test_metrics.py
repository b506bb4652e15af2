import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from training.metrics import (
    Scored,
    bootstrap,
    expected_calibration_error,
    paired_difference,
    risk_coverage,
    summary,
    weighted_f1,
    weighted_f1_of_counts,
)

LABELS = ("a", "b", "c")


def made(seed: int, n: int = 200, skill: float = 1.0, calls: int = 20) -> Scored:
    rng = np.random.default_rng(seed)
    truth_N = np.random.default_rng(99).integers(0, 3, n)
    logits_NC = rng.normal(size=(n, 3))
    logits_NC[np.arange(n), truth_N] += skill
    probs_NC = np.exp(logits_NC)
    return Scored(LABELS, probs_NC / probs_NC.sum(1, keepdims=True), truth_N, np.arange(n) * calls // n)


def certain(predicted: list[int], truth: list[int], confidence: float = 1.0) -> Scored:
    probs_NC = np.full((len(truth), 3), (1 - confidence) / 2)
    probs_NC[np.arange(len(truth)), predicted] = confidence
    return Scored(LABELS, probs_NC, np.array(truth), np.arange(len(truth)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_f1_from_counts_is_sklearns(pairs):
    predicted, truth = zip(*pairs, strict=True)
    scored = certain(list(predicted), list(truth))
    counts = np.zeros((1, 3, 3))
    np.add.at(counts[0], (scored.truth_N, scored.predicted_N), 1)
    expected = f1_score(truth, predicted, average="weighted", zero_division=0.0)
    assert weighted_f1(scored) == pytest.approx(expected)
    assert weighted_f1_of_counts(counts)[0] == pytest.approx(expected)


def test_calibration_error_by_hand():
    """Half of it right at 0.8 is off by 0.3; all of it right at 1.0 is off by nothing."""
    assert expected_calibration_error(certain([0, 1, 0, 1], [0, 1, 1, 0], 0.8)) == pytest.approx(0.3)
    assert expected_calibration_error(certain([0, 1, 2], [0, 1, 2])) == 0.0


def test_risk_falls_where_confidence_knows():
    scored = made(0, skill=2.0)
    coverage, risk = risk_coverage(scored)
    assert coverage[-1] == 1.0
    assert risk[-1] == pytest.approx(1 - scored.correct_N.mean())
    assert risk[len(risk) // 4] < risk[-1]


def test_the_summary_counts_what_is_there():
    numbers = summary(certain([0, 0, 1, 1], [0, 0, 1, 0]))
    assert numbers["n"] == 4
    assert numbers["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert numbers["per_class"]["a"]["recall"] == pytest.approx(2 / 3)
    assert numbers["unweighted_recall"] == pytest.approx((2 / 3 + 1) / 2)  # c does not occur
    low, high = numbers["ci95"]["weighted_f1"]
    assert low <= numbers["weighted_f1"] <= high


def test_the_interval_grows_with_what_dialogues_share():
    """The same utterances in fewer dialogues say less: a bootstrap over utterances would not see it."""
    rng = np.random.default_rng(0)
    right_K = rng.random(20) < 0.5  # whole dialogues are right or wrong
    truth_N = np.tile([0, 1], 100)
    predicted = np.where(np.repeat(right_K, 10), truth_N, 1 - truth_N)
    together = certain(list(predicted), list(truth_N))
    shared = Scored(LABELS, together.probs_NC, together.truth_N, np.repeat(np.arange(20), 10))
    assert bootstrap(shared).std() > 2 * bootstrap(together).std()


def test_pairs_share_their_draws():
    """The same predictions never differ, however wide their own interval is."""
    same = paired_difference([made(1)], [made(1)])
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0, "not_above_zero": 1.0}
    better = paired_difference([made(1, skill=0.5)], [made(2, skill=3.0)])
    assert better["low"] > 0
    assert better["not_above_zero"] == 0.0
