"""EmotionActor: the encoders and BCAF on a GPU or CPU, in micro-batches. It keeps no dialogue.

Every request carries its dialogue's state and gets the next one back, so a crash loses nothing: the owner
of the call asks another replica with the same state and gets the same answer.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actors.batching import MicroBatcher
from actors.config import BatchConfig
from bcaf_stream.engine import EmotionEngine, ModelConfig
from bcaf_stream.model.bcaf import DialogueState
from bcaf_stream.types import SAMPLE_RATE, EmotionPrediction, Utterance

Request = tuple[DialogueState | None, Utterance]
Answer = tuple[EmotionPrediction, DialogueState]


class EmotionActor:
    """One replica of the engine.

    Raises (at creation): CheckpointError, EncoderError.
    """

    def __init__(self, model: ModelConfig, batch: BatchConfig) -> None:
        self._engine = EmotionEngine(model)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._batcher: MicroBatcher[Request, Answer] = MicroBatcher(self._run, _audio_seconds, batch)

    async def describe(self) -> dict[str, Any]:
        engine = self._engine
        return {"model": engine.model_id, "modalities": engine.modalities, "caveats": engine.caveats}

    async def predict(self, state: DialogueState | None, utterance: Utterance, urgent: bool = True) -> Answer:
        """The emotion of the next utterance of a dialogue; `state` None begins one. What is urgent goes first.

        Raises:
            ModelError: the encoders or the model gave numbers that are not finite, or the utterance has nothing
                that the model was trained on.
        """
        return await self._batcher.submit((state, utterance), urgent)

    async def stats(self) -> dict[str, Any]:
        return {"batches": self._batcher.batches, "utterances": self._batcher.items}

    async def _run(self, requests: Sequence[Request]) -> Sequence[Answer | BaseException]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, requests)

    def _answer(self, requests: Sequence[Request]) -> list[Answer | BaseException]:
        try:
            features = self._engine.encode([utterance for _, utterance in requests])
            states = [state if state is not None else self._engine.initial_state() for state, _ in requests]
            return list(zip(*self._engine.step(states, features), strict=True))
        except Exception as error:
            if len(requests) == 1:
                return [error]
            # One bad utterance must not spoil its neighbours: ask for each alone.
            return [answer for request in requests for answer in self._answer([request])]


def _audio_seconds(request: Request) -> float:
    samples = request[1].samples
    return 0.0 if samples is None else len(samples) / SAMPLE_RATE
