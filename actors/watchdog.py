"""What the wall clock says of a live call: which channels have stalled, and whether its sender is gone.

Pure: time (seconds of any steady clock) is given. Stream time never passes through here.
"""

from collections.abc import Iterable

from pydantic import Field

from bcaf_stream.config import Config


class LiveConfig(Config):
    """What happens while somebody speaks, and when nobody does.

    Every `interim_ms` of an open utterance an emotion.interim goes out; 0: none. A channel without sound for
    `stall_s` ends its utterance. A call whose connection is gone ends after `grace_s`, unless it comes back;
    after `resume_s`, where the sender keeps its sound, or a file can be sent again; one whose sender is there and
    silent, after `idle_s`. A sender whose sound waits for longer than `window_ms`
    is read no further. A call that goes on in another process has the sound of `rebuild_s` before its last event
    sent again, for the context of its dialogue. A call for which no result comes for `finish_s` has failed.
    """

    interim_ms: int = Field(1000, ge=0)
    stall_s: float = Field(1.5, gt=0)
    grace_s: float = Field(10.0, ge=0)
    resume_s: float = Field(120.0, ge=0)  # as long as `send` tries by itself
    idle_s: float = Field(300.0, gt=0)  # a call may be on hold
    window_ms: int = Field(10_000, ge=200)
    rebuild_s: float = Field(120.0, ge=30)  # more than the longest utterance and its wait for words
    finish_s: float = Field(90.0, gt=0)  # longer than emotion.retry_s

    def patience_s(self, keeps_sound: bool) -> float:
        """How long a call waits for a sender that is gone."""
        return self.resume_s if keeps_sound else self.grace_s


class Watchdog:
    """The clocks of one call's channels.

    Args:
        now_s: when the call began.
        keeps_sound: the sender sends again what a lost connection has swallowed: nothing stalls by the loss.
    """

    def __init__(
        self, config: LiveConfig, now_s: float, channels: Iterable[str], keeps_sound: bool = False
    ) -> None:
        self.stalled: set[str] = set()
        self._config = config
        self._keeps_sound = keeps_sound
        self._grace_s = config.patience_s(keeps_sound)
        self._heard = dict.fromkeys(channels, now_s)
        self._latest = now_s
        self._gone: float | None = None  # since when there is no connection
        self._looks_up = False  # it is connected again, and finds the place in its sound

    @property
    def is_connected(self) -> bool:
        return self._gone is None

    def heard(self, channel: str, now_s: float) -> None:
        self._heard[channel] = self._latest = now_s
        self._looks_up = False
        self.stalled.discard(channel)

    def spoke(self, now_s: float) -> None:
        """The sender gave a sign of life that is no sound."""
        self._latest = now_s

    def disconnected(self, now_s: float) -> None:
        self._gone = now_s

    def connected(self, now_s: float) -> None:
        self._gone = None
        self._latest = now_s
        self._looks_up = self._keeps_sound
        if self._keeps_sound:
            self._heard = {channel: max(at, now_s) for channel, at in self._heard.items()}

    def excuse(self, seconds: float) -> None:
        """It was not the sender that stood still for so long: all clocks go on from there."""
        self._heard = {channel: at + seconds for channel, at in self._heard.items()}
        self._latest += seconds
        if self._gone is not None:
            self._gone += seconds

    def newly_stalled(self, now_s: float) -> list[str]:
        """Channels whose sound has stopped coming since this was last asked."""
        found = [c for c, at in self._heard.items() if c not in self.stalled and now_s - at >= self._limit_s]
        self.stalled.update(found)
        return found

    def is_lost(self, now_s: float) -> bool:
        if self._gone is not None:
            return now_s - self._gone >= self._grace_s
        return now_s - self._latest >= self._config.idle_s

    def silent_s(self, now_s: float) -> float:
        """How long no channel has had any sound."""
        return now_s - max(self._heard.values())

    def wait_s(self, now_s: float) -> float:
        """How long nothing can change by itself."""
        ends = [at + self._limit_s for channel, at in self._heard.items() if channel not in self.stalled]
        lost = self._latest + self._config.idle_s if self._gone is None else self._gone + self._grace_s
        return max(0.0, min([*ends, lost]) - now_s)

    @property
    def _limit_s(self) -> float:
        if self._gone is not None:
            return float("inf") if self._keeps_sound else 0.0
        return max(self._config.stall_s, self._config.grace_s) if self._looks_up else self._config.stall_s
