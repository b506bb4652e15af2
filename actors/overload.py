"""The stated order in which work is shed when live calls come faster than they can be analysed.

First interim results stop, then speech recognition (utterances go out on audio alone), then new calls are refused.
The final events of a running call are never shed. Pure: the lag and the time are given.
"""

from typing import Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config

STEPS = ("no interim results", "no speech recognition", "no new calls")


class OverloadConfig(Config):
    """From which lag of a live call on (ms of its sound that wait) each step is taken.

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


class Overload:
    """`level` is how many of STEPS are in force; `taken` how often each of them was taken."""

    def __init__(self, config: OverloadConfig) -> None:
        self._limits = (config.interim_ms, config.asr_ms, config.refuse_ms)
        self._calm_s = config.calm_s
        self._calm_since: float | None = None
        self.level = 0
        self.taken = [0] * len(STEPS)

    @property
    def interim(self) -> bool:
        return self.level < 1

    @property
    def asr(self) -> bool:
        return self.level < 2

    @property
    def new_calls(self) -> bool:
        return self.level < 3

    def step(self, lag_ms: int, now_s: float) -> list[str]:
        """Follow the longest lag of all calls; return the steps that are taken now."""
        wanted = sum(lag_ms >= limit for limit in self._limits)
        if wanted > self.level:
            taken = list(STEPS[self.level : wanted])
            for number in range(self.level, wanted):
                self.taken[number] += 1
            self.level, self._calm_since = wanted, None
            return taken
        if self.level and lag_ms * 2 < self._limits[self.level - 1]:
            self._calm_since = now_s if self._calm_since is None else self._calm_since
            if now_s - self._calm_since >= self._calm_s:
                self.level, self._calm_since = self.level - 1, None
        else:
            self._calm_since = None
        return []
