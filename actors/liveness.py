"""What the wall clock says of a live call: which channels have stalled, and whether its sender is gone.

Pure: time (seconds of any steady clock) is given. Stream time never passes through here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import Field

from bcaf_stream.config import Config


class LiveConfig(Config):
    """What happens while somebody speaks, and when nobody does.

    Every `interim_ms` of an open utterance an emotion.interim goes out; 0: none. A channel without sound for
    `stall_s` ends its utterance. A call whose connection is gone ends after `grace_s`, unless it comes back;
    one whose sender is there and silent, after `idle_s`. A sender whose sound waits for longer than `window_ms`
    is read no further.
    """

    interim_ms: int = Field(1000, ge=0)
    stall_s: float = Field(1.5, gt=0)
    grace_s: float = Field(10.0, ge=0)
    idle_s: float = Field(300.0, gt=0)  # a call may be on hold
    window_ms: int = Field(10_000, ge=200)


@dataclass
class Liveness:
    """The clocks of one call's channels."""

    config: LiveConfig
    now_s: float  # when the call began
    channels: Iterable[str]
    stalled: set[str] = field(default_factory=set)
    _heard: dict[str, float] = field(default_factory=dict)
    _gone: float | None = None  # since when there is no connection

    def __post_init__(self) -> None:
        self._heard = dict.fromkeys(self.channels, self.now_s)
        self._latest = self.now_s

    @property
    def is_connected(self) -> bool:
        return self._gone is None

    def heard(self, channel: str, now_s: float) -> None:
        self._heard[channel] = self._latest = now_s
        self.stalled.discard(channel)

    def spoke(self, now_s: float) -> None:
        """The sender gave a sign of life that is no sound."""
        self._latest = now_s

    def disconnected(self, now_s: float) -> None:
        self._gone = now_s

    def connected(self, now_s: float) -> None:
        self._gone = None
        self._latest = now_s

    def newly_stalled(self, now_s: float) -> list[str]:
        """Channels whose sound has stopped coming since this was last asked."""
        limit = 0.0 if self._gone is not None else self.config.stall_s
        found = [c for c, at in self._heard.items() if c not in self.stalled and now_s - at >= limit]
        self.stalled.update(found)
        return found

    def is_lost(self, now_s: float) -> bool:
        if self._gone is not None:
            return now_s - self._gone >= self.config.grace_s
        return now_s - self._latest >= self.config.idle_s

    def silent_s(self, now_s: float) -> float:
        """How long no channel has had any sound."""
        return now_s - max(self._heard.values())

    def wait_s(self, now_s: float) -> float:
        """How long nothing can change by itself."""
        ends = [at + self.config.stall_s for channel, at in self._heard.items() if channel not in self.stalled]
        lost = self._latest + self.config.idle_s if self._gone is None else self._gone + self.config.grace_s
        return max(0.0, min([*ends, lost]) - now_s)
