"""The pure machine between time stamps and samples: nothing is lost, and stream time follows the stamps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.audio.track_clock import LOOK_S, Silence, TrackClock

RATE = 8000
PACKET = 160


def blocks(count, first=1):
    """Blocks that can be told from silence and from each other's order."""
    return [np.full((1, PACKET), first + number, np.int16) for number in range(count)]


def place(stamps, zero_s=0.0):
    """What the clock gives for a block of 20 ms at each of these times, and the clock."""
    clock = TrackClock(RATE, zero_s)
    out = [
        item for stamp, block in zip(stamps, blocks(len(stamps)), strict=True) for item in clock.push(stamp, block)
    ]
    return [*out, *clock.flush()], clock


def silences(items):
    return [item for item in items if isinstance(item, Silence)]


def sound(items):
    return np.concatenate([item[0] for item in items if not isinstance(item, Silence)])


def steady(count, start=0.0):
    return [start + number * PACKET / RATE for number in range(count)]


def test_steady_stamps_change_nothing():
    items, clock = place(steady(500))
    assert not silences(items)
    np.testing.assert_array_equal(sound(items), np.concatenate(blocks(500), axis=1)[0])
    assert clock.position == 500 * PACKET


def test_no_stamps_follow_each_other():
    items, _ = place([None] * 50)
    assert not silences(items)


def test_the_first_stamp_is_the_beginning_of_the_track():
    items, _ = place(steady(400, 3.87))
    assert silences(items) == [Silence(round(3.87 * RATE), late=True)]


def test_without_a_zero_the_first_stamp_is_zero():
    items, _ = place(steady(400, 3.87), zero_s=None)
    assert not silences(items)


def test_a_hole_is_silence_in_its_place():
    items, clock = place(steady(100) + steady(400, 5.0))
    assert silences(items) == [Silence(3 * RATE)]
    assert isinstance(items[100], Silence)
    assert clock.position == 100 * PACKET + 3 * RATE + 400 * PACKET


def test_one_mad_stamp_is_no_hole():
    for mad in (0.0, 999.0, 1e7):
        stamps = steady(600)
        stamps[300] = mad
        items, clock = place(stamps)
        assert not silences(items)
        assert not clock.restarts


def test_a_stall_that_is_made_up_for_is_no_hole():
    stamps = steady(600)
    stamps[200:300] = [6.0 + 0.0001 * number for number in range(100)]
    items, _ = place(stamps)
    assert not silences(items)


def test_a_clock_that_starts_anew_loses_nothing():
    items, clock = place(steady(100, 50.0) + steady(300), zero_s=None)
    assert not silences(items)
    assert clock.restarts == [100 * PACKET]
    np.testing.assert_array_equal(sound(items), np.concatenate(blocks(400), axis=1)[0])


def test_a_leap_of_a_day_is_a_new_clock():
    items, clock = place(steady(100) + steady(300, 86_400.0))
    assert not silences(items)
    assert len(clock.restarts) == 1


def test_a_second_file_follows_the_first():
    clock = TrackClock(RATE)
    first = [
        item for stamp, block in zip(steady(50), blocks(50), strict=True) for item in clock.push(stamp, block)
    ]
    first += clock.flush()
    clock.restart()
    second = [i for stamp, b in zip(steady(50, 7.7), blocks(50), strict=True) for i in clock.push(stamp, b)]
    assert not silences(first + second + clock.flush())
    assert clock.position == 100 * PACKET


@given(st.lists(st.integers(-40, 400), min_size=1, max_size=120))
def test_every_sample_is_given_out_in_order_and_what_waits_is_bounded(steps):
    """Stamps that wander anyhow, in ms from one to the next beside the 20 of a packet."""
    clock, stamp, given_out = TrackClock(RATE), 0.0, []
    taken, most = 0, (LOOK_S[1] + 0.02) * RATE  # samples
    for step, block in zip(steps, blocks(len(steps)), strict=True):
        stamp += (20 + step) / 1000
        given_out += clock.push(stamp, block)
        taken += PACKET
        assert taken - sum(item.shape[1] for item in given_out if not isinstance(item, Silence)) <= most
    given_out += clock.flush()
    order = sound(given_out)
    assert (np.diff(order) >= 0).all()
    assert set(np.unique(order)) == set(range(1, len(steps) + 1))
    assert clock.position == sum(i.samples if isinstance(i, Silence) else i.shape[1] for i in given_out)


@given(st.integers(-2000, 2000), st.integers(0, 2))
def test_drift_never_adds_up(ppm, rounding_ms):
    """However long it lasts: what is given out ends within 30 ms of where the stamps end."""
    stretch = 1 + ppm / 1e6
    stamps = [stamp * stretch for stamp in steady(3000)]
    if rounding_ms:
        stamps = [round(stamp * 1000 / rounding_ms) * rounding_ms / 1000 for stamp in stamps]
    items, clock = place(stamps)
    assert abs(clock.position / RATE - 60 * stretch) < 0.03
    assert not silences(items)
