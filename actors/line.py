"""One connection of a live call: what a door holds of it. A call that lost its connection may get another one."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from actors.inbox import Inbox, Item
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.link_protocol import WordsMessage
from bcaf_stream.ingest.live import Degraded, End, Ended, Gap, Media, sound
from bcaf_stream.types import AudioChunk, Call


class Owner(Protocol):
    """The call behind a connection."""

    call: Call
    rate: int
    inbox: Inbox
    line: "Line | None"  # its present connection
    ended: asyncio.Future[Ended]

    def put(self, item: Item) -> None: ...

    def lose(self) -> None: ...


class Line:
    """A `LiveCall` (see bcaf_stream.ingest.live); `base` is the call's sample that is this connection's first."""

    def __init__(self, session: Owner, base: int, credit: Callable[[int], None] | None) -> None:
        self.id = session.call.id
        self._session = session
        self._base = base
        self._credit = credit
        self._next = dict.fromkeys((channel.name for channel in session.call.channels), 0)

    def accept(self, item: Media) -> None:
        if self._session.line is not self:
            raise LinkError(f"call {self.id} goes on over another connection")
        if isinstance(item, WordsMessage | Degraded):
            self._session.put(item)
            return
        end = item.end if isinstance(item, Gap) else sound(item).stop
        self._check(item, end)
        self._next[item.channel] = end
        if isinstance(item, Gap):
            self._session.put(replace(item, start=item.start + self._base, end=end + self._base))
        else:
            self._session.put(replace(item, start=item.start + self._base))

    async def room(self) -> None:
        await self._session.inbox.room.wait()

    def end(self, reason: str = "complete") -> None:
        if self._session.line is self and not self._session.ended.done():
            self._session.put(End(reason))

    def lost(self) -> None:
        if self._session.line is self:
            self._session.lose()

    async def ended(self) -> Ended:
        return await asyncio.shield(self._session.ended)

    def progressed(self, ms: int) -> None:
        if self._credit:
            self._credit(max(0, ms - self._base * 1000 // self._session.rate))

    def _check(self, item: AudioChunk | Gap, end: int) -> None:
        expected = self._next.get(item.channel)
        if expected is None:
            raise LinkError(f"call {self.id} has no channel {item.channel!r}")
        if item.start != expected or end < item.start:
            raise LinkError(f"audio is not contiguous: sample {expected} expected, {item.start} came")
        if isinstance(item, AudioChunk) and item.rate != self._session.rate:
            raise LinkError(
                f"call {self.id} changed from {self._session.rate} to {item.rate} Hz: start a new call"
            )
