"""What a load test asks for, and what it found.

Times are from the end of the speech to the arrival of its event at the subscriber, so they hold the wait of the
segmenter until it is sure, the machine and the wire.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from rich.table import Table

from bcaf_stream.console import cell
from bcaf_stream.errors import UsageError
from bcaf_stream.events.event import Event
from bcaf_stream.recording import TextMode

Arrived = tuple[float, Event]  # unix time, in seconds


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """`calls` at once, each for `minutes`; `kill_every_s` ends one actor after the other with SIGKILL."""

    calls: int
    minutes: float
    text: TextMode = "given"
    jitter_ms: float = 30.0
    kill_every_s: float | None = None
    seed: int = 0


@dataclass(slots=True)
class LoadReport:
    """What became of the calls; times in ms, memory in MB per minute by actor.

    `lost` are events that the numbering of a call has and nobody got, `conflicts` numbers that came with two
    different events, `unended` calls without an end, `failed` callers that were refused or given up.
    """

    plan: dict[str, Any]
    finals: int = 0
    interims: int = 0
    without_words: int = 0
    degraded: dict[str, int] = field(default_factory=dict)
    p50_ms: float = float("nan")
    p95_ms: float = float("nan")
    p99_ms: float = float("nan")
    slope_ms_per_min: float = 0.0
    lost: int = 0
    conflicts: int = 0
    unended: int = 0
    failed: list[str] = field(default_factory=list)
    longest_silence_s: float = 0.0
    kills: list[dict[str, Any]] = field(default_factory=list)
    stage_mean_ms: dict[str, float] = field(default_factory=dict)
    memory_mb_per_min: dict[str, float] = field(default_factory=dict)

    def describe_events(self, arrived: Sequence[Arrived], calls: Sequence[str]) -> None:
        lags, times = [], []
        numbers: dict[str, dict[int, str]] = defaultdict(dict)
        ended = set()
        for at, event in arrived:
            known = numbers[event.call].setdefault(event.seq, event.id)
            self.conflicts += known != event.id
            ended |= {event.call} if event.type == "call.end" else set()
            self.interims += event.type == "emotion.interim"
            for reason in event.degraded or () if event.type == "degraded" else ():
                kind = reason.partition(":")[0]
                self.degraded[kind] = self.degraded.get(kind, 0) + 1
            if event.type == "emotion.final":
                self.finals += 1
                self.without_words += event.text is None
                if event.speech_ended_at:
                    lags.append(max(0.0, at * 1000 - event.speech_ended_at / 1e6))
                    times.append(at / 60)
        self.lost = sum(max(seen) + 1 - len(seen) for seen in numbers.values() if seen)
        self.unended = len(set(calls) - ended)
        if len(lags) > 1:
            self.p50_ms, self.p95_ms, self.p99_ms = map(float, np.percentile(lags, [50, 95, 99]))
            self.slope_ms_per_min = slope(times, lags)
        moments = [at for at, _ in arrived]
        self.longest_silence_s = max((b - a for a, b in pairwise(moments)), default=0.0)

    def describe_kills(
        self, arrived: Sequence[Arrived], kills: Sequence[tuple[float, str]], began_at: float
    ) -> None:
        """`kills` are unix time and actor; how long after each no event came at all."""
        moments = [at for at, _ in arrived]
        ends = [at for at, _ in kills[1:]] + [moments[-1] if moments else 0.0]
        for (at, name), end in zip(kills, ends, strict=True):
            inside = [at, *[moment for moment in moments if at < moment <= end]]
            silence = max((b - a for a, b in pairwise(inside)), default=end - at)
            self.kills.append({"actor": name, "at_s": round(at - began_at, 1), "silence_s": round(silence, 2)})

    def passed_limits(self, limits: dict[str, float]) -> list[str]:
        """The limits that are passed, one line each; nothing may be lost, doubled, refused or left open."""
        known = asdict(self)
        found = [
            f"{name} is {known[name]:.4g}, the limit is {most:g}"
            for name, most in limits.items()
            if not known[name] <= most
        ]
        hard = {
            "lost": self.lost,
            "conflicts": self.conflicts,
            "unended": self.unended,
            "failed": len(self.failed),
        }
        return found + [f"{name}: {count}" for name, count in hard.items() if count and name not in limits]

    @staticmethod
    def check_limits(limits: Sequence[str]) -> dict[str, float]:
        """`p95_ms=500` and the like. Raises UsageError."""
        named = [name for name, value in asdict(LoadReport({})).items() if isinstance(value, int | float)]
        found = {}
        for limit in limits:
            name, _, value = limit.partition("=")
            try:
                found[name] = float(value)
            except ValueError:
                raise UsageError(f"--limit {limit}: give NAME=NUMBER, as p95_ms=500") from None
            if name not in named:
                raise UsageError(f"--limit {limit}: no such number; there are {', '.join(named)}")
        return found

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def table(self) -> Table:
        table = Table(title=cell(f"{self.plan['calls']} calls, {self.finals} utterances"), title_justify="left")
        table.add_column("what")
        table.add_column("measured", justify="right")
        for what, value in (
            (
                "end of speech to event, p50 / p95 / p99",
                f"{self.p50_ms:.0f} / {self.p95_ms:.0f} / {self.p99_ms:.0f} ms",
            ),
            ("its slope", f"{self.slope_ms_per_min:+.0f} ms a minute"),
            ("interim events; utterances without words", f"{self.interims}; {self.without_words}"),
            ("events lost; numbered twice", f"{self.lost}; {self.conflicts}"),
            ("calls without an end; failed", f"{self.unended}; {len(self.failed)}"),
            ("longest time without an event", f"{self.longest_silence_s:.1f} s"),
            *((f"stage {stage}, mean", f"{ms:.0f} ms") for stage, ms in self.stage_mean_ms.items()),
            *(
                (f"memory of {actor}", f"{slope:+.1f} MB a minute")
                for actor, slope in self.memory_mb_per_min.items()
            ),
            *(
                (f"{one['actor']} killed at {one['at_s']:.0f} s", f"silent for {one['silence_s']:.1f} s")
                for one in self.kills
            ),
            *((f"degraded: {reason}", str(count)) for reason, count in self.degraded.items()),
            *(("failed", line) for line in self.failed[:5]),
        ):
            table.add_row(cell(what), cell(value))
        return table


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """By least squares."""
    return float(np.polyfit(np.asarray(times), np.asarray(values), 1)[0])
