"""Events of made calls, for what reads events: written by the real EventWriter."""

from collections.abc import Mapping

from bcaf_stream.alerts.rules import AlertRules
from bcaf_stream.events.event import Event
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance

LABELS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


class CallScript:
    """Writes a call of a customer and an agent; each method returns the event, which `events` has too."""

    def __init__(self, call: str = "call-1", roles: Mapping[str, str] | None = None, model: str = "m") -> None:
        roles = roles or {"customer": "customer", "agent": "agent"}
        channels = tuple(Channel(name, role) for name, role in roles.items())  # type: ignore[arg-type]
        self.call = Call(call, channels)
        self._now = 1_700_000_000_000_000_000
        self.writer = EventWriter(self.call, model, self._clock)
        self._next = dict.fromkeys(roles, 0)
        self.events: list[Event] = [self.writer.start()]

    def _clock(self) -> int:
        self._now += 1_000_000
        return self._now

    def say(
        self,
        start_ms: int,
        end_ms: int,
        emotion: str = "neutral",
        probability: float = 0.9,
        channel: str = "customer",
        text: str | None = "words",
        index: int | None = None,
        revision: int = 0,
        degraded: tuple[str, ...] = (),
        interim: bool = False,
    ) -> Event:
        if index is None:
            index = self._next[channel]
            self._next[channel] += not interim
        utterance = Utterance(
            self.call.id,
            channel,
            self.call.role_of(channel),
            index,
            start_ms,
            end_ms,
            None,
            text,
            "given" if text else "none",
            revision=revision,
            degraded=degraded,
        )
        rest = (1 - probability) / (len(LABELS) - 1)
        probs = tuple(probability if label == emotion else rest for label in LABELS)
        modalities = ("audio", "text") if text else ("audio",)
        prediction = EmotionPrediction(LABELS, probs, None, None, modalities)  # type: ignore[arg-type]
        write = self.writer.interim if interim else self.writer.final
        return self._told(write(utterance, prediction))

    def lose(self, start_ms: int, end_ms: int, channel: str = "customer") -> Event:
        return self._told(self.writer.gap(channel, start_ms, end_ms, "connection lost"))

    def fail(self, start_ms: int, end_ms: int, reason: str, channel: str = "customer", revision: int = 0) -> Event:
        index = self._next[channel] - bool(revision)
        self._next[channel] = index + 1
        utterance = Utterance(
            self.call.id, channel, self.call.role_of(channel), index, start_ms, end_ms, None, "words", "given"
        )
        return self._told(self.writer.degraded(reason, utterance))

    def degrade(self, reason: str) -> Event:
        return self._told(self.writer.degraded(reason))

    def end(self, reason: str = "complete") -> Event:
        return self._told(self.writer.end(reason))

    def _told(self, event: Event) -> Event:
        self.events.append(event)
        return event


def watching() -> AlertRules:
    """Rules that often change their state, of every kind, for a model of anger and joy."""
    return AlertRules.model_validate(
        {
            "emotions": ["anger", "joy"],
            "rules": [
                {"alert": "Mass", "value": {"mass": ["anger"], "over": "8s"}, "fire": 0.5, "recover": 0.4},
                {
                    "alert": "Lasting",
                    "match": {"role": "customer"},
                    "value": {"mass": ["anger"], "over": "10s", "weight": "utterances"},
                    "fire": 0.4,
                    "recover": 0.3,
                    "for": "2s",
                    "keep_firing_for": "3s",
                    "no_data": "resolve",
                    "cool_down": "4s",
                },
                {"alert": "Often", "value": {"count": ["anger", "joy"], "over": "7s"}, "fire": 2},
                {"alert": "Words", "value": {"words": ["hello", "heard", "word"], "over": "5s"}, "fire": 1},
                {"alert": "Trend", "value": {"trend": ["anger"], "over": "12s"}, "fire": 0.1},
                {"alert": "Both", "value": {"talk_over": True, "over": "10s"}, "fire": 0.05},
                {"alert": "Quiet", "value": {"silence": True}, "fire": "1s", "for": "1s"},
            ],
        }
    )
