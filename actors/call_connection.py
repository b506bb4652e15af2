"""How media come to a live call: its connection, which an ingest server holds, and what waits behind it."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from prometheus_client import Counter

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallEnd, CallOutcome, Degraded, Media, MissingSound, TextUpdate, sound
from bcaf_stream.transcripts.timeline import LONGEST_WORD
from bcaf_stream.types import AudioChunk, Call, Gap

Item = AudioChunk | Gap | MissingSound | TextUpdate | Degraded | CallEnd

MOST_QUEUED_MS = 120_000  # of sound: what a sender without credit may be ahead
MOST_QUEUED_ITEMS = 50_000
MOST_QUEUED_TEXT = 2_000_000  # characters of live words, and ITEM_CHARS for each item
ITEM_CHARS = 50


class Inbox:
    """What has come of a call and is not taken yet; bounded in everything that a sender can fill.

    `received` are samples of each channel, gaps included.
    """

    def __init__(self, channels: Iterable[str], rate: int) -> None:
        self.received = dict.fromkeys(channels, 0)
        self._waiting = dict.fromkeys(self.received, 0)  # samples of each channel
        self._rate = rate
        self._text = 0
        self.words = 0  # live words that wait
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()

    @property
    def queued_ms(self) -> int:
        """Sound that waits to be taken; gaps cost nothing."""
        return max(self._waiting.values()) * 1000 // self._rate

    @property
    def empty(self) -> bool:
        return self._items.empty()

    def put(self, item: Item) -> None:
        """Take something, without waiting.

        Raises:
            LinkError: far more came than can be analysed.
        """
        if not isinstance(item, CallEnd):
            self._check_room(item)
        if isinstance(item, AudioChunk):
            self._waiting[item.channel] += len(item.samples)
        if isinstance(item, AudioChunk | Gap):
            self.received[item.channel] = item.end if isinstance(item, Gap) else sound(item).stop
        self._count_text(item, 1)
        self._items.put_nowait(item)

    def wake(self) -> None:
        """End a waiting whose time has changed."""
        self._items.put_nowait(None)

    async def next(self, wait_s: float) -> Item | None:
        """What comes next; None when nothing has come within that time, or somebody woke it."""
        if self._items.empty():
            try:
                # Not wait_for: in Python 3.11 it may swallow the cancellation of its caller.
                async with asyncio.timeout(wait_s):
                    item = await self._items.get()
            except TimeoutError:
                return None
        else:
            item = self._items.get_nowait()
        if isinstance(item, AudioChunk):
            self._waiting[item.channel] -= len(item.samples)
        self._count_text(item, -1)
        return item

    def _count_text(self, item: Item | None, sign: int) -> None:
        if isinstance(item, TextUpdate):
            self._text += sign * _text(item)
            self.words += sign * words_in(item)

    def _check_room(self, item: Item) -> None:
        if isinstance(item, AudioChunk) and self.queued_ms > MOST_QUEUED_MS:
            raise LinkError("audio was sent far beyond what can be analysed")
        if isinstance(item, TextUpdate) and self._text + _text(item) > MOST_QUEUED_TEXT:
            raise LinkError("words were sent far beyond what can be paired with the sound")
        if self._items.qsize() > MOST_QUEUED_ITEMS:
            raise LinkError("far more was sent than can be analysed")


def words_in(message: TextUpdate) -> int:
    """Words; one without an end counts as often as it could hold some."""
    return sum(w.text.count(" ") + 1 + len(w.text) // LONGEST_WORD for w in message.words)


def _text(message: TextUpdate) -> int:
    return sum(len(w.text) + ITEM_CHARS for w in message.words)


class Owner(Protocol):
    """The call behind a connection."""

    call: Call
    rate: int
    connection: "CallConnection | None"  # its present one
    ended: asyncio.Future[CallOutcome]
    room: asyncio.Event  # whether enough is worked off for more to be read

    @property
    def settled_ms(self) -> int: ...

    def put(self, item: Item) -> None: ...

    def lose(self) -> None: ...


class CallConnection:
    """A `CallHandle` (see bcaf_stream.ingest.sink); of one connection of a call that may get others.

    Args:
        base: the call's sample that this connection counts as 0.
        start: what it says first, in its own count.
    """

    def __init__(self, session: Owner, base: int, start: int, credit: Callable[[int], None] | None) -> None:
        self.id = session.call.id
        self.start = start
        self._session = session
        self._base = base
        self._credit = credit
        self._analysed_ms = start * 1000 // session.rate
        self.counted: tuple[Counter, Counter] | None = None  # seconds of sound, and of gaps
        self._next = dict.fromkeys((channel.name for channel in session.call.channels), start)

    @property
    def settled_ms(self) -> int:
        return max(0, self._session.settled_ms - self._base_ms)

    @property
    def outcome(self) -> CallOutcome | None:
        return self._session.ended.result() if self._session.ended.done() else None

    def accept(self, item: Media) -> None:
        if self._session.connection is not self:
            raise LinkError(f"call {self.id} goes on over another connection")
        if isinstance(item, TextUpdate | Degraded):
            self._session.put(item)
            return
        if isinstance(item, MissingSound):
            self._check_channel(item.channel)
            start, end = item.start + self._base, item.end + self._base
            self._session.put(replace(item, start=start, end=end, rate=self._session.rate))
            return
        end = item.end if isinstance(item, Gap) else sound(item).stop
        self._check(item, end)
        self._next[item.channel] = end
        if self.counted:
            self.counted[isinstance(item, Gap)].inc((end - item.start) / self._session.rate)
        if isinstance(item, Gap):
            item = replace(item, end=end + self._base, rate=self._session.rate)
        self._session.put(replace(item, start=item.start + self._base))

    async def room(self) -> None:
        await self._session.room.wait()

    def end(self, reason: str = "complete") -> None:
        if self._session.connection is self and not self._session.ended.done():
            self._session.put(CallEnd(reason))

    def lost(self) -> None:
        if self._session.connection is self:
            self._session.lose()

    async def ended(self) -> CallOutcome:
        return await asyncio.shield(self._session.ended)

    def progressed(self, ms: int) -> None:
        """The call is analysed up to there."""
        self._analysed_ms = max(self._analysed_ms, ms - self._base_ms)  # what is given is not taken back
        if self._credit:
            self._credit(self._analysed_ms)

    @property
    def _base_ms(self) -> int:
        return self._base * 1000 // self._session.rate

    def _check(self, item: AudioChunk | Gap, end: int) -> None:
        self._check_channel(item.channel)
        expected = self._next[item.channel]
        if item.start != expected or end < item.start:
            raise LinkError(f"audio is not contiguous: sample {expected} expected, {item.start} came")
        if isinstance(item, AudioChunk) and item.rate != self._session.rate:
            raise LinkError(
                f"call {self.id} changed from {self._session.rate} to {item.rate} Hz: start a new call"
            )

    def _check_channel(self, name: str) -> None:
        if name not in self._next:
            raise LinkError(f"call {self.id} has no channel {name!r}")


class FinishedCall:
    """A `CallHandle` that is over: what a sender is given that resumes it too late."""

    start = settled_ms = 0

    def __init__(self, call: str, outcome: CallOutcome) -> None:
        self.id = call
        self.outcome: CallOutcome | None = outcome
        self._ended = outcome

    def accept(self, item: Media) -> None:
        raise LinkError(f"call {self.id} is over here")

    async def room(self) -> None:
        pass

    def end(self, reason: str = "complete") -> None:
        pass

    def lost(self) -> None:
        pass

    async def ended(self) -> CallOutcome:
        return self._ended
