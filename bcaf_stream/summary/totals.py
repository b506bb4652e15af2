"""What utterances add up to: the speech of each role, and how much of a call could be analysed."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bcaf_stream.summary.said import Said


@dataclass(slots=True)
class RoleSummary:
    """Of one role: `emotions_ms` is judged speech by emotion, `talk_ms` all of it."""

    channels: set[str] = field(default_factory=set)
    utterances: int = 0
    judged: int = 0
    talk_ms: int = 0
    words: int = 0
    emotions_ms: Counter[str] = field(default_factory=Counter)
    negative_ms: float = 0.0  # speech, weighted by its negative mass

    @property
    def judged_ms(self) -> int:
        return sum(self.emotions_ms.values())

    @property
    def shares(self) -> dict[str, float]:
        """Share of judged speech by emotion, the largest first; they add up to 1."""
        total = self.judged_ms
        return {emotion: ms / total for emotion, ms in self.emotions_ms.most_common() if ms} if total else {}

    @property
    def negative_mass(self) -> float | None:
        total = self.judged_ms
        return self.negative_ms / total if total else None

    def count(self, one: Said, sign: int = 1) -> None:
        self.channels.add(one.channel)
        self.utterances += sign
        self.talk_ms += sign * one.speech_ms
        self.words += sign * len((one.text or "").split())
        if one.emotion is not None:
            self.judged += sign
            self.emotions_ms[one.emotion] += sign * one.speech_ms
            self.negative_ms += sign * one.speech_ms * one.mass()


@dataclass(slots=True)
class Quality:
    """How much of a call could be analysed, and what was missing.

    `modalities` counts utterances as they were told last: "audio+text", "audio", "text", and "none" for those that
    were not judged. `missing` counts the events that never came, as `seq` shows.
    """

    gaps: int = 0
    lost_ms: Counter[str] = field(default_factory=Counter)  # by channel
    degraded: Counter[str] = field(default_factory=Counter)  # by reason, of the call or of an utterance
    modalities: Counter[str] = field(default_factory=Counter)
    revised: int = 0
    late_revisions: int = 0
    redacted: int = 0  # spans of the words
    missing: int = 0

    def to_map(self) -> dict[str, Any]:
        counters = {"lost_ms": self.lost_ms, "degraded": self.degraded, "modalities": self.modalities}
        plain = ("gaps", "revised", "late_revisions", "redacted", "missing", "audio_only")
        return {name: getattr(self, name) for name in plain} | {name: dict(one) for name, one in counters.items()}

    def share(self, modalities: str) -> float | None:
        """The share, from 0 to 1, of the utterances with these modalities."""
        total = sum(self.modalities.values())
        return self.modalities[modalities] / total if total else None

    @property
    def audio_only(self) -> float | None:
        """The share of utterances that were judged by their sound alone."""
        return self.share("audio")

    def count(self, one: Said, sign: int = 1) -> None:
        self.modalities["+".join(one.modalities) or "none"] += sign
        self.redacted += sign * one.redacted
        for reason in one.degraded:
            self.degraded[reason] += sign
            if not self.degraded[reason]:
                del self.degraded[reason]
