"""Speech recognition for all calls of a process: whose turn it is, and who does it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from actors import metrics
from bcaf_stream.transcripts.transcriber import Transcriber, Transcription
from bcaf_stream.types import PcmN

Hear = Callable[[PcmN], Awaitable[Transcription]]


class Recognition:
    """Segments take turns, first come, first served; those that are heard again come after all others.

    Args:
        hear: the words in mono PCM at SAMPLE_RATE; raises AsrError where it fails.
        at_once: how many segments may be with it.
    """

    def __init__(self, hear: Hear, at_once: int = 1) -> None:
        self._hear = hear
        self._free = at_once
        # As long as there are segments of running calls, each of which is bounded.
        self._fresh: deque[asyncio.Future[None]] = deque()
        self._again: deque[asyncio.Future[None]] = deque()
        self.waiting = 0  # segments, with those that are being recognised

    async def transcribe(
        self, samples: PcmN, wanted: Callable[[], bool], again: bool = False
    ) -> Transcription | None:
        """The words of a segment; None where they are not `wanted` any more when it is their turn.

        Raises:
            BcafError: recognition failed, or nobody there could do it.
        """
        self.waiting += 1
        try:
            async with self._turn(self._again if again else self._fresh):
                if not wanted():
                    return None
                with metrics.timed("recognition"):
                    return await self._hear(samples)
        finally:
            self.waiting -= 1

    @asynccontextmanager
    async def _turn(self, queue: deque[asyncio.Future[None]]) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue.append(mine)
            try:
                await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled():
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        for queue in (self._fresh, self._again):
            while queue:
                following = queue.popleft()
                if not following.done():
                    following.set_result(None)
                    return
        self._free += 1


def on_thread(transcriber: Transcriber) -> Hear:
    """Recognition takes a good part of a second: on a thread of its own, other calls go on meanwhile."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="recognition")

    async def hear(samples: PcmN) -> Transcription:
        return await asyncio.get_running_loop().run_in_executor(thread, transcriber.transcribe, samples)

    return hear
