"""Sides of a call over connections of their own: placed by the clock, joined, ended and lost together."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.legs import LegMerger
from bcaf_stream.ingest.media import CallOutcome, CallStart
from bcaf_stream.ingest.sink import CallHandle
from bcaf_stream.types import AudioChunk, Channel, Gap
from tests.collecting_sink import CollectingSink

SIDES = (Channel("customer", "customer"), Channel("agent", "agent"))
MS = 1_000_000
AT = 1_700_000_000_000 * MS
ONE, TWO = np.full(160, 1, np.int16), np.full(160, 2, np.int16)


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(in_time())


def begin(side: int, rate: int = 8000) -> CallStart:
    return CallStart("call 7", (SIDES[side],), rate)


def speak(call: CallHandle, side: int, samples: np.ndarray, number: int, at_ms: int) -> None:
    """Packet `number` of 20 ms of its connection, received at its end."""
    call.accept(AudioChunk(SIDES[side].name, 160 * number, 8000, samples, AT + (at_ms + 20) * MS))


def test_two_sides_are_one_call_and_placed_by_the_clock():
    async def scene() -> None:
        sink = CollectingSink()
        merger = LegMerger(sink, SIDES)
        customer = await merger.open(begin(0))
        for n in range(60):
            speak(customer, 0, ONE, n, 20 * n)
        agent = await merger.open(begin(1))
        for n in range(10):
            speak(agent, 1, TWO, n, 1000 + 20 * n)
        call = sink.calls["call 7"]
        assert call.begins == [CallStart("call 7", SIDES, 8000)]
        assert call.gaps == [Gap("agent", 0, 8000, "not started")]
        assert call.sound("customer").tolist() == [1] * 60 * 160
        assert call.sound("agent").tolist() == [0] * 8000 + [2] * 1600
        customer.end()
        assert await customer.ended() == CallOutcome(0, "the other leg goes on")
        assert call.state == "running"
        agent.end("complete")
        assert await agent.ended() == CallOutcome(0, "complete")
        assert call.state == "ended"

    run(scene)


def test_sides_that_begin_almost_together_begin_together():
    async def scene() -> None:
        sink = CollectingSink()
        merger = LegMerger(sink, SIDES)
        both = await asyncio.gather(merger.open(begin(0)), merger.open(begin(1)))
        speak(both[1], 1, TWO, 0, 0)
        speak(both[0], 0, ONE, 0, 59)
        assert not sink.calls["call 7"].gaps
        assert len(sink.calls) == len(sink.calls["call 7"].begins) == 1

    run(scene)


def test_a_side_that_comes_again_goes_on_where_the_clock_is():
    async def scene() -> None:
        sink = CollectingSink()
        merger = LegMerger(sink, SIDES)
        customer, agent = await merger.open(begin(0)), await merger.open(begin(1))
        speak(agent, 1, TWO, 0, 0)
        speak(customer, 0, ONE, 0, 0)
        customer.lost()
        assert sink.calls["call 7"].state == "running"
        again = await merger.open(begin(0))
        speak(again, 0, ONE, 0, 520)
        assert sink.calls["call 7"].gaps == [Gap("customer", 160, 4160, "connection lost")]
        agent.end()
        again.lost()
        assert sink.calls["call 7"].state == "lost"
        back = await merger.open(begin(0))  # within the grace time of the call
        speak(back, 0, ONE, 0, 2000)
        assert len(sink.calls["call 7"].begins) == 2
        assert sink.calls["call 7"].state == "running"

    run(scene)


def test_the_sink_ends_the_call_for_all_sides():
    async def scene() -> None:
        sink = CollectingSink()
        merger = LegMerger(sink, SIDES)
        sides = await merger.open(begin(0)), await merger.open(begin(1))
        sink.finish("call 7", "overload")
        assert [await side.ended() for side in sides] == [CallOutcome(0, "overload")] * 2
        for side in sides:
            side.end()
        assert (await merger.open(begin(0))).id == "call 7"  # another call: the last one is forgotten
        assert len(sink.calls) == 1

    run(scene)


def test_a_side_that_does_not_fit():
    async def scene() -> None:
        merger = LegMerger(CollectingSink(), SIDES)
        await merger.open(begin(0))
        with pytest.raises(LinkError, match="customer has a connection already"):
            await merger.open(begin(0))
        with pytest.raises(LinkError, match="a leg of 16000 Hz beside one of 8000 Hz"):
            await merger.open(begin(1, rate=16_000))

    run(scene)


def test_busy_is_said_to_each_side_and_nothing_is_kept():
    async def scene() -> None:
        sink = CollectingSink(capacity=0)
        merger = LegMerger(sink, SIDES)
        for side in (0, 1):
            with pytest.raises(BusyError):
                await merger.open(begin(side))
        sink.capacity = 1
        await merger.open(begin(1))

    run(scene)
