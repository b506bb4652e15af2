"""One recogniser for all calls of a process: their segments take turns, on a thread of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from actors import metrics
from bcaf_stream.transcripts.asr import Transcriber, Transcription
from bcaf_stream.types import PcmN


class Recognition:
    """Speech recognition takes a good part of a second: meanwhile other calls go on."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recognition")
        self._turn = asyncio.Lock()  # first come, first served
        self.waiting = 0  # segments, with the one that is being recognised

    async def transcribe(self, samples: PcmN, wanted: Callable[[], bool]) -> Transcription | None:
        """The words in mono PCM at SAMPLE_RATE; None where they are not `wanted` any more when it is their turn.

        Raises:
            AsrError: it failed.
        """
        self.waiting += 1
        try:
            async with self._turn:
                if not wanted():
                    return None
                loop = asyncio.get_running_loop()
                with metrics.timed("recognition"):
                    return await loop.run_in_executor(self._thread, self._transcriber.transcribe, samples)
        finally:
            self.waiting -= 1
