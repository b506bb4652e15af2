"""A call's dialogue with the model: where it stands, and what is needed to take a part of it back.

An utterance whose words come or change later is judged again where it stood, and all that followed is judged
again after it: the state is then the one that there would be, had the words been there from the start. So it is
with what a speaker said who turns out to be another one.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from bcaf_stream.types import EmotionPrediction, Utterance

State = Any  # what a dialogue remembers: given back as it came, and never looked at here
Answer = tuple[EmotionPrediction, State]
Judged = list[tuple[Utterance, EmotionPrediction]]


@dataclass(frozen=True, slots=True, eq=False)
class Predict:
    """Work for the model: the emotion of the next utterance of a dialogue, and the state after it.

    `state` None begins a dialogue. A `preview` is of an utterance that is still going on, and less urgent.
    """

    state: State | None
    utterance: Utterance
    preview: bool = False


class DialogueContext:
    """Args:
    keep: how many of the last utterances may still change.
    """

    def __init__(self, keep: int) -> None:
        self.state: State | None = None
        self._past: deque[tuple[State | None, Utterance]] = deque(maxlen=keep)

    def judge(self, utterance: Utterance, revisable: bool) -> Generator[Predict, Answer, EmotionPrediction]:
        """Ask for the emotion of the next utterance, or of the next revision of one; send in each answer.

        The dialogue has moved on when it returns; if it is dropped before, nothing has happened. Where this is not
        `revisable`, nothing changes any more that has been judged by now.
        """
        place = self._place(utterance)
        before = self.state if place is None else self._past[place][0]
        prediction, state = yield Predict(before, utterance)
        if place is None:
            self._past.append((before, utterance))
            self.state = state
        else:
            again = [(before, utterance)]
            for _, later in list(self._past)[place + 1 :]:
                again.append((state, later))
                _, state = yield Predict(state, later)
            for number, entry in enumerate(again, place):
                self._past[number] = entry
            self.state = state
        if not revisable:
            self._past.clear()
        return prediction

    def rename(self, channel: str, was: str, becomes: str, since_ms: int) -> Generator[Predict, Answer, Judged]:
        """The speaker `was` of a channel is `becomes`: judge again what they said and that ended after `since_ms`.

        Returns the next revisions of these utterances, and drives as `judge`.
        """
        past, found = list(self._past), Judged()
        state: State | None = None
        for place, (before, utterance) in enumerate(past):
            whose = (utterance.channel, utterance.speaker) == (channel, was) and utterance.end_ms > since_ms
            if not whose and not found:
                continue
            state = state if found else before
            again = replace(utterance, speaker=becomes, revision=utterance.revision + 1) if whose else utterance
            past[place] = (state, again)
            prediction, state = yield Predict(state, again)
            if whose:
                found.append((again, prediction))
        if found:
            self._past = deque(past, self._past.maxlen)
            self.state = state
        return found

    def renewed(self, utterance: Utterance) -> Utterance:
        """A revision that comes from outside, with the number that comes next."""
        place = self._place(utterance)
        if place is None:
            return utterance
        return replace(utterance, revision=max(utterance.revision, self._past[place][1].revision + 1))

    def preview(self, utterance: Utterance) -> Predict:
        """Ask for the emotion of an utterance that is still going on; it leaves no trace in the dialogue."""
        return Predict(self.state, utterance, preview=True)

    def can_revise(self, utterance: Utterance) -> bool:
        """Whether it is known where the utterance stood."""
        return self._place(utterance) is not None

    def _place(self, utterance: Utterance) -> int | None:
        if not utterance.revision:
            return None
        keys = [(known.channel, known.index) for _, known in self._past]
        key = (utterance.channel, utterance.index)
        return keys.index(key) if key in keys else None
