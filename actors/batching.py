"""Micro-batching: single requests in, batches to the engine, each caller gets its own answer.

While one batch runs the next one gathers, so under load the wait costs nothing; idle, it costs `wait_ms`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from actors.config import BatchConfig

T = TypeVar("T")
R = TypeVar("R")


class MicroBatcher(Generic[T, R]):
    """Gathers items by count, audio seconds and time.

    Args:
        run: answers a batch in order; an exception in the list is raised to that item's caller alone.
        seconds: the audio seconds of an item.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R | BaseException]]],
        seconds: Callable[[T], float],
        config: BatchConfig,
    ) -> None:
        self._run = run
        self._seconds = seconds
        self._config = config
        self._queue: asyncio.Queue[tuple[T, asyncio.Future[R]]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._held: tuple[T, asyncio.Future[R]] | None = None
        self.batches = 0
        self.items = 0

    async def submit(self, item: T) -> R:
        """Answer one item. The queue is as long as there are callers waiting, so it needs no bound of its own."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, answer))
        return await answer

    def close(self) -> None:
        if self._worker:
            self._worker.cancel()

    async def _work(self) -> None:
        while True:
            batch = await self._gather()
            self.batches += 1
            self.items += len(batch)
            answers: Sequence[R | BaseException]
            try:
                answers = await self._run([item for item, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue  # its caller was cancelled
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _gather(self) -> list[tuple[T, asyncio.Future[R]]]:
        first = self._held or await self._queue.get()
        self._held = None
        batch, audio_s = [first], self._seconds(first[0])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.wait_ms / 1000
        while len(batch) < self._config.max_utterances:
            try:
                if self._queue.empty():
                    entry = await asyncio.wait_for(self._queue.get(), deadline - loop.time())
                else:
                    entry = self._queue.get_nowait()
            except TimeoutError:
                break
            audio_s += self._seconds(entry[0])
            if audio_s > self._config.max_audio_s:
                self._held = entry  # first of the next batch
                break
            batch.append(entry)
        return batch
