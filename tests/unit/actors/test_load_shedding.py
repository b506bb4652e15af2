"""What is shed when a stage is behind, in which order, and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.load_shedding import Lags, LoadShedding, OverloadConfig
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError

CONFIG = OverloadConfig(interim_ms=1000, asr_ms=2000, refuse_ms=4000, calm_s=5)
INTERIM, RECOGNITION, CALLS = "no interim results", "no speech recognition", "no new calls"


def after(lags: Lags) -> LoadShedding:
    """What is in force after a look at these lags."""
    shedding = LoadShedding(CONFIG)
    shedding.look(lags, 0)
    return shedding


@pytest.mark.parametrize(
    ("lags", "taken"),
    [
        (Lags(), []),
        (Lags(999, 999, 999, 999), []),
        (Lags(sound=1000), [INTERIM]),
        (Lags(recognition=1000), [INTERIM]),
        (Lags(emotion=1000), [INTERIM]),
        (Lags(hub=1000), [INTERIM]),
        (Lags(sound=2000), [INTERIM, RECOGNITION]),
        (Lags(recognition=2000), [INTERIM, RECOGNITION]),
        (Lags(emotion=2000), [INTERIM]),
        (Lags(hub=2000), [INTERIM]),
        (Lags(sound=4000), [INTERIM, RECOGNITION, CALLS]),
        (Lags(emotion=8000), [INTERIM, CALLS]),  # an emotion actor that comes back in 8 s costs nobody's words
        (Lags(hub=8000), [INTERIM, CALLS]),
        (Lags(recognition=2500, emotion=60_000), [INTERIM, RECOGNITION, CALLS]),
    ],
)
def test_what_is_shed_follows_from_the_stage_that_is_behind(lags: Lags, taken: list[str]):
    assert LoadShedding(CONFIG).look(lags, 0) == taken
    shedding = after(lags)
    assert shedding.level == len(taken)
    assert (shedding.interim, shedding.recognition, shedding.new_calls) == (
        INTERIM not in taken,
        RECOGNITION not in taken,
        CALLS not in taken,
    )


def test_each_step_is_taken_once_and_told_once():
    shedding = LoadShedding(CONFIG)
    assert shedding.look(Lags(sound=1000), 0.0) == [INTERIM]
    assert shedding.look(Lags(sound=1500), 0.2) == []
    assert shedding.look(Lags(sound=9000), 0.4) == [RECOGNITION, CALLS]
    assert shedding.taken == [1, 1, 1]


def test_a_backlog_that_is_worked_off_is_waited_for():
    """After a stall of the process all of its stages are behind at once, and catch up in a second."""
    shedding = LoadShedding(CONFIG)
    shedding.look(Lags(), 0.0)
    assert shedding.look(Lags(sound=10_000), 10.0) == []  # ten seconds without a look: this process stood still
    for number, lag_ms in enumerate((9000, 7000, 4500, 2500)):
        assert shedding.look(Lags(sound=lag_ms), 10.25 + number / 4) == []
    assert shedding.look(Lags(sound=2500), 11.25) == [INTERIM, RECOGNITION]  # it does not fall any more


def test_the_way_back_is_only_after_a_calm_time():
    shedding = after(Lags(recognition=4000))
    shedding.look(Lags(recognition=1999), 0.5)
    shedding.look(Lags(recognition=2000), 4)  # not calm any more for new calls
    assert shedding.level == 3
    shedding.look(Lags(recognition=900), 5)
    shedding.look(Lags(recognition=900), 9.9)
    assert shedding.level == 3
    shedding.look(Lags(recognition=900), 10)
    assert (shedding.new_calls, shedding.recognition, shedding.interim) == (True, True, False)
    shedding.look(Lags(), 11)
    shedding.look(Lags(), 16)
    assert shedding.level == 0


LAGS = st.builds(Lags, *[st.integers(0, 10_000)] * 4)


@given(st.lists(st.tuples(LAGS, st.floats(0, 3)), max_size=60))
def test_recognition_is_never_shed_for_another_stage_and_never_first(looks: list[tuple[Lags, float]]):
    shedding, now_s = LoadShedding(CONFIG), 0.0
    for lags, passed_s in looks:
        now_s += passed_s
        told = shedding.look(lags, now_s)
        assert len(told) == len(set(told))
        if RECOGNITION in told:
            assert max(lags.sound, lags.recognition) >= 2000
        if CALLS in told:
            assert max(lags) >= 4000


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), max_size=60))
def test_an_outage_alone_never_costs_words(lags: list[tuple[int, int]]):
    shedding = LoadShedding(CONFIG)
    for number, (emotion_ms, hub_ms) in enumerate(lags):
        shedding.look(Lags(emotion=emotion_ms, hub=hub_ms), number / 4)
        assert shedding.recognition


def test_limits_out_of_order_are_refused():
    with pytest.raises(ConfigError, match="must not fall"):
        load_config(OverloadConfig, overrides=["asr_ms=500"])
