"""An utterance as its events tell it: what every aggregate of a call is made of."""

from collections.abc import Iterable
from dataclasses import dataclass

from bcaf_stream.events.event import Event
from bcaf_stream.types import Modality, Role, TextSource

NEGATIVE = ("anger", "disgust", "fear", "sadness")
JUDGED = ("emotion", "confidence", "probs", "modalities")  # fields of Said
Key = tuple[str, int]  # channel and number of an utterance


@dataclass(frozen=True, slots=True)
class Said:
    """An utterance as it was told last; `emotion` is None where it was not judged, and `reason` says why.

    `who` is the speaker where speakers are told apart, and else the channel. `id`, `seq` and `offset` are those of
    the event that told it last.
    """

    id: str
    channel: str
    index: int
    role: Role | None
    who: str
    start_ms: int
    end_ms: int
    emotion: str | None
    confidence: float | None
    probs: dict[str, float]
    modalities: tuple[Modality, ...]
    text: str | None
    text_source: TextSource
    text_confidence: float | None
    degraded: tuple[str, ...]
    reason: str | None
    revision: int
    seq: int
    offset: int | None
    redacted: int = 0  # spans of its words
    interim: bool = False
    was: str | None = None  # the emotion before the last revision

    @property
    def key(self) -> Key:
        return self.channel, self.index

    @property
    def speech_ms(self) -> int:
        return self.end_ms - self.start_ms

    def mass(self, emotions: Iterable[str] = NEGATIVE) -> float:
        """The probability, from 0 to 1, of any of these emotions."""
        return min(1.0, sum(self.probs.get(emotion, 0.0) for emotion in emotions))

    def within_ms(self, from_ms: float, to_ms: float) -> float:
        """How much of it lies there."""
        return max(0, min(self.end_ms, to_ms) - max(self.start_ms, from_ms))


def said_of(event: Event) -> Said | None:
    """The utterance that an event tells; None where it tells none."""
    if event.utterance is None or event.start_ms is None or event.end_ms is None:
        return None
    return Said(
        id=event.id,
        channel=event.channel,
        index=event.utterance,
        role=event.role,
        who=getattr(event, "speaker", None) or event.channel,
        start_ms=event.start_ms,
        end_ms=max(event.start_ms, event.end_ms),
        emotion=event.emotion,
        confidence=event.confidence,
        probs=dict(event.probs),
        modalities=event.modalities,
        text=event.text,
        text_source=event.text_source,
        text_confidence=event.text_confidence,
        degraded=event.degraded or (),
        reason=event.reason,
        revision=event.revision,
        seq=event.seq,
        offset=event.offset,
        redacted=getattr(event, "redacted", None) or 0,
        interim=event.type == "emotion.interim",
    )
