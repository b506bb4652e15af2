"""The jitter buffer by itself: order, loss, duplicates, wrap-around, delay and bounds, whatever comes."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.ingest.jitter import (
    MAX_MISORDER,
    Arrival,
    BufferedPacket,
    JitterBuffer,
    JitterPolicy,
    unwrapped,
)

DEEP = JitterPolicy(max_packets=10_000)
SIZE = 160  # samples in a packet


def packet(number: int, received_at: int = 0, numbered: bool = True) -> BufferedPacket[int]:
    return BufferedPacket(number, number * SIZE, SIZE, number, received_at, numbered)


def popped(buffer: JitterBuffer[int], **waits: int | bool) -> list[tuple[int, int]]:
    out = []
    while found := buffer.pop(**waits):  # type: ignore[arg-type]
        out.append((found[0].payload, found[1]))
    return out


@given(st.permutations(range(30)))
def test_without_loss_everything_comes_out_once_in_order_however_it_came(order: list[int]):
    buffer, out = JitterBuffer[int](DEEP, first=0), []
    for number in order:
        assert buffer.push(packet(number)) is Arrival.NEW
        out += popped(buffer)
    assert out == [(number, 0) for number in range(30)]
    assert not len(buffer)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=120),
    st.integers(1, 8),
    st.sampled_from([None, 0]),
)
def test_with_loss_and_duplicates_each_number_is_heard_once_or_given_up(
    arrivals: list[int], depth: int, first: int | None
):
    buffer, out, fates = JitterBuffer[int](JitterPolicy(max_packets=depth), first), [], []
    for number in arrivals:
        fates.append((number, buffer.push(packet(number))))
        out += popped(buffer)
        assert len(buffer) < depth
    out += popped(buffer, drain=True)
    heard = [number for number, _ in out]
    assert heard == sorted(set(heard))
    assert sorted(number for number, fate in fates if fate is Arrival.NEW) == heard
    start = heard[0] if first is None else first
    assert sum(lost for _, lost in out) == heard[-1] + 1 - start - len(heard)
    late = [number for number, fate in fates if fate is Arrival.LATE]
    assert len(late) == len(set(late)), "only once: after that it is a duplicate"
    assert not set(late) & set(heard)


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32))
def test_numbers_of_the_wire_are_unwrapped_to_the_nearest(start: int, clock: int, seed: int):
    dice, near, near_clock = random.Random(seed), start, clock
    for number in range(start, start + 400):
        shuffled = number + dice.randrange(-20, 21)
        assert unwrapped(shuffled % 2**16, near, 16) == shuffled
        assert unwrapped((clock + shuffled * SIZE) % 2**32, near_clock, 32) == clock + shuffled * SIZE
        near, near_clock = max(near, shuffled), clock + max(near, shuffled) * SIZE


@given(st.permutations(range(65_530, 65_545)))
def test_order_goes_on_when_the_numbers_of_the_wire_begin_again(order: list[int]):
    buffer, newest, out = JitterBuffer[int](DEEP), order[0], []
    for number in order:
        whole = unwrapped(number % 2**16, newest, 16)
        newest = max(newest, whole)
        buffer.push(packet(whole))
    out = popped(buffer, drain=True)
    assert [number for number, _ in out] == sorted(order)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), min_size=1, max_size=80), st.integers(0, 50))
def test_nothing_waits_for_longer_than_the_policy_says(steps: list[tuple[int, int]], delay: int):
    buffer, now = JitterBuffer[int](JitterPolicy(10_000, max_delay_ns=delay), first=0), 0
    for number, later in steps:
        now += later
        buffer.push(packet(number, now))
        popped(buffer, now=now)
        first = buffer.first
        assert first is None or now - first.received_at < delay


@given(st.sets(st.integers(0, 200), min_size=1, max_size=60), st.integers(1, 20))
def test_nothing_waits_behind_a_longer_span_than_the_policy_says(numbers: set[int], packets: int):
    buffer = JitterBuffer[int](JitterPolicy(10_000, max_span=packets * SIZE), first=0)
    for number in sorted(numbers):
        buffer.push(packet(number))
        popped(buffer)
        assert not len(buffer) or number - next(iter(buffer)).sequence < packets


def test_what_lies_before_a_timestamp_that_others_have_reached_waits_no_more():
    buffer = JitterBuffer[int](DEEP, first=0)
    for number in (2, 3, 7):
        buffer.push(packet(number))
    assert popped(buffer, upto=2 * SIZE - 1) == []
    assert popped(buffer, upto=2 * SIZE) == [(2, 2), (3, 0)]
    assert buffer.push(packet(1)) is Arrival.LATE
    assert buffer.push(packet(1)) is Arrival.DUPLICATE
    assert popped(buffer, upto=6 * SIZE) == []


def test_order_without_numbers_never_continues_by_itself():
    buffer = JitterBuffer[int](DEEP, first=0)
    buffer.push(packet(0, numbered=False))
    assert popped(buffer) == []
    assert popped(buffer, upto=0) == [(0, 0)]


@pytest.mark.parametrize("stride", [1, 2, 50_000_000])
def test_memory_is_bounded_whatever_numbers_come(stride: int):
    """Holes of any size, between two numbers or for ever: what is remembered of them does not grow."""
    buffer = JitterBuffer[int](JitterPolicy(max_packets=50, max_samples=20 * SIZE))

    def flood(start: int) -> None:
        for number in range(start, start + 5000):
            buffer.push(packet(number * stride + 1))
            popped(buffer)
            assert len(buffer) <= 20

    flood(0)
    tracemalloc.start()
    try:
        flood(5000)
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
    newest = 10_000 * stride
    assert buffer.push(packet(newest - stride * 9000)) is Arrival.DUPLICATE  # too old to be known as given up
    assert stride * 9000 > MAX_MISORDER
