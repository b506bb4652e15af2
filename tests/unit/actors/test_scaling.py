"""How many replicas a pool should have: a table of moments, and a day of calls."""

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.scaling import PoolHistory, PoolLoad, PoolScaling, ScalingConfig, wanted_replicas

CONFIG = ScalingConfig(min=1, max=8, late_ms=300, busy=0.6, up_s=3, down_s=120)
LATE, EASY = PoolHistory(late_since=0.0), PoolHistory(easy_since=0.0)


@pytest.mark.parametrize(
    ("load", "history", "now_s", "replicas"),
    [
        (PoolLoad(2, 0, 50, 0.5), PoolHistory(), 0, 2),  # nothing to do
        (PoolLoad(2, 0, 900, 0.9), PoolHistory(), 0, 2),  # late, for the first time
        (PoolLoad(2, 0, 900, 0.9), LATE, 2.9, 2),
        (PoolLoad(2, 0, 900, 0.9), LATE, 3, 3),
        (PoolLoad(2, 0, 900, 1.0), LATE, 3, 4),  # by as much as the work asks for
        (PoolLoad(5, 0, 900, 1.0), LATE, 3, 8),  # and no more than max
        (PoolLoad(8, 0, 900, 1.0), LATE, 99, 8),
        (PoolLoad(2, 0, 900, 0.1), LATE, 3, 3),  # late without much work: one more, for it may be stuck
        (PoolLoad(2, 1, 900, 0.9), LATE, 3, 3),  # one that is silent is no reason to wait
        (PoolLoad(2, 0, 300, 0.9), LATE, 99, 2),  # late is what is above the limit
        (PoolLoad(4, 0, 50, 0.2), PoolHistory(), 0, 4),  # easy, for the first time
        (PoolLoad(4, 0, 50, 0.2), EASY, 119, 4),
        (PoolLoad(4, 0, 50, 0.2), EASY, 120, 3),  # one at a time
        (PoolLoad(4, 0, 50, 0.46), EASY, 500, 4),  # three would be at work for more than is aimed at
        (PoolLoad(4, 1, 50, 0.2), EASY, 500, 4),  # nobody knows what the silent one does
        (PoolLoad(1, 0, 50, 0.0), EASY, 500, 1),  # min
        (PoolLoad(0, 0, 0, 0.0), PoolHistory(), 0, 1),
        (PoolLoad(9, 0, 50, 0.9), PoolHistory(), 0, 8),
    ],
)
def test_moments(load: PoolLoad, history: PoolHistory, now_s: float, replicas: int):
    assert wanted_replicas(CONFIG, load, history, now_s)[0].replicas == replicas


def test_a_change_begins_the_waiting_anew():
    _, after = wanted_replicas(CONFIG, PoolLoad(4, 0, 50, 0.2), EASY, 120)
    wanted, after = wanted_replicas(CONFIG, PoolLoad(3, 0, 50, 0.25), after, 121)
    assert (wanted.replicas, after.easy_since) == (3, 121)


def test_lateness_that_max_does_not_permit_to_mend_is_said():
    wanted, _ = wanted_replicas(CONFIG, PoolLoad(8, 0, 900, 1.0), LATE, 9)
    assert wanted.reason == "answers are 900 ms late, and max is 8"


def test_min_above_max_is_refused():
    with pytest.raises(ValidationError, match="min: 3 is above max: 2"):
        ScalingConfig(min=3, max=2)


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 3), st.floats(0, 5000), st.floats(0, 1), st.floats(0.1, 90)),
        max_size=40,
    )
)
def test_it_is_always_within_its_bounds(moments: list[tuple[int, int, float, float, float]]):
    history, now_s = PoolHistory(), 0.0
    for replicas, silent, wait_ms, busy, passed_s in moments:
        now_s += passed_s
        wanted, history = wanted_replicas(CONFIG, PoolLoad(replicas, silent, wait_ms, busy), history, now_s)
        assert CONFIG.min <= wanted.replicas <= CONFIG.max
        assert wanted.replicas >= min(replicas, CONFIG.max) - 1


def simulate(work: list[float], start_s: float = 8.0) -> tuple[list[int], list[float]]:
    """`work` is what comes in each second, in seconds of one replica; replicas take `start_s` to start."""
    scaling, replicas, backlog = PoolScaling(CONFIG), 1, 0.0
    at_work = {"0": 0.0}
    starting: deque[float] = deque()
    counts, waits = [], []
    for second, arrived in enumerate(work):
        while starting and starting[0] <= second:
            starting.popleft()
            replicas += 1
        done = min(backlog + arrived, replicas)
        backlog = backlog + arrived - done
        at_work = {str(n): at_work.get(str(n), 0.0) + done / replicas for n in range(replicas)}
        wait_ms = 1000 * backlog / replicas + 80
        wanted = scaling.look(dict(at_work), wait_ms, second).replicas
        if wanted > replicas + len(starting):
            starting.extend([second + start_s] * (wanted - replicas - len(starting)))
        elif wanted < replicas and not starting:
            replicas = wanted  # after a drain, which is not of interest here
        counts.append(replicas)
        waits.append(wait_ms)
    return counts, waits


def test_a_day_of_calls_is_followed_without_flapping():
    morning, noon, evening = [0.4] * 300, [3.0] * 900, [0.4] * 1500
    counts, waits = simulate([*morning, *noon, *evening])
    changes = sum(a != b for a, b in pairwise(counts))
    assert counts[299] == 1
    assert counts[1199] >= 4
    assert max(waits[360:1199]) < CONFIG.late_ms  # a minute after the rush began nobody waits
    assert counts[-1] == 1
    assert changes <= 2 * max(counts)


def test_work_that_goes_up_and_down_is_met_by_one_number():
    counts, _ = simulate([1.0 + (second // 20 % 2) for second in range(1200)])
    settled = counts[700:]
    assert max(settled) - min(settled) <= 1
    assert sum(a != b for a, b in pairwise(settled)) <= 2


def test_an_actor_that_was_started_again_counts_from_nothing():
    scaling = PoolScaling(CONFIG)
    scaling.look({"a": 100.0, "b": 100.0}, 900, 0)
    scaling.look({"a": 101.0, "b": 0.1}, 900, 1)
    assert scaling.look({"a": 104.0, "b": None}, 900, 4).replicas == 4
