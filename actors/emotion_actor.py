"""EmotionActor: the encoders and BCAF on a GPU or CPU, in micro-batches. It keeps no dialogue.

Every request carries its dialogue's state and gets the next one back, so a crash loses nothing: the owner
of the call asks another replica with the same state and gets the same answer.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from actors import metrics
from actors.config import BatchConfig
from actors.replica_actor import ReplicaActor
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig, use_threads
from bcaf_stream.encoders.base import AudioEncoderConfig
from bcaf_stream.encoders.pooling import padding_share
from bcaf_stream.model.bcaf import DialogueState
from bcaf_stream.types import SAMPLE_RATE, EmotionPrediction, Utterance

Request = tuple[DialogueState | None, Utterance]
Answer = tuple[EmotionPrediction, DialogueState]


class EmotionActor(ReplicaActor[EmotionEngine, Request, Answer]):
    """One replica of the engine."""

    def __init__(self, model: ModelConfig, batch: BatchConfig) -> None:
        self._encoder_batch = (model.audio_encoder or AudioEncoderConfig()).batch
        super().__init__("emotion", partial(_engine, model), _audio_seconds, batch, metrics.EMOTION)

    async def predict(self, state: DialogueState | None, utterance: Utterance, urgent: bool = True) -> Answer:
        """The emotion of the next utterance of a dialogue; `state` None begins one. What is urgent goes first.

        Raises:
            NotReadyError: the model is not loaded yet.
            ModelError: the encoders or the model gave numbers that are not finite, or the utterance has nothing
                that the model was trained on.
        """
        return await self._ask((state, utterance), urgent)

    def _describe(self, model: EmotionEngine) -> dict[str, Any]:
        return {"model": model.model_id, "modalities": model.modalities, "caveats": model.caveats}

    def _answer(self, model: EmotionEngine, requests: Sequence[Request]) -> list[Answer]:
        lengths = [_samples(request) for request in requests]
        metrics.batch_audio.observe(sum(lengths) / SAMPLE_RATE)
        metrics.batch_padding.observe(padding_share(lengths, self._encoder_batch))
        with metrics.timed("encoding"):
            features = model.encode([utterance for _, utterance in requests])
        states = [state if state is not None else model.initial_state() for state, _ in requests]
        with metrics.timed("step"):
            return list(zip(*model.step(states, features), strict=True))


def _engine(model: ModelConfig) -> EmotionEngine:
    use_threads(model)
    engine = EmotionEngine(model)
    name, _, sha256 = engine.model_id.rpartition("-")
    metrics.model_info.labels(name, sha256).set(1)
    return engine


def _samples(request: Request) -> int:
    samples = request[1].samples
    return 0 if samples is None else len(samples)


def _audio_seconds(request: Request) -> float:
    return _samples(request) / SAMPLE_RATE
