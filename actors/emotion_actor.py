"""EmotionActor: the encoders and BCAF on a GPU or CPU, in micro-batches. It keeps no dialogue.

Every request carries its dialogue's state and gets the next one back, so a crash loses nothing: the owner
of the call asks another replica with the same state and gets the same answer. It names the model, too, that it
wants; where the state is another model's, it carries the features of the past in its place.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from actors import metrics, tracing
from actors.batching import BatchConfig
from actors.readiness import NotReadyError
from actors.replica_actor import ReplicaActor
from actors.tracing import Subject, TracingConfig
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig, use_threads
from bcaf_stream.encoders.base import AudioEncoderConfig
from bcaf_stream.encoders.pooling import padding_share
from bcaf_stream.model.bcaf import DialogueState
from bcaf_stream.types import SAMPLE_RATE, EmotionPrediction, Features, Utterance

if TYPE_CHECKING:
    from actors.model_probe import Probe


class Answer(NamedTuple):
    """The emotion, and the dialogue after it: its state, what the utterance was to the model, and how many such a
    state is made of."""

    prediction: EmotionPrediction
    state: DialogueState
    features: Features
    reach: int


class Request(NamedTuple):
    """The next utterance of a dialogue, for `model` (""; any); `past` stands for a state of another model."""

    state: DialogueState | None
    utterance: Utterance
    model: str = ""
    past: tuple[Features, ...] = ()


OFF = TracingConfig()


class EmotionActor(ReplicaActor[EmotionEngine, Request, Answer]):
    """One replica of the engine."""

    def __init__(self, model: ModelConfig, batch: BatchConfig, traced: TracingConfig = OFF) -> None:
        tracing.start(traced)
        self._next: EmotionEngine | None = None  # loaded and probed beside the present one
        self._encoder_batch = (model.audio_encoder or AudioEncoderConfig()).batch
        super().__init__("emotion", partial(_engine, model), _audio_seconds, batch, metrics.EMOTION)

    async def predict(self, request: Request, urgent: bool = True) -> Answer:
        """The emotion of the next utterance of a dialogue, and its features. What is urgent goes first.

        Raises:
            NotReadyError: the model is not loaded yet, or it is another one than is wanted.
            ModelError: the encoders or the model gave numbers that are not finite, or the utterance has nothing
                that the model was trained on.
        """
        return await self._ask(request, urgent)

    async def prepare(self, model: ModelConfig) -> "tuple[dict[str, Any], Probe]":
        """Load other weights beside the present ones, which work on, and judge the demo call by both.

        Raises:
            NotReadyError: there is no present model yet.
            BcafError: why they cannot take over; then nothing has changed.
        """
        self._readiness.check()
        present = self._model
        assert present

        def load() -> "tuple[EmotionEngine, Probe]":
            from actors.model_probe import (
                probe,  # a tenth of a start, which an actor that comes back does not need
            )

            engine = EmotionEngine(model)
            return engine, probe(engine, present)

        engine, found = await asyncio.to_thread(load)
        self._next = engine
        return self._describe(engine), found

    async def swap(self, model_id: str) -> bool:
        """From the next batch on, what was prepared; False where that is not this model. Twice does no harm."""
        if self._next is not None and self._next.model_id == model_id:
            self._model, self._next = self._next, None
            _tell(self._model)
        return self._model is not None and self._model.model_id == model_id

    async def discard(self) -> None:
        """Forget what was prepared."""
        self._next = None

    async def stats(self) -> dict[str, Any]:
        model = {"model": self._model.model_id} if self._model else {}
        return {**await super().stats(), **model}

    def _describe(self, model: EmotionEngine) -> dict[str, Any]:
        return {"model": model.model_id, "modalities": model.modalities, "caveats": model.caveats}

    def _answer(self, model: EmotionEngine, requests: Sequence[Request]) -> list[Answer]:
        for request in requests:
            if request.model not in ("", model.model_id):
                raise NotReadyError(f"the emotion actor has {model.model_id}, and another model is wanted")
        lengths = [_samples(request) for request in requests]
        metrics.batch_audio.observe(sum(lengths) / SAMPLE_RATE)
        metrics.batch_padding.observe(padding_share(lengths, self._encoder_batch))
        subjects: list[Subject] = []
        if tracing.is_on():
            subjects = [Subject(u.call, u.channel, u.index) for u in (request.utterance for request in requests)]
        with metrics.timed("encoding"), tracing.stage("encoding", subjects):
            features = model.encode([request.utterance for request in requests])
        states = [request.state or model.rebuilt_state(request.past) for request in requests]
        with metrics.timed("step"), tracing.stage("step", subjects):
            stepped = zip(*model.step(states, features), features, strict=True)
            return [Answer(*each, model.reach) for each in stepped]


def _engine(model: ModelConfig) -> EmotionEngine:
    use_threads(model)
    engine = EmotionEngine(model)
    _tell(engine)
    return engine


def _tell(engine: EmotionEngine) -> None:
    """Say in the metrics which model judges."""
    name, _, sha256 = engine.model_id.rpartition("-")
    metrics.model_info.clear()
    metrics.model_info.labels(name, sha256).set(1)


def _samples(request: Request) -> int:
    samples = request.utterance.samples
    return 0 if samples is None else len(samples)


def _audio_seconds(request: Request) -> float:
    return _samples(request) / SAMPLE_RATE
