"""What is shed, in a stated order, when live calls come faster than they can be analysed.

First interim results stop, then speech recognition (utterances go out on audio alone, and are judged again when
there is time), then new calls are refused. The final events of a running call are never shed. Each step looks at
the stages that it relieves: recognition is shed when the sound or its recognition is behind, never because the
model or the hub is; that is an outage, and waited for. So is a backlog that is being worked off. Pure: lags and
time are given.
"""

from typing import NamedTuple, Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config

STOOD_STILL_S = 1.0  # between two looks; then it was this process that did not run


class OverloadConfig(Config):
    """From which lag of a live call on (ms behind its speakers) each step is taken.

    A step is taken back when the lag has stayed under half of its limit for `calm_s`.
    """

    interim_ms: int = Field(1000, ge=1)
    asr_ms: int = Field(2500, ge=1)
    refuse_ms: int = Field(5000, ge=1)
    calm_s: float = Field(5.0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.interim_ms <= self.asr_ms <= self.refuse_ms:
            raise ValueError("interim_ms, asr_ms and refuse_ms must not fall: work is shed in this order")
        return self


class Lags(NamedTuple):
    """How far each stage is behind the speakers, in ms: what waits longest in its queue."""

    sound: int = 0  # to be cut into segments
    recognition: int = 0
    emotion: int = 0
    hub: int = 0

    def longest(self, other: "Lags") -> "Lags":
        return Lags(*map(max, self, other))


class _Step:
    """One step: taken at its limit, unless the lag falls by itself; taken back after a calm time."""

    def __init__(self, name: str, limit_ms: int, calm_s: float) -> None:
        self.name = name
        self.on = False
        self.taken = 0
        self._limit_ms = limit_ms
        self._calm_s = calm_s
        self._calm_since: float | None = None
        self._before_ms = 0

    def look(self, lag_ms: int, now_s: float, may_take: bool) -> bool:
        """Follow the lag; return whether the step is taken now."""
        falling = lag_ms < self._before_ms
        self._before_ms = lag_ms
        calm = self.on and lag_ms * 2 < self._limit_ms
        if not calm:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now_s
        if calm and self._calm_since is not None and now_s - self._calm_since >= self._calm_s:
            self.on, self._calm_since = False, None
        if self.on or falling or not may_take or lag_ms < self._limit_ms:
            return False
        self.on = True
        self.taken += 1
        return True


class LoadShedding:
    """`level` is how many steps are in force; `taken` how often each of them was taken."""

    def __init__(self, config: OverloadConfig) -> None:
        self._interim = _Step("no interim results", config.interim_ms, config.calm_s)
        self._recognition = _Step("no speech recognition", config.asr_ms, config.calm_s)
        self._calls = _Step("no new calls", config.refuse_ms, config.calm_s)
        self._steps = (self._interim, self._recognition, self._calls)
        self._looked_s: float | None = None

    @property
    def level(self) -> int:
        return sum(step.on for step in self._steps)

    @property
    def taken(self) -> list[int]:
        return [step.taken for step in self._steps]

    @property
    def interim(self) -> bool:
        """Whether interim results are made."""
        return not self._interim.on

    @property
    def recognition(self) -> bool:
        """Whether speech is recognised."""
        return not self._recognition.on

    @property
    def new_calls(self) -> bool:
        """Whether calls may begin."""
        return not self._calls.on

    def look(self, lags: Lags, now_s: float) -> list[str]:
        """Follow the longest lags of all calls; return the steps that are taken now."""
        ran = self._looked_s is None or now_s - self._looked_s < STOOD_STILL_S
        self._looked_s = now_s
        worst, relieved = max(lags), max(lags.sound, lags.recognition)
        lag_ms = {self._interim: worst, self._recognition: relieved, self._calls: worst}
        return [step.name for step in self._steps if step.look(lag_ms[step], now_s, ran)]
