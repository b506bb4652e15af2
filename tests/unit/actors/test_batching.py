"""Micro-batches: bounded by count and audio, every caller gets its own answer, a failure hits its own caller."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.batching import BatchConfig, MicroBatcher
from tests.waiting import eventually


class Engine:
    """Doubles numbers; remembers its batches; refuses negative numbers."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, items: Sequence[int]) -> list[int | BaseException]:
        self.batches.append(list(items))
        await self.gate.wait()
        return [ValueError(item) if item < 0 else 2 * item for item in items]


async def answers(items: list[int], engine: Engine, **config: float) -> list[int | BaseException]:
    batcher = MicroBatcher(engine.run, lambda item: abs(item) / 10, BatchConfig(**config))
    try:
        return await asyncio.gather(*(batcher.submit(item) for item in items), return_exceptions=True)
    finally:
        batcher.close()


def test_each_caller_gets_its_own_answer_in_batches_of_the_right_size():
    async def check() -> None:
        engine = Engine()
        assert await answers(list(range(10)), engine, max_utterances=4) == [2 * i for i in range(10)]
        assert [len(batch) for batch in engine.batches] == [4, 4, 2]

    asyncio.run(check())


def test_audio_seconds_bound_a_batch_and_a_single_long_one_still_goes():
    async def check() -> None:
        engine = Engine()
        await answers([5, 5, 5, 99, 1], engine, max_audio_s=1.0)
        assert engine.batches == [[5, 5], [5], [99], [1]]

    asyncio.run(check())


def test_a_failure_reaches_its_own_caller_only():
    async def check() -> None:
        first, bad, last = await answers([1, -1, 3], Engine())
        assert (first, last) == (2, 6)
        assert isinstance(bad, ValueError)

    asyncio.run(check())


def test_a_cancelled_caller_does_not_stop_the_others():
    async def check() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = MicroBatcher(engine.run, lambda item: 0.0, BatchConfig())
        gone = asyncio.create_task(batcher.submit(1))
        stays = asyncio.create_task(batcher.submit(2))
        while not engine.batches:
            await asyncio.sleep(0)
        gone.cancel()
        engine.gate.set()
        assert await stays == 4
        with pytest.raises(asyncio.CancelledError):
            await gone
        batcher.close()

    asyncio.run(check())


def test_what_is_not_urgent_goes_alone_and_last():
    async def check() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = MicroBatcher(engine.run, lambda item: 0.0, BatchConfig(wait_ms=0))
        first = asyncio.create_task(batcher.submit(1, urgent=False))
        await eventually(lambda: engine.batches)  # it runs
        later = [asyncio.create_task(batcher.submit(n, urgent=n > 3)) for n in range(2, 6)]
        await asyncio.sleep(0)  # each has begun
        engine.gate.set()
        assert await asyncio.gather(first, *later) == [2, 4, 6, 8, 10]
        assert engine.batches == [[1], [4, 5], [2], [3]]
        batcher.close()

    asyncio.run(check())
