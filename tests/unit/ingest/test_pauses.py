"""Pauses of a sender without a clock: what never came is told from what came late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.ingest.pcm_stream import HOLD_MS, PAUSE_MS, Heard, Missing, PauseFinder

MS = 1_000_000
RATE = 8000
SIZE = 160  # samples in a piece of 20 ms


def found(arrivals: list[tuple[int, int]], rate: int = RATE) -> list[Heard | Missing]:
    """What is found in pieces of so many samples that come at these ms; each sample holds its own number."""
    finder, out, sent = PauseFinder(rate), [], 0
    for at_ms, count in arrivals:
        out += finder.push(np.arange(sent, sent + count).astype(np.int16), at_ms * MS)
        sent += count
    return out + finder.flush()


def missing(out: list[Heard | Missing]) -> list[int]:
    return [item.samples for item in out if isinstance(item, Missing)]


def position(out: list[Heard | Missing]) -> int:
    return sum(item.samples if isinstance(item, Missing) else len(item.samples) for item in out)


def speech(first_ms: int, last_ms: int) -> list[tuple[int, int]]:
    return [(at, SIZE) for at in range(first_ms, last_ms, 20)]


def test_eight_seconds_without_a_frame_are_missing():
    out = found([*speech(20, 1020), *speech(9020, 10_020)])
    assert missing(out) == [pytest.approx(8 * RATE - SIZE, abs=SIZE)]
    assert position(out) == pytest.approx(10 * RATE, abs=2 * SIZE)


def test_what_a_network_held_up_is_not_missing():
    late = [(9000, SIZE)] * 400
    out = found([*speech(20, 1020), *late, *speech(9020, 10_020)])
    assert missing(out) == []
    assert position(out) == pytest.approx(10 * RATE, abs=2 * SIZE)


def test_of_a_pause_that_is_caught_up_in_part_the_rest_is_missing():
    out = found([*speech(20, 1020), *[(9000, SIZE)] * 200, *speech(9020, 10_020)])
    assert missing(out) == [pytest.approx(4 * RATE, abs=2 * SIZE)]


def test_short_delays_are_nothing():
    out = found([(at + 400 * (at % 2000 == 0), SIZE) for at in range(20, 20_000, 20)])
    assert missing(out) == []


def test_a_slow_clock_is_no_pause():
    out = found([(int(at * 1.001), SIZE) for at in range(20, 60_000, 20)])
    assert missing(out) == []


def test_nothing_is_held_for_longer_than_it_takes_to_know():
    finder = PauseFinder(RATE)
    assert finder.push(np.zeros(SIZE, np.int16), 0)
    at = 5000
    while not (out := finder.push(np.zeros(SIZE, np.int16), at * MS)):
        at += 20
    assert at - 5000 <= HOLD_MS + 20
    assert isinstance(out[0], Missing)
    assert finder.push(np.zeros(SIZE, np.int16), (at + 20) * MS)


def test_who_was_ahead_has_less_to_miss():
    """Two seconds come at once, then nothing for as long: the clock of the wall has only caught up."""
    out = found([(0, SIZE), *[(20, SIZE)] * 100, *speech(2040, 3000)])
    assert missing(out) == []


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 4000)), min_size=1, max_size=60))
def test_all_sound_comes_out_in_order_and_pauses_add_no_more_than_the_wall(steps: list[tuple[int, int]]):
    at, arrivals = 0, []
    for later, count in steps:
        at += later
        arrivals.append((at, count))
    out = found(arrivals)
    heard = [item for item in out if isinstance(item, Heard)]
    sent = sum(count for _, count in arrivals)
    assert np.concatenate([item.samples for item in heard]).tolist() == np.arange(sent).astype(np.int16).tolist()
    assert all(count > 0 for count in missing(out))
    assert [item.received_at for item in heard] == [at * MS for at, _ in arrivals]
    wall = (arrivals[-1][0] - arrivals[0][0]) * RATE // 1000
    assert sum(missing(out)) <= wall
    if max((later for later, _ in steps[1:]), default=0) <= PAUSE_MS:
        assert not missing(out)
