"""What EmotionActor and TranscriberActor share: how they start, work in micro-batches, and are watched."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry

from actors import metrics
from actors.batching import BatchConfig, MicroBatcher
from actors.readiness import Readiness
from bcaf_stream.loops import exit_on_death, faults, spawn_task, watch_event_loop

Model = TypeVar("Model")
Request = TypeVar("Request")
Answer = TypeVar("Answer")


class ReplicaActor(Generic[Model, Request, Answer]):
    """One replica of something that is loaded once, works on one thread and keeps nothing between requests.

    It is made at once, and ready when its model is loaded.

    Args:
        stage: its name in the metrics.
        seconds: the audio seconds of a request.
    """

    def __init__(
        self,
        stage: str,
        load: Callable[[], Model],
        seconds: Callable[[Request], float],
        batch: BatchConfig,
        registry: CollectorRegistry,
    ) -> None:
        exit_on_death()
        watch_event_loop()
        self._stage, self._seconds = stage, seconds
        self._model: Model | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=stage)
        self._batcher: MicroBatcher[Request, Answer] = MicroBatcher(self._run, seconds, batch)
        self._busy_since: float | None = None
        self._worked_s = 0.0  # in batches that are done
        self._readiness = Readiness(f"the {stage} actor")
        self._watch = metrics.Watch(registry, self._look)
        spawn_task(f"{stage} actor start", self._start(load))

    async def ready(self, first: bool = False) -> dict[str, Any]:
        """What the model is, once it is loaded.

        Raises:
            BcafError: with `first`: why it cannot be loaded. Without, it is tried for ever.
        """
        await self._readiness.wait(first)
        assert self._model is not None
        return self._describe(self._model)

    async def busy_s(self) -> float:
        """For how long the batch that runs now has been running; 0.0 where none does."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    async def stats(self) -> dict[str, Any]:
        worked = {"busy_total_s": round(self._worked_s + await self.busy_s(), 3)}
        made = {"batches": self._batcher.batches, "utterances": self._batcher.items}
        return {**self._readiness.stats, **made, **worked, "faults": faults.counts}

    async def metrics(self) -> metrics.Snapshot:
        return self._watch.snapshot()

    async def _ask(self, request: Request, urgent: bool = True) -> Answer:
        """Raises NotReadyError as long as the model is not loaded."""
        self._readiness.check()
        return await self._batcher.submit(request, urgent)

    def _describe(self, model: Model) -> dict[str, Any]:
        raise NotImplementedError

    def _answer(self, model: Model, requests: Sequence[Request]) -> Sequence[Answer]:
        """Answer a batch, on the actor's thread."""
        raise NotImplementedError

    async def _start(self, load: Callable[[], Model]) -> None:
        async def loaded() -> Model:
            return await asyncio.get_running_loop().run_in_executor(self._thread, load)

        self._model = await self._readiness.attempt(loaded)
        self._readiness.done()

    async def _run(self, requests: Sequence[Request]) -> Sequence[Answer | BaseException]:
        self._busy_since = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._answers, requests)
        finally:
            self._worked_s += await self.busy_s()
            self._busy_since = None

    def _answers(self, requests: Sequence[Request]) -> Sequence[Answer | BaseException]:
        assert self._model is not None
        try:
            return self._answer(self._model, requests)
        except Exception as error:
            if len(requests) == 1:
                return [error]
            # A bad one must not spoil its neighbours: ask for each alone.
            return [answer for request in requests for answer in self._answers([request])]

    def _look(self) -> None:
        metrics.queue_depth.labels(self._stage).set(self._batcher.waiting)
