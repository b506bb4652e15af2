"""Legs of a call that come over connections of their own -> one call of all channels.

A `LegMerger` stands between servers whose connections carry one leg each and the sink. The first leg begins the
call; a leg's place in its time is the wall clock of its first sound, for the protocol has no clock of its own.
What a leg does not send holds up nobody: the call sees that its channel stalls.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

from bcaf_stream import loops
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallOutcome, CallStart, Degraded, Media, MissingSound, TextUpdate, sound
from bcaf_stream.ingest.sink import CallHandle, CallSink
from bcaf_stream.types import AudioChunk, Channel, Gap

TOGETHER_MS = 60  # legs that begin so close to each other begin together
NOT_STARTED = "not started"
LOST = "connection lost"


class LegMerger:
    """A `CallSink` for one-channel connections: those with the same call id are the legs of one call.

    A connection that carries all channels is a call by itself. A call of several ends when the last leg that came
    has ended, and is lost when that one is lost. Until then a leg that has gone may come again.
    """

    def __init__(self, sink: CallSink, channels: Sequence[Channel]) -> None:
        self._sink = sink
        self._channels = tuple(channels)
        self._merged: dict[str, _MergedCall] = {}
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self, begin: CallStart, credit: Callable[[int], None] | None = None) -> CallHandle:
        """Begin a call with its first leg, or let another leg join it.

        Raises:
            BusyError, LinkError: as the sink says; or the leg does not fit the others.
        """
        if len(begin.channels) == len(self._channels):
            return await self._sink.open(begin, credit)
        async with self._opening.setdefault(begin.call, asyncio.Lock()):
            merged = self._merged.get(begin.call)
            if merged is None:
                call = await self._sink.open(replace(begin, channels=self._channels))
                merged = self._merged[begin.call] = _MergedCall(
                    call, begin.rate, lambda: self._forget(begin.call, call)
                )
        return merged.join(begin)

    async def words(self, call: str, message: TextUpdate) -> None:
        await self._sink.words(call, message)

    def _forget(self, name: str, call: CallHandle) -> None:
        merged = self._merged.get(name)
        if merged is not None and merged.call is call:
            del self._merged[name]


class _MergedCall:
    """One call and the legs that it has now."""

    def __init__(self, call: CallHandle, rate: int, forget: Callable[[], None]) -> None:
        self.call = call
        self.rate = rate
        self.forget = forget
        self.ends: dict[str, int] = {}  # how far each channel has come
        self.legs: dict[str, Leg] = {}
        self._origin: int | None = None  # wall clock of the call's sample 0

    def join(self, begin: CallStart) -> "Leg":
        channel = begin.channels[0].name
        if channel in self.legs:
            raise LinkError(f"call {begin.call}: its channel {channel} has a connection already")
        if begin.rate != self.rate:
            raise LinkError(f"call {begin.call}: a leg of {begin.rate} Hz beside one of {self.rate} Hz")
        leg = self.legs[channel] = Leg(self, channel)
        return leg

    def base(self, channel: str, count: int, received_at: int) -> int:
        """Where a leg starts whose first sound has just come; what the channel misses before it is a gap."""
        began_at = received_at - count * 1_000_000_000 // self.rate
        if self._origin is None:
            self._origin = began_at
        end = self.ends.get(channel, 0)
        position = (began_at - self._origin) * self.rate // 1_000_000_000
        if position - end <= TOGETHER_MS * self.rate // 1000:
            return end
        self.call.accept(Gap(channel, end, position, LOST if end else NOT_STARTED))
        return position


class Leg:
    """The `CallHandle` of one connection."""

    def __init__(self, merged: _MergedCall, channel: str) -> None:
        self.id = merged.call.id
        self._merged = merged
        self._channel = channel
        self._base: int | None = None
        self._before: list[Gap] = []  # that came before the first sound
        self._left = asyncio.Event()  # while the others go on

    start = settled_ms = 0  # it cannot send again
    outcome: CallOutcome | None = None

    def accept(self, item: Media) -> None:
        merged = self._merged
        if isinstance(item, TextUpdate | Degraded):
            merged.call.accept(item)
            return
        if isinstance(item, MissingSound):
            base = self._base or 0
            merged.call.accept(replace(item, start=base + item.start, end=base + item.end))
            return
        if self._base is None:
            if isinstance(item, Gap):  # only sound has a time at which it came
                self._before.append(item)
                return
            self._base = merged.base(self._channel, sound(item).stop, item.received_at)
        for waiting in (*self._before, item):
            self._pass_on(self._base, waiting)
        self._before.clear()

    def _pass_on(self, base: int, item: AudioChunk | Gap) -> None:
        start, end = base + item.start, base + (item.end if isinstance(item, Gap) else sound(item).stop)
        moved = replace(item, start=start, end=end) if isinstance(item, Gap) else replace(item, start=start)
        self._merged.call.accept(moved)
        self._merged.ends[self._channel] = end

    async def room(self) -> None:
        await self._merged.call.room()

    def end(self, reason: str = "complete") -> None:
        if self._is_last():
            self._merged.forget()
            self._merged.call.end(reason)

    def lost(self) -> None:
        if self._is_last():
            self._merged.forget()
            self._merged.call.lost()

    async def ended(self) -> CallOutcome:
        async with (
            loops.beside("end of a call", self._merged.call.ended()) as over,
            loops.beside("end of a leg", self._left.wait()) as left,
        ):
            await asyncio.wait({over, left}, return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                return CallOutcome(0, "the other leg goes on")
            self._merged.forget()
            return over.result()

    def _is_last(self) -> bool:
        """Leave; whether nobody is left then."""
        if self._merged.legs.pop(self._channel, None) is None:
            return False
        if self._merged.legs:
            self._left.set()
        return not self._merged.legs
