"""How many replicas a pool should have: a pure decision from what its actors say of themselves.

It grows when answers are late, at once by as much as the work asks for, and shrinks by one at a time when the rest
would have an easy time, long after it was last changed. What is not known changes nothing: an actor that gives no
answer is no reason to believe that there is less to do.
"""

import math
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config


class ScalingConfig(Config):
    """Between `min` and `max` replicas; `late_ms` is when an answer is late, `busy` the share of time at work that
    is aimed at. It must be late for `up_s` before the pool grows, and easy for `down_s` before it shrinks."""

    min: int = Field(1, ge=1)
    max: int = Field(1, ge=1)
    late_ms: int = Field(300, gt=0)
    busy: float = Field(0.6, gt=0, lt=1)
    up_s: float = Field(3.0, ge=0)
    down_s: float = Field(120.0, ge=0)

    @model_validator(mode="after")
    def _min_is_not_above_max(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min: {self.min} is above max: {self.max}")
        return self


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """Of the last moments. `replicas` are those that take work, `silent` of them gave no answer; `wait_ms` is how
    late the latest answer is, and `busy` the share of time (0 to 1) that a replica is at work, on average."""

    replicas: int
    silent: int
    wait_ms: float
    busy: float


@dataclass(frozen=True, slots=True)
class PoolHistory:
    """Since when (seconds of a steady clock) answers have been late, or all has been easy; None: they are not."""

    late_since: float | None = None
    easy_since: float | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    replicas: int
    reason: str


def wanted_replicas(
    config: ScalingConfig, load: PoolLoad, history: PoolHistory, now_s: float
) -> tuple[Wanted, PoolHistory]:
    """The number of replicas that the pool should have now, and what is to be remembered until the next time."""
    within = min(config.max, max(config.min, load.replicas))
    if within != load.replicas:
        return Wanted(within, f"between {config.min} and {config.max}"), PoolHistory()
    work = load.busy * load.replicas  # in replicas that are never idle
    late = load.wait_ms > config.late_ms
    easy = not late and not load.silent and load.replicas > 1 and work / (load.replicas - 1) < config.busy
    history = PoolHistory(
        late_since=_since(history.late_since, late, now_s), easy_since=_since(history.easy_since, easy, now_s)
    )
    if _lasted(history.late_since, config.up_s, now_s):
        enough = max(load.replicas + 1, math.ceil(work / config.busy))
        target = min(config.max, enough)
        if target > load.replicas:
            return Wanted(target, f"answers are {load.wait_ms:.0f} ms late"), PoolHistory()
        return Wanted(load.replicas, f"answers are {load.wait_ms:.0f} ms late, and max is {config.max}"), history
    if load.replicas > config.min and _lasted(history.easy_since, config.down_s, now_s):
        left = load.replicas - 1
        return Wanted(left, f"{left} would be at work for {work / left:.0%} of the time"), PoolHistory()
    return Wanted(load.replicas, "enough"), history


def _since(before: float | None, true: bool, now_s: float) -> float | None:
    if not true:
        return None
    return now_s if before is None else before


def _lasted(since: float | None, for_s: float, now_s: float) -> bool:
    return since is not None and now_s - since >= for_s


class PoolScaling:
    """The decision over time, from the counters of the actors: seconds at work, since each was started."""

    def __init__(self, config: ScalingConfig) -> None:
        self._config = config
        self._history = PoolHistory()
        self._seen: dict[str, tuple[float, float]] = {}  # seconds at work of each, and when that was

    def look(self, busy_s: dict[str, float | None], wait_ms: float, now_s: float) -> Wanted:
        """`busy_s` of each replica by name; None where it gave no answer."""
        shares = []
        for name, seconds in busy_s.items():
            if seconds is None:
                continue
            before, at_s = self._seen.get(name, (seconds, now_s))
            if now_s > at_s and seconds >= before:  # less: it was started again
                shares.append(min(1.0, (seconds - before) / (now_s - at_s)))
            self._seen[name] = seconds, now_s
        busy = sum(shares) / len(shares) if shares else 0.0
        unknown = sum(seconds is None for seconds in busy_s.values())
        load = PoolLoad(len(busy_s), len(busy_s) if not shares else unknown, wait_ms, busy)
        wanted, self._history = wanted_replicas(self._config, load, self._history, now_s)
        return wanted
