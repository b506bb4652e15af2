"""A call's dialogue with the model: where it stands, and what is needed to take a part of it back.

An utterance whose words come or change later is judged again where it stood, and all that followed is judged
again after it: the state is then the one that there would be, had the words been there from the start.
"""

from collections import deque
from collections.abc import Awaitable
from typing import Protocol

from bcaf_stream.model.state import DialogueState
from bcaf_stream.types import EmotionPrediction, Utterance

Answer = tuple[EmotionPrediction, DialogueState]


class Predict(Protocol):
    """The model: the next utterance of a dialogue in, its emotion and the state after it out."""

    def __call__(
        self, state: DialogueState | None, utterance: Utterance, urgent: bool = True
    ) -> Awaitable[Answer]: ...


class History:
    """Args:
    predict: the model; `state` None begins a dialogue.
    revisable: how many of the last utterances may still change.
    """

    def __init__(self, predict: Predict, revisable: int) -> None:
        self._predict = predict
        self._past: deque[tuple[DialogueState | None, Utterance]] = deque(maxlen=revisable)
        self.state: DialogueState | None = None

    async def judge(self, utterance: Utterance) -> EmotionPrediction:
        """The emotion of the next utterance, or of the next revision of one; raises what `predict` raises."""
        place = self._place(utterance)
        before = self.state if place is None else self._past[place][0]
        prediction, state = await self._predict(before, utterance)
        if place is None:
            self._past.append((before, utterance))
            self.state = state
            return prediction
        again = [(before, utterance)]
        for _, later in list(self._past)[place + 1 :]:
            again.append((state, later))
            _, state = await self._predict(state, later)
        for number, entry in enumerate(again, place):  # all of it, or, where `predict` failed, nothing
            self._past[number] = entry
        self.state = state
        return prediction

    async def glance(self, utterance: Utterance) -> EmotionPrediction:
        """The emotion of an utterance that is still going on; it leaves no trace in the dialogue."""
        return (await self._predict(self.state, utterance, urgent=False))[0]

    def _place(self, utterance: Utterance) -> int | None:
        if not utterance.revision:
            return None
        keys = [(known.channel, known.index) for _, known in self._past]
        key = (utterance.channel, utterance.index)
        return keys.index(key) if key in keys else None
