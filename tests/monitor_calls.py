"""Made calls for tests of the monitor: events as a deployment writes them, moods, gaps and revisions by seed."""

import random
import time
from collections.abc import Iterator

from bcaf_stream.alerts.evaluator import SETTLE_MS, AlertEvaluator
from bcaf_stream.alerts.rules import load_rules
from bcaf_stream.events.event import Event
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance
from tests.components import ROOT

LABELS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
WORDS = ("hello", "my", "bill", "is", "wrong", "again", "nobody", "calls", "me", "back", "thank", "you", "please")
ROLES = {"left": "customer", "right": "agent"}


class MadeCall:
    """Each method gives the next events; `began` is unix ns, `mood` the emotion of every utterance, or None."""

    def __init__(self, name: str, began: int | None = None, seed: int = 0, mood: str | None = None) -> None:
        self.name, self.mood = name, mood
        self._random = random.Random(seed)
        self._began = self._now = began or time.time_ns()
        self._ms = 0
        self._numbers = dict.fromkeys(ROLES, 0)
        channels = tuple(Channel(channel, role) for channel, role in ROLES.items())  # type: ignore[arg-type]
        self._writer = EventWriter(Call(name, channels), "made", lambda: self._now)

    def start(self) -> Event:
        return self._writer.start()

    @property
    def now_ms(self) -> int:
        """The call's clock."""
        return self._ms

    def interim(self, channel: str, start_ms: int, end_ms: int, mood: str | None = None) -> Event:
        self._at(end_ms)
        return self._writer.interim(self._utterance(channel, start_ms, end_ms, None), self._felt(mood))

    def say(
        self,
        channel: str = "left",
        words: str | None = None,
        ms: int = 1500,
        mood: str | None = None,
        sure: float | None = None,
    ) -> Event:
        """An utterance of `ms` behind what was said so far; `sure` is the probability of its mood."""
        start = self._ms + 200
        self._at(start + ms)
        words = " ".join(self._random.choices(WORDS, k=6)) if words is None else words
        final = self._writer.final(self._utterance(channel, start, start + ms, words), self._felt(mood, sure))
        self._numbers[channel] += 1
        return final

    def revise(self, of: Event, words: str, mood: str | None = None) -> Event:
        assert of.utterance is not None
        assert of.start_ms is not None
        assert of.end_ms is not None
        utterance = Utterance(
            self.name, of.channel, ROLES[of.channel], of.utterance, of.start_ms, of.end_ms, None, words, "given",
            revision=of.revision + 1,
        )  # fmt: skip
        return self._writer.final(utterance, self._felt(mood))

    def gap(self, channel: str = "left", ms: int = 700) -> Event:
        self._at(self._ms + ms)
        return self._writer.gap(channel, self._ms - ms, self._ms, "the sender sent nothing")

    def degraded(self, reason: str) -> Event:
        return self._writer.degraded(reason)

    def alert(self, channel: str, **fields: object) -> Event:
        return self._writer.alert(channel, **fields)

    def end(self) -> Event:
        return self._writer.end("complete")

    def whole(self, utterances: int = 8) -> list[Event]:
        """A finished call with a gap and a revision in it."""
        events = [self.start(), *(self.say("left" if n % 3 else "right") for n in range(utterances))]
        events += [self.gap(), self.revise(events[-1], "as it was really said")]
        return [*events, self.end()]

    def seconds(self) -> Iterator[Event]:
        """One event a second, for ever: interim results, and a final at the end of each utterance."""
        while True:
            channel = self._random.choice(list(ROLES))
            start = self._ms + 300
            for second in range(self._random.randrange(1, 4)):
                yield self.interim(channel, start, start + 700 + second * 1000)
            words = " ".join(self._random.choices(WORDS, k=6))
            final = self._writer.final(self._utterance(channel, start, self._ms, words), self._felt())
            self._numbers[channel] += 1
            self._ms += 1000
            yield final

    def _utterance(self, channel: str, start_ms: int, end_ms: int, words: str | None) -> Utterance:
        return Utterance(
            self.name, channel, ROLES[channel], self._numbers[channel], start_ms, end_ms, None, words,
            "none" if words is None else "asr", speech_ended_at=self._began + end_ms * 10**6,
        )  # fmt: skip

    def _felt(self, mood: str | None = None, sure: float | None = None) -> EmotionPrediction:
        chosen = mood or self.mood or self._random.choice(LABELS)
        if sure is not None:
            sources = (self._probs(chosen, sure), self._probs(chosen, 0.8 * sure), self._probs(chosen, 0.9 * sure))
            return EmotionPrediction(LABELS, *sources, ("audio", "text"))
        probs = tuple(0.7 if label == chosen else 0.05 for label in LABELS)
        even = tuple(1 / len(LABELS) for _ in LABELS)
        return EmotionPrediction(LABELS, probs, probs, even, ("audio", "text"))

    def _probs(self, chosen: str, sure: float) -> tuple[float, ...]:
        weights = [0.0 if label == chosen else self._random.random() for label in LABELS]
        rest = (1 - sure) / sum(weights)
        return tuple(weight * rest or sure for weight in weights)

    def _at(self, ms: int) -> None:
        self._ms = max(self._ms, ms)
        self._now = self._began + (self._ms + 300) * 10**6


def raised(made: MadeCall, said: list[Event]) -> list[Event]:
    """The call's alerts as the analyzer raises them by the shipped rules."""
    evaluator = AlertEvaluator(load_rules(ROOT / "configs/alerts/call_centre.yaml"), made.name)
    changes = []
    for event in said:
        changes += evaluator.tick((event.end_ms or 0) - SETTLE_MS) + evaluator.push(event)
    return [made.alert(**change.to_fields()) for change in changes]


def numbered(events: list[Event], first: int = 1) -> list[Event]:
    """The events as a journal gives them."""
    from dataclasses import replace

    return [replace(event, offset=offset) for offset, event in enumerate(events, first)]
