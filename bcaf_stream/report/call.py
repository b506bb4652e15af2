"""A call as its report tells it: the summary of its events, and every change of its alerts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bcaf_stream.events.event import Event
from bcaf_stream.summary import CallSummary, Said

LIMITS = (
    "Emotions are estimates that a model makes of voice and words. They are not what a person felt, and single"
    " ones are often wrong; shares and trends over many utterances say more. Nothing may be decided about anybody"
    " by them alone."
)


@dataclass
class CallReport:
    """`alerts` are the events of one call's alerts, in their order."""

    summary: CallSummary = field(default_factory=CallSummary)
    alerts: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "CallReport":
        """The report of the one call that these events are of."""
        report = cls()
        for event in events:
            report.summary.push(event)
            if event.type == "alert":
                report.alerts.append(event)
        return report

    @property
    def fired(self) -> int:
        """How many alerts have fired and were not taken back; one that recovers and rises again is the same."""
        count, before = 0, dict[tuple[str | None, str], str | None]()
        for event in self.alerts:
            key = (event.rule, event.channel)
            count += event.state == "firing" and before.get(key) != "recovering"
            count -= event.state == "retracted"
            before[key] = event.state
        return max(0, count)

    @property
    def negative_mass(self) -> float | None:
        """Of the whole call, from 0 to 1."""
        return self.summary.negative_mass(self.summary.now_ms)

    def to_map(self) -> dict[str, Any]:
        """Plain values of JSON: all that the page shows."""
        gaps = [{"channel": c, "start_ms": a, "end_ms": b, "reason": r} for c, a, b, r in self.summary.gaps]
        return {
            **self.summary.to_map(),
            "alerts_fired": self.fired,
            "alerts": [_alert(event) for event in self.alerts],
            "gaps": gaps,
            "notes": [{"at_ms": at_ms, "reason": reason} for at_ms, reason in self.summary.notes],
            "utterances": [_utterance(one) for one in self.summary.said],
            "limits": LIMITS,
        }


def _alert(event: Event) -> dict[str, Any]:
    names = ("rule", "state", "channel", "role", "start_ms", "end_ms", "value", "threshold", "reason", "rule_hash")
    found: dict[str, Any] = {name: getattr(event, name) for name in names}
    found |= {"labels": dict(event.labels or {}), "annotations": dict(event.annotations or {})}
    return found | {"evidence": [dict(one) for one in event.evidence or ()]}


def _utterance(one: Said) -> dict[str, Any]:
    told = ("channel", "index", "role", "who", "start_ms", "end_ms", "text", "text_source", "redacted")
    judged = ("emotion", "confidence", "probs", "reason", "revision", "was")
    found: dict[str, Any] = {name: getattr(one, name) for name in (*told, *judged)}
    return found | {"modalities": list(one.modalities), "degraded": list(one.degraded)}
