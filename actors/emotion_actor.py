"""EmotionActor: the encoders and BCAF on a GPU or CPU, in micro-batches. It keeps no dialogue.

Every request carries its dialogue's state and gets the next one back, so a crash loses nothing: the owner
of the call asks another replica with the same state and gets the same answer.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actors import metrics
from actors.batching import MicroBatcher
from actors.config import BatchConfig
from actors.readiness import Readiness
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig, use_threads
from bcaf_stream.encoders.base import AudioEncoderConfig
from bcaf_stream.encoders.pooling import padding_share
from bcaf_stream.loops import exit_on_death, faults, spawn_task, watch_event_loop
from bcaf_stream.model.bcaf import DialogueState
from bcaf_stream.types import SAMPLE_RATE, EmotionPrediction, Utterance

Request = tuple[DialogueState | None, Utterance]
Answer = tuple[EmotionPrediction, DialogueState]


class EmotionActor:
    """One replica of the engine. It is made at once, and ready when its checkpoint is loaded."""

    def __init__(self, model: ModelConfig, batch: BatchConfig) -> None:
        exit_on_death()
        watch_event_loop()
        self._engine: EmotionEngine | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._batcher: MicroBatcher[Request, Answer] = MicroBatcher(self._run, _audio_seconds, batch)
        self._encoder_batch = (model.audio_encoder or AudioEncoderConfig()).batch
        self._busy_since: float | None = None
        self._readiness = Readiness("the emotion actor")
        self._watch = metrics.Watch(metrics.EMOTION, self._look)
        spawn_task("emotion actor start", self._start(model))

    async def ready(self, first: bool = False) -> dict[str, Any]:
        """What the model is, once it is loaded.

        Raises:
            BcafError: with `first`: why it cannot be loaded. Without, it is tried for ever.
        """
        await self._readiness.wait(first)
        assert self._engine
        engine = self._engine
        return {"model": engine.model_id, "modalities": engine.modalities, "caveats": engine.caveats}

    async def predict(self, state: DialogueState | None, utterance: Utterance, urgent: bool = True) -> Answer:
        """The emotion of the next utterance of a dialogue; `state` None begins one. What is urgent goes first.

        Raises:
            NotReadyError: the model is not loaded yet.
            ModelError: the encoders or the model gave numbers that are not finite, or the utterance has nothing
                that the model was trained on.
        """
        self._readiness.check()
        return await self._batcher.submit((state, utterance), urgent)

    async def busy_s(self) -> float:
        """For how long the batch that runs now has been running; 0.0 where none does."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    async def stats(self) -> dict[str, Any]:
        made = {"batches": self._batcher.batches, "utterances": self._batcher.items}
        return {**self._readiness.stats, **made, "faults": faults.counts}

    async def metrics(self) -> metrics.Snapshot:
        return self._watch.snapshot()

    def _look(self) -> None:
        metrics.queue_depth.labels("emotion").set(self._batcher.waiting)

    async def _start(self, model: ModelConfig) -> None:
        async def load() -> EmotionEngine:
            return await asyncio.get_running_loop().run_in_executor(self._thread, _engine, model)

        self._engine = await self._readiness.attempt(load)
        name, _, sha256 = self._engine.model_id.rpartition("-")
        metrics.model_info.labels(name, sha256).set(1)
        self._readiness.done()

    async def _run(self, requests: Sequence[Request]) -> Sequence[Answer | BaseException]:
        self._busy_since = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, requests)
        finally:
            self._busy_since = None

    def _answer(self, requests: Sequence[Request]) -> list[Answer | BaseException]:
        assert self._engine
        try:
            lengths = [_samples(request) for request in requests]
            metrics.batch_audio.observe(sum(lengths) / SAMPLE_RATE)
            metrics.batch_padding.observe(padding_share(lengths, self._encoder_batch))
            with metrics.timed("encoding"):
                features = self._engine.encode([utterance for _, utterance in requests])
            states = [state if state is not None else self._engine.initial_state() for state, _ in requests]
            with metrics.timed("step"):
                return list(zip(*self._engine.step(states, features), strict=True))
        except Exception as error:
            if len(requests) == 1:
                return [error]
            # One bad utterance must not spoil its neighbours: ask for each alone.
            return [answer for request in requests for answer in self._answer([request])]


def _engine(model: ModelConfig) -> EmotionEngine:
    use_threads(model)
    return EmotionEngine(model)


def _samples(request: Request) -> int:
    samples = request[1].samples
    return 0 if samples is None else len(samples)


def _audio_seconds(request: Request) -> float:
    return _samples(request) / SAMPLE_RATE
