"""The calls as the list shows them: one row each, kept up to date event by event; pure."""

import json
from collections.abc import Sequence
from typing import Any

from bcaf_stream.events.codec import to_map
from bcaf_stream.events.event import Event
from bcaf_stream.summary import CallSummary

KEEP = 60  # utterances of a call that are remembered: enough for SPARK_MS
SPARK_MS, SPARK_BINS = 300_000, 20
QUIET_NS = 300 * 10**9  # a call without an end of which nothing came for so long is not live
RISE = 0.08  # of the negative mass, that an arrow shows
NOTED_MS = 120_000  # how long something that was degraded is shown
REFRESH_S = 0.2
MOST_OTHERS = 200  # rows of calls that are over, that a page is given at first
WORDS = 160  # characters of the last words
ALERT = frozenset(
    ("id", "offset", "rule", "state", "value", "threshold", "labels", "annotations", "evidence", "reason")
)
SPAN = ("start_ms", "end_ms")


class CallRow:
    """What is known of one call; `text` is its row as JSON, and `version` the board's when it was written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0
        self.text = ""
        self.started_at = self.seen_at = 0  # unix ns
        self.ended: str | None = None
        self._summary: CallSummary | None = CallSummary(KEEP)
        self._words: tuple[str, str] | None = None  # who, what
        self._lag_ms: int | None = None

    def apply(self, event: Event) -> None:
        """Take the next event of the call."""
        self.started_at = self.started_at or event.emitted_at
        self.seen_at = max(self.seen_at, event.emitted_at)
        if self._summary is None:  # something came after the end: begun anew, the row says what that amounts to
            self._summary = CallSummary(KEEP)
        self._summary.push(event)
        if event.type == "call.end":
            self.ended = event.reason or "complete"
        if event.text:
            self._words = (event.role or event.channel, event.text[:WORDS])
        if event.type == "emotion.final" and event.speech_ended_at:
            self._lag_ms = max(0, (event.emitted_at - event.speech_ended_at) // 1_000_000)

    def is_live(self, now: int) -> bool:
        return self.ended is None and now - self.seen_at < QUIET_NS

    def refresh(self, now: int, version: int) -> bool:
        """Write the row as it is at `now` (unix ns); whether it is another one than before."""
        if self._summary is None:
            return False
        text = json.dumps(self._fields(self._summary, now), ensure_ascii=False, separators=(",", ":"))
        if self.ended is not None:
            self._summary = None
        if text == self.text:
            return False
        self.text, self.version = text, version
        return True

    def _fields(self, summary: CallSummary, now: int) -> dict[str, Any]:
        live = self.is_live(now)
        clock = summary.now_ms + (max(0, now - self.seen_at) // 1_000_000 if live else 0)
        mass, change = summary.negative_mass(at_ms=clock, interims=True), summary.trend(SPARK_MS, at_ms=clock)
        latest, notes = summary.latest, summary.notes
        return {
            "call": self.name,
            "live": live,
            "protocol": summary.protocol,
            "ended": self.ended,
            "started_at": str(self.started_at),
            "seen_at": str(self.seen_at),
            "clock_ms": summary.now_ms,
            "mass": None if mass is None else round(mass, 3),
            "trend": 0 if change is None else (change > RISE) - (change < -RISE),
            "spark": [None if v is None else round(v, 2) for v in summary.sparkline(SPARK_MS, SPARK_BINS)],
            "channels": summary.channels,
            "emotion": latest and latest.emotion,
            "confidence": latest and latest.confidence,
            "role": self._words and self._words[0],
            "words": self._words and self._words[1],
            "gaps": summary.quality.gaps,
            "degraded": notes[-1][1] if notes and clock - notes[-1][0] < NOTED_MS else None,
            "lag_ms": self._lag_ms,
            "alerts": [_alert(event) for event in summary.alerts.values()],
        }


def _alert(event: Event) -> dict[str, Any]:
    fields = {n: v for n, v in to_map(event).items() if n in ALERT or n in SPAN}
    return {n: v for n, v in fields.items() if v not in (None, "", [], {})}


class Board:
    """All calls; rows carry versions, so that a page is sent what it does not have yet."""

    def __init__(self) -> None:
        self.rows: dict[str, CallRow] = {}
        self.version = 0
        self._changed: set[str] = set()
        self._live: set[str] = set()
        self._next_refresh = self._next_clock = 0.0

    def apply(self, events: Sequence[Event]) -> None:
        for event in events:
            row = self.rows.get(event.call)
            if row is None:
                row = self.rows[event.call] = CallRow(event.call)
            row.apply(event)
            self._changed.add(event.call)

    def forget(self, calls: Sequence[str]) -> None:
        for call in calls:
            self.rows.pop(call, None)
            self._changed.discard(call)
            self._live.discard(call)

    def refresh(self, now: int, monotonic: float) -> None:
        """Write anew the rows that changed, at most every REFRESH_S, and those of live calls every second."""
        if monotonic < self._next_refresh:
            return
        self._next_refresh = monotonic + REFRESH_S
        names = set(self._changed)
        if monotonic >= self._next_clock:
            self._next_clock = monotonic + 1.0
            names |= self._live
        self.version += 1
        for name in names:
            row = self.rows[name]
            row.refresh(now, self.version)
            (self._live.add if row.is_live(now) else self._live.discard)(name)
        self._changed.clear()

    def since(self, version: int) -> list[CallRow]:
        """The rows that were written after a version, of live calls and of the latest others."""
        rows = [row for row in self.rows.values() if row.version > max(version, 0)]  # 0: not written yet
        if len(rows) > MOST_OTHERS:
            others = sorted((row for row in rows if row.name not in self._live), key=lambda row: row.seen_at)
            left_out = {row.name for row in others[:-MOST_OTHERS]}
            rows = [row for row in rows if row.name not in left_out]
        return rows
