"""The order in which work is shed, and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.overload import STEPS, Overload, OverloadConfig
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError

CONFIG = OverloadConfig(interim_ms=1000, asr_ms=2000, refuse_ms=4000, calm_s=5)


def test_each_step_is_taken_once_in_order_and_told():
    overload = Overload(CONFIG)
    assert overload.step(999, 0) == []
    assert (overload.interim, overload.asr, overload.new_calls) == (True, True, True)
    assert overload.step(1000, 1) == ["no interim results"]
    assert overload.step(1500, 2) == []
    assert overload.step(9000, 3) == ["no speech recognition", "no new calls"]
    assert (overload.interim, overload.asr, overload.new_calls) == (False, False, False)
    assert overload.taken == [1, 1, 1]


def test_the_way_back_is_step_by_step_and_only_after_a_calm_time():
    overload = Overload(CONFIG)
    overload.step(4000, 0)
    overload.step(1999, 1)
    overload.step(2000, 4)  # not calm any more
    overload.step(0, 5)
    overload.step(0, 9.9)
    assert overload.level == 3
    overload.step(0, 10)
    assert overload.level == 2
    overload.step(0, 11)
    overload.step(0, 16)
    assert overload.level == 1
    overload.step(0, 17)
    overload.step(0, 22)
    assert overload.level == 0
    assert overload.step(4000, 23) == list(STEPS)
    assert overload.taken == [2, 2, 2]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 3)), max_size=60))
def test_what_is_shed_is_always_a_beginning_of_the_order(steps: list[tuple[int, float]]):
    overload, now = Overload(CONFIG), 0.0
    for lag_ms, passed in steps:
        now += passed
        before = overload.level
        told = overload.step(lag_ms, now)
        assert told == list(STEPS[before : before + len(told)])
        assert overload.level >= before - 1
        assert [overload.interim, overload.asr, overload.new_calls] == [overload.level < n for n in (1, 2, 3)]


def test_limits_out_of_order_are_refused():
    with pytest.raises(ConfigError, match="must not fall"):
        load_config(OverloadConfig, overrides=["asr_ms=500"])
