"""Looks at utterances that are still going on: when they are due, one at a time, and never one too late."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.types import SpeechSegment, Utterance

Look = Callable[[SpeechSegment, int], Awaitable[None]]


class Looks:
    """Calls `look` with an open segment and the number of the look, every `every_ms` of it; 0: never.

    A channel is looked at once at a time: where the model is slower than the speaker, looks are left out.
    """

    def __init__(self, every_ms: int, look: Look) -> None:
        self._every_ms = every_ms
        self._look = look
        self._number: dict[str, int] = defaultdict(int)  # of the last look that was due, by channel
        self._closed: dict[str, int] = {}  # index of the last segment that was closed
        self._running: dict[str, asyncio.Task[None]] = {}

    def at(self, cutter: CallCutter, channel: str) -> None:
        """Take note that the channel has got further."""
        if not self._every_ms:
            return
        number = cutter.open_ms(channel) // self._every_ms
        due = number > self._number[channel]
        self._number[channel] = number
        if due and channel not in self._running:
            segment = cutter.so_far(channel)
            assert segment is not None
            self._running[channel] = task = asyncio.ensure_future(self._look(segment, number))
            task.add_done_callback(lambda _: self._running.pop(channel, None))

    def closed(self, segment: SpeechSegment) -> None:
        """Take note that the segment is finished: nothing is said of it any more by a look."""
        self._closed[segment.channel] = segment.index

    def is_closed(self, utterance: Utterance) -> bool:
        return utterance.index <= self._closed.get(utterance.channel, -1)

    async def close(self) -> None:
        """Give up the looks that are running."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
