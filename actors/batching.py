"""Micro-batching: single requests in, batches to the engine, each caller gets its own answer.

While one batch runs the next one gathers, so under load the wait costs nothing; idle, it costs `wait_ms`.
What is not urgent goes alone, while nothing urgent waits: it delays an urgent item by one item at most.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.loops import start_task

T = TypeVar("T")
R = TypeVar("R")


class BatchConfig(Config):
    """A batch leaves when it is full by count or by audio, or when its first utterance waited `wait_ms`."""

    max_utterances: int = Field(16, ge=1)
    max_audio_s: float = Field(60.0, gt=0)
    wait_ms: int = Field(5, ge=0)


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
        # They are as long as there are callers waiting, so they need no bounds of their own.
        self._urgent: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._idle: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self.batches = 0
        self.items = 0

    async def submit(self, item: T, urgent: bool = True) -> R:
        """Answer one item."""
        if self._worker is None:
            self._worker = start_task("micro-batches", self._work())
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._idle).append((item, answer))
        self._news.set()
        return await answer

    @property
    def waiting(self) -> int:
        """Items that are in no batch yet."""
        return len(self._urgent) + len(self._idle)

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
        while not self._urgent:
            if self._idle:
                return [self._idle.popleft()]
            self._news.clear()
            await self._news.wait()
        batch = [self._urgent.popleft()]
        audio_s = self._seconds(batch[0][0])
        deadline = asyncio.get_running_loop().time() + self._config.wait_ms / 1000
        while len(batch) < self._config.max_utterances and await self._more_by(deadline):
            audio_s += self._seconds(self._urgent[0][0])
            if audio_s > self._config.max_audio_s:
                break
            batch.append(self._urgent.popleft())
        return batch

    async def _more_by(self, deadline: float) -> bool:
        """Whether another urgent item is there, or comes by then."""
        try:
            async with asyncio.timeout_at(deadline):
                while not self._urgent:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True
