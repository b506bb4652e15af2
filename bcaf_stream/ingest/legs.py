"""Sides of a call that come over connections of their own -> one call of all channels.

A `LegMerger` stands between servers whose connections carry one leg each and the sink. The first leg begins the
call; a side's place in its time is the wall clock of its first sound, for the protocol has no clock of its own.
What a side does not send holds up nobody: the house sees that its channel stalls.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

from bcaf_stream import loops
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallOutcome, CallStart, Degraded, Media, TextUpdate, sound
from bcaf_stream.ingest.sink import CallHandle, CallSink
from bcaf_stream.types import AudioChunk, Channel, Gap

TOGETHER_MS = 60  # sides that begin so close to each other begin together
NOT_STARTED = "not started"
LOST = "connection lost"


class LegMerger:
    """A `CallSink` for one-channel connections: those with the same call id are the sides of one call.

    A connection that carries all channels is a call by itself. A call of several ends when the last side that came
    has ended, and is lost when that one is lost. Until then a side that has gone may come again.
    """

    def __init__(self, host: CallSink, channels: Sequence[Channel]) -> None:
        self._host = host
        self._channels = tuple(channels)
        self._joints: dict[str, _Joint] = {}
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self, begin: CallStart, credit: Callable[[int], None] | None = None) -> CallHandle:
        """Begin a call with its first side, or let another side join it.

        Raises:
            BusyError, LinkError: as the house says; or the side does not fit the others.
        """
        if len(begin.channels) == len(self._channels):
            return await self._host.open(begin, credit)
        async with self._opening.setdefault(begin.call, asyncio.Lock()):
            joint = self._joints.get(begin.call)
            if joint is None:
                call = await self._host.open(replace(begin, channels=self._channels))
                joint = self._joints[begin.call] = _Joint(call, begin.rate, lambda: self._forget(begin.call, call))
        return joint.join(begin)

    async def words(self, call: str, message: TextUpdate) -> None:
        await self._host.words(call, message)

    def _forget(self, name: str, call: CallHandle) -> None:
        joint = self._joints.get(name)
        if joint is not None and joint.call is call:
            del self._joints[name]


class _Joint:
    """One call and the sides that it has now."""

    def __init__(self, call: CallHandle, rate: int, forget: Callable[[], None]) -> None:
        self.call = call
        self.rate = rate
        self.forget = forget
        self.ends: dict[str, int] = {}  # how far each channel has come
        self.sides: dict[str, _Side] = {}
        self._origin: int | None = None  # wall clock of the call's sample 0

    def join(self, begin: CallStart) -> "_Side":
        channel = begin.channels[0].name
        if channel in self.sides:
            raise LinkError(f"call {begin.call}: its channel {channel} has a connection already")
        if begin.rate != self.rate:
            raise LinkError(f"call {begin.call}: a side of {begin.rate} Hz beside one of {self.rate} Hz")
        side = self.sides[channel] = _Side(self, channel)
        return side

    def base(self, channel: str, count: int, received_at: int) -> int:
        """Where a side starts whose first sound has just come; what the channel misses before it is a gap."""
        began_at = received_at - count * 1_000_000_000 // self.rate
        if self._origin is None:
            self._origin = began_at
        end = self.ends.get(channel, 0)
        position = (began_at - self._origin) * self.rate // 1_000_000_000
        if position - end <= TOGETHER_MS * self.rate // 1000:
            return end
        self.call.accept(Gap(channel, end, position, LOST if end else NOT_STARTED))
        return position


class _Side:
    """The `CallHandle` of one connection."""

    def __init__(self, joint: _Joint, channel: str) -> None:
        self.id = joint.call.id
        self._joint = joint
        self._channel = channel
        self._base: int | None = None
        self._before: list[Gap] = []  # that came before the first sound
        self._left = asyncio.Event()  # while the others go on

    start = settled_ms = 0  # it cannot send again
    outcome: CallOutcome | None = None

    def accept(self, item: Media) -> None:
        joint = self._joint
        if isinstance(item, TextUpdate | Degraded):
            joint.call.accept(item)
            return
        if self._base is None:
            if isinstance(item, Gap):  # only sound has a time at which it came
                self._before.append(item)
                return
            self._base = joint.base(self._channel, sound(item).stop, item.received_at)
        for waiting in (*self._before, item):
            self._pass_on(self._base, waiting)
        self._before.clear()

    def _pass_on(self, base: int, item: AudioChunk | Gap) -> None:
        start, end = base + item.start, base + (item.end if isinstance(item, Gap) else sound(item).stop)
        moved = replace(item, start=start, end=end) if isinstance(item, Gap) else replace(item, start=start)
        self._joint.call.accept(moved)
        self._joint.ends[self._channel] = end

    async def room(self) -> None:
        await self._joint.call.room()

    def end(self, reason: str = "complete") -> None:
        if self._is_last():
            self._joint.forget()
            self._joint.call.end(reason)

    def lost(self) -> None:
        if self._is_last():
            self._joint.forget()
            self._joint.call.lost()

    async def ended(self) -> CallOutcome:
        async with (
            loops.beside("end of a call", self._joint.call.ended()) as over,
            loops.beside("end of a side", self._left.wait()) as left,
        ):
            await asyncio.wait({over, left}, return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                return CallOutcome(0, "the other side goes on")
            self._joint.forget()
            return over.result()

    def _is_last(self) -> bool:
        """Leave; whether nobody is left then."""
        if self._joint.sides.pop(self._channel, None) is None:
            return False
        if self._joint.sides:
            self._left.set()
        return not self._joint.sides
