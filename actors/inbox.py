"""What has come of a live call and is not analysed yet: how far each channel got, and whether more may come."""

import asyncio
from collections.abc import Iterable

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.link_protocol import WordsMessage
from bcaf_stream.ingest.live import Degraded, End, Gap, sound
from bcaf_stream.types import AudioChunk

Item = AudioChunk | Gap | WordsMessage | Degraded | End

MOST_QUEUED_MS = 120_000  # of sound: what a sender without credit may be ahead


class Inbox:
    """`received` are samples of each channel, gaps included; `room` says whether the sender may go on."""

    def __init__(self, channels: Iterable[str], rate: int, window_ms: int) -> None:
        self.received = dict.fromkeys(channels, 0)
        self.room = asyncio.Event()
        self.room.set()
        self._queued = dict.fromkeys(self.received, 0)
        self._rate = rate
        self._window_ms = window_ms
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()

    @property
    def queued_ms(self) -> int:
        """Sound that waits to be analysed, or is being analysed; gaps cost nothing."""
        return max(self._queued.values()) * 1000 // self._rate

    @property
    def empty(self) -> bool:
        return self._items.empty()

    def put(self, item: Item) -> None:
        """Take something, without waiting.

        Raises:
            LinkError: far more sound came than can be analysed.
        """
        if isinstance(item, AudioChunk):
            if self.queued_ms > MOST_QUEUED_MS:
                raise LinkError("audio was sent far beyond what can be analysed")
            self._queued[item.channel] += len(item.samples)
            if self.queued_ms > self._window_ms:
                self.room.clear()
        if isinstance(item, AudioChunk | Gap):
            self.received[item.channel] = item.end if isinstance(item, Gap) else sound(item).stop
        self._items.put_nowait(item)

    def wake(self) -> None:
        """End a waiting whose time has changed."""
        self._items.put_nowait(None)

    async def next(self, wait_s: float) -> Item | None:
        """What comes next; None when nothing has come within that time, or somebody woke it."""
        if not self._items.empty():
            return self._items.get_nowait()
        try:
            # Not wait_for: in Python 3.11 it may swallow the cancellation of its caller.
            async with asyncio.timeout(wait_s):
                return await self._items.get()
        except TimeoutError:
            return None

    def done(self, chunk: AudioChunk) -> None:
        """Take note that a chunk is analysed."""
        self._queued[chunk.channel] -= len(chunk.samples)
        if self.queued_ms <= self._window_ms:
            self.room.set()
