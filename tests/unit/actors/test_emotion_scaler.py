"""As many emotion actors as are wanted: when each is made, asked, left alone and ended."""

import pytest
from pydantic import ValidationError

from actors.config import EmotionConfig
from actors.emotion_scaler import LEAVE_S, EmotionScaler, Stats
from actors.scaling import ScalingConfig

CONFIG = ScalingConfig(min=1, max=2, late_ms=300, busy=0.6, up_s=3, down_s=60)


class Actors:
    """What they would say of themselves, after so many seconds at work."""

    def __init__(self) -> None:
        self.busy_s = {"emotion-0": 0.0}
        self.starting: set[str] = set()
        self.ended: list[str] = []
        self.late_ms = 0

    def create(self, name: str) -> None:
        self.busy_s[name] = 0.0
        self.starting.add(name)

    def end(self, name: str) -> None:
        del self.busy_s[name]
        self.ended.append(name)

    def stats(self) -> Stats:
        own: Stats = {
            name: {"ready": name not in self.starting, "busy_total_s": busy} for name, busy in self.busy_s.items()
        }
        return own | {"ingest": {"lags_ms": {"emotion": self.late_ms}}}


def test_one_more_is_asked_when_it_is_ready_and_ends_when_it_has_answered():
    actors = Actors()
    scaler = EmotionScaler(CONFIG, ["emotion-0"], actors.create, actors.end)
    now_s, asked = 0.0, [["emotion-0"]]

    def look(seconds: int, late_ms: int, share: float) -> None:
        nonlocal now_s
        actors.late_ms = late_ms
        for _ in range(seconds):
            now_s += 1
            for name in actors.busy_s:
                actors.busy_s[name] += share
            names = scaler.look(actors.stats(), now_s)
            if names != asked[-1]:
                asked.append(names)

    look(10, 900, 1.0)
    assert (scaler.coming, asked) == ({"emotion-1"}, [["emotion-0"]])
    actors.starting.clear()
    look(30, 50, 0.5)
    assert (scaler.coming, asked[1:]) == (set(), [["emotion-0", "emotion-1"]])
    look(70, 50, 0.1)
    assert asked[2:] == [["emotion-0"]]
    look(round(LEAVE_S) + 1, 50, 0.1)
    assert actors.ended == ["emotion-1"]
    assert "emotion-0" in actors.busy_s


def test_a_pool_that_scales_begins_with_its_least():
    assert EmotionConfig(scaling=ScalingConfig(min=2, max=3)).at_first == 2
    assert EmotionConfig(replicas=4).at_first == 4
    with pytest.raises(ValidationError, match="leave replicas out"):
        EmotionConfig(replicas=2, scaling=ScalingConfig(max=3))
