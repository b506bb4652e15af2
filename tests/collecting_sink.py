"""A CallSink for tests of servers: it takes calls, keeps their media, and holds every server to its contract."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallOutcome, CallStart, Degraded, Media, MissingSound, TextUpdate, sound
from bcaf_stream.types import AudioChunk, Gap, PcmN, Words


@dataclass
class Collected:
    """One call, over all of its connections; `state` is running, lost or ended."""

    begins: list[CallStart]
    items: list[Media] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    parts: dict[str, list[PcmN]] = field(default_factory=dict)
    state: str = "running"
    reason: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def gaps(self) -> list[Gap]:
        return [item for item in self.items if isinstance(item, Gap)]

    @property
    def missing(self) -> list[MissingSound]:
        return [item for item in self.items if isinstance(item, MissingSound)]

    @property
    def notes(self) -> list[Degraded]:
        return [item for item in self.items if isinstance(item, Degraded)]

    def sound(self, channel: str) -> PcmN:
        """All samples of a channel; what never came is silence."""
        return np.concatenate(self.parts.get(channel) or [np.zeros(0, np.int16)])


class CollectingCall:
    """One connection of a call; what a server gets as its CallHandle."""

    def __init__(self, sink: "CollectingSink", call: Collected) -> None:
        self.id = call.begins[-1].call
        self._sink = sink
        self._call = call
        self._next = {channel.name: 0 for channel in call.begins[-1].channels}

    settled_ms = 0

    @property
    def start(self) -> int:
        return self._call.begins[-1].resume or 0

    @property
    def outcome(self) -> CallOutcome | None:
        return CallOutcome(0, self._call.reason) if self._call.state == "ended" else None

    def accept(self, item: Media) -> None:
        assert self._call.state == "running", "media after the end of its call or connection"
        if isinstance(item, TextUpdate):
            self._call.words += item.words
        elif isinstance(item, Degraded | MissingSound):
            assert item.reason
        else:
            self._listen(item)
        self._call.items.append(item)

    def _listen(self, item: AudioChunk | Gap) -> None:
        begin = self._call.begins[-1]
        if item.channel not in self._next:
            raise LinkError(f"{self.id}: no such channel")
        assert item.start == self._next[item.channel], "a server must give contiguous media"
        if isinstance(item, AudioChunk):
            assert item.rate == begin.rate
            assert item.samples.dtype == np.int16
            samples = item.samples
        else:
            assert item.reason
            samples = np.zeros(item.end - item.start, np.int16)
        assert len(samples) > 0, "an empty chunk or gap"
        self._next[item.channel] = item.end if isinstance(item, Gap) else sound(item).stop
        self._call.parts.setdefault(item.channel, []).append(samples)

    async def room(self) -> None:
        await self._sink.may_read.wait()

    def end(self, reason: str = "complete") -> None:
        self._sink.finish(self.id, reason)

    def lost(self) -> None:
        if self._call.state == "running":
            self._call.state = "lost"
            self._sink.changed.set()

    async def ended(self) -> CallOutcome:
        await self._call.over.wait()
        return CallOutcome(0, self._call.reason)


class CollectingSink:
    """Takes up to `capacity` calls at once; `may_read` cleared makes every server wait for room."""

    def __init__(self, capacity: int = 100) -> None:
        self.calls: dict[str, Collected] = {}
        self.capacity = capacity
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.changed = asyncio.Event()
        self.beside: list[tuple[str, TextUpdate]] = []  # words that came without audio

    async def open(self, begin: CallStart, credit: Callable[[int], None] | None = None) -> CollectingCall:
        known = self.calls.get(begin.call)
        if known and known.state == "running":
            raise LinkError(f"{begin.call}: this call is running already")
        if known and known.state == "lost":
            known.state = "running"
            known.begins.append(begin)
            for channel in begin.channels:
                missed = np.zeros(begin.missed or 0, np.int16)
                known.parts.setdefault(channel.name, []).append(missed)
        else:
            if sum(call.state != "ended" for call in self.calls.values()) >= self.capacity:
                raise BusyError("no more calls can be taken now")
            self.calls[begin.call] = Collected([begin])
        self.changed.set()
        return CollectingCall(self, self.calls[begin.call])

    async def words(self, call: str, message: TextUpdate) -> None:
        if call not in self.calls or self.calls[call].state != "running":
            raise LinkError("no such call is running")
        self.calls[call].words += message.words
        self.beside.append((call, message))

    def finish(self, call: str, reason: str) -> None:
        """The call ends, by its sender or by the sink."""
        found = self.calls[call]
        if found.state != "ended":
            found.state, found.reason = "ended", reason
            found.over.set()
            self.changed.set()

    async def until(self, call: str, state: str, seconds: float = 10.0) -> Collected:
        """Wait until a call is in a state; only a failing test waits that long."""
        async with asyncio.timeout(seconds):
            while call not in self.calls or self.calls[call].state != state:
                self.changed.clear()
                await self.changed.wait()
        return self.calls[call]
