"""Rules held against calls that are in a journal: how often each would have fired, and how well that fits labels.

A label is a time of a call in which an alert is right: a row `call,start_s,end_s` of a CSV, and where it matters
`alert`, the one that it is for. A firing is right if it lasts into a label of its call, or begins at most `lead`
before one; a label is found if a right firing is its own.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bcaf_stream.alerts.evaluator import AlertChange, evaluate
from bcaf_stream.alerts.machine import ACTIVE
from bcaf_stream.alerts.rules import AlertRules
from bcaf_stream.errors import DataError
from bcaf_stream.events.event import Event

LEAD_MS = 60_000
COLUMNS = ("call", "start_s", "end_s")


@dataclass(frozen=True, slots=True)
class Label:
    call: str
    start_ms: int
    end_ms: int
    alert: str | None = None  # None: for any


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert of a call from when it fired to when it was over."""

    call: str
    alert: str
    channel: str
    start_ms: int
    end_ms: int
    retracted: bool


@dataclass
class RuleScore:
    """`leads_ms` is, of each label that was found, how long before its begin the alert fired (below 0: after)."""

    firings: int = 0
    retracted: int = 0
    calls: set[str] = field(default_factory=set)
    right: int = 0
    labels: int = 0
    found: int = 0
    leads_ms: list[int] = field(default_factory=list)


@dataclass
class Backtest:
    hours: float
    calls: int
    rules: dict[str, RuleScore]
    firings: list[Firing]
    labelled: bool

    def to_map(self) -> dict[str, Any]:
        """Plain values of JSON; precision and recall only where there are labels."""
        return {
            "calls": self.calls,
            "hours": round(self.hours, 4),
            "rules": {name: self._row(score) for name, score in self.rules.items()},
        }

    def _row(self, score: RuleScore) -> dict[str, Any]:
        row: dict[str, Any] = {
            "alerts": score.firings,
            "alerts_per_hour": round(score.firings / self.hours, 3) if self.hours else None,
            "calls": len(score.calls),
            "retracted": score.retracted,
        }
        if self.labelled:
            row |= {
                "precision": round(score.right / score.firings, 3) if score.firings else None,
                "labels": score.labels,
                "recall": round(score.found / score.labels, 3) if score.labels else None,
                "median_lead_s": round(median(score.leads_ms) / 1000, 1) if score.leads_ms else None,
            }
        return row


def backtest(
    rules: AlertRules,
    calls: Mapping[str, Iterable[Event]],
    labels: Sequence[Label] | None = None,
    lead_ms: int = LEAD_MS,
) -> Backtest:
    """The firings of each rule in these calls; the events of a call are read once, in order."""
    total_ms, firings = 0, []
    for call, events in calls.items():
        length = _Length(events)
        firings += firings_of(evaluate(rules, length, call))
        total_ms += length.ms
    scores = {rule.alert: RuleScore() for rule in rules.rules}
    for firing in firings:
        score = scores[firing.alert]
        score.firings += 1
        score.retracted += firing.retracted
        score.calls.add(firing.call)
        score.right += any(_fits(firing, label, lead_ms) for label in labels or ())
    for label in labels or ():
        for name, score in scores.items():
            if label.alert not in (None, name):
                continue
            score.labels += 1
            own = [firing for firing in firings if firing.alert == name and _fits(firing, label, lead_ms)]
            if own:
                score.found += 1
                score.leads_ms.append(label.start_ms - min(firing.start_ms for firing in own))
    return Backtest(total_ms / 3_600_000, len(calls), scores, firings, labels is not None)


def firings_of(changes: Iterable[AlertChange]) -> list[Firing]:
    """Each time an alert was raised, in the order of their begins."""
    found: list[Firing] = []
    open_since: dict[tuple[str, str], int] = {}
    for change in changes:
        key = (change.rule.alert, change.channel)
        if change.state in ACTIVE:
            open_since.setdefault(key, change.at_ms)
        elif change.state in ("resolved", "retracted"):
            start_ms = open_since.pop(key, None)
            gone = change.state == "retracted"
            if start_ms is not None:
                found.append(Firing(change.call, *key, start_ms, max(start_ms, change.at_ms), gone))
            elif gone and found:  # it was over already
                last = next(
                    (n for n in reversed(range(len(found))) if (found[n].alert, found[n].channel) == key), None
                )
                if last is not None:
                    was = found[last]
                    found[last] = Firing(was.call, *key, was.start_ms, was.end_ms, True)
    return sorted(found, key=lambda firing: (firing.start_ms, firing.alert, firing.channel))


def read_labels(path: Path, alerts: Iterable[str]) -> list[Label]:
    """The labels of a CSV.

    Raises:
        DataError: it cannot be read, a column is missing, or a row is no label.
    """
    known = set(alerts)
    labels = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                wanted = ", ".join(COLUMNS)
                raise DataError(f"{path}: no column {missing[0]}; wanted are {wanted} and, if you like, alert")
            for row in rows:
                alert = (row.get("alert") or "").strip() or None
                if alert is not None and alert not in known:
                    raise DataError(f"{path}:{rows.line_num}: the rules have no alert of that name")
                try:
                    start_ms, end_ms = (round(float(row[name]) * 1000) for name in COLUMNS[1:])
                except (TypeError, ValueError, OverflowError):
                    raise DataError(f"{path}:{rows.line_num}: start_s and end_s must be seconds") from None
                if not 0 <= start_ms <= end_ms:
                    raise DataError(f"{path}:{rows.line_num}: start_s must be 0 or more, and end_s not before it")
                labels.append(Label(row["call"], start_ms, end_ms, alert))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
        ) from None
    return labels


def _fits(firing: Firing, label: Label, lead_ms: int) -> bool:
    if firing.retracted or firing.call != label.call or label.alert not in (None, firing.alert):
        return False
    early = label.start_ms - lead_ms <= firing.start_ms <= label.start_ms
    return early or (firing.start_ms <= label.end_ms and firing.end_ms >= label.start_ms)


class _Length:
    """Passes events on, and remembers how far they reach."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self.ms = 0

    def __iter__(self) -> Any:
        for event in self._events:
            self.ms = max(self.ms, event.end_ms or 0)
            yield event
