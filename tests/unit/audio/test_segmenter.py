import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.audio.frames import FRAME_MS, FRAME_SAMPLES, Frame
from bcaf_stream.audio.segmenter import Segmenter, SegmenterConfig
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError

RAMP = np.arange(FRAME_SAMPLES, dtype=np.int16)
SMALL = SegmenterConfig(  # small enough that short random sequences reach every rule
    start_window_ms=60,
    start_ratio=0.6,
    stop_window_ms=100,
    stop_ratio=0.2,
    pre_roll_ms=60,
    hangover_ms=40,
    min_ms=80,
    max_ms=400,
    split_search_ms=120,
)


def frame(index, speech, level=-30.0, length=FRAME_SAMPLES):
    """The samples tell which frame they came from, so that a lost or doubled one shows."""
    return Frame(
        speech, level, (RAMP + index * 7).astype(np.int16)[:length], ended_at=(index + 1) * FRAME_MS * 10**6
    )


def frames_of(flags, levels=None):
    levels = levels or [-30.0] * len(flags)
    return [frame(i, bool(f), level) for i, (f, level) in enumerate(zip(flags, levels, strict=True))]


def cut(frames, config=SMALL):
    stage = Segmenter("c", config)
    return stage.push(frames) + stage.flush()


def key(segments):
    return [
        (s.index, s.start_ms, s.end_ms, s.closed_ms, s.split, s.speech_ended_at, s.samples.tobytes())
        for s in segments
    ]


def times(segments):
    return [(s.start_ms, s.end_ms) for s in segments]


def pattern(*runs):
    """Alternating silence and speech in ms: pattern(100, 300, ...) starts with 100 ms of silence."""
    return [bool(i % 2) for i, ms in enumerate(runs) for _ in range(ms // FRAME_MS)]


decisions = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=25).map(
    lambda runs: [flag for quiet, loud in runs for flag in [False] * quiet + [True] * loud]
)
raw_decisions = st.lists(st.booleans(), max_size=300)
any_flags = st.one_of(decisions, raw_decisions)
levels_for = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(any_flags, levels_for)
def test_segments_are_sorted_disjoint_and_hold_their_own_samples(flags, rng):
    frames = frames_of(flags, list(rng.uniform(-90, 0, len(flags))))
    segments = cut(frames)
    assert [s.index for s in segments] == list(range(len(segments)))
    sound = np.concatenate([np.zeros(0, np.int16)] + [f.samples for f in frames])
    for segment in segments:
        assert 0 <= segment.start_ms < segment.end_ms <= segment.closed_ms <= len(flags) * FRAME_MS
        np.testing.assert_array_equal(segment.samples, sound[segment.start_ms * 16 : segment.end_ms * 16])
        assert segment.speech_ended_at == segment.end_ms * 10**6
    for before, after in itertools.pairwise(segments):
        assert before.end_ms <= after.start_ms
        assert before.closed_ms <= after.closed_ms
        if before.split:
            assert after.start_ms == before.end_ms, "a split segment goes on without a gap"
    assert not (segments and segments[-1].split)


@given(any_flags, levels_for)
def test_lengths_are_respected(flags, rng):
    segments = cut(frames_of(flags, list(rng.uniform(-90, 0, len(flags)))))
    continues = False
    for segment in segments:
        inside = flags[segment.start_ms // FRAME_MS : segment.end_ms // FRAME_MS]
        assert any(inside)
        assert segment.end_ms - segment.start_ms <= SMALL.max_ms
        if not continues and not segment.split:
            voiced = [i for i, flag in enumerate(inside) if flag]
            assert (voiced[-1] + 1 - voiced[0]) * FRAME_MS >= SMALL.min_ms
        if segment.split:
            assert segment.end_ms - segment.start_ms >= SMALL.max_ms - SMALL.split_search_ms
        continues = segment.split


@given(any_flags, levels_for)
def test_every_voiced_run_of_the_shortest_length_is_inside(flags, rng):
    kept = np.zeros(len(flags), bool)
    for segment in cut(frames_of(flags, list(rng.uniform(-90, 0, len(flags))))):
        kept[segment.start_ms // FRAME_MS : segment.end_ms // FRAME_MS] = True
    at = 0
    for flag, run in itertools.groupby(flags):
        length = len(list(run))
        if flag and length * FRAME_MS >= SMALL.min_ms:
            assert kept[at : at + length].all()
        at += length


@given(any_flags, levels_for, st.integers(1, 40))
def test_any_chunking_gives_the_same_segments(flags, rng, size):
    frames = frames_of(flags, list(rng.uniform(-90, 0, len(flags))))
    stage = Segmenter("c", SMALL)
    parts = [s for i in range(0, len(frames), size) for s in stage.push(frames[i : i + size])] + stage.flush()
    assert key(parts) == key(cut(frames))


@given(any_flags)
def test_what_is_decided_stays_decided(flags):
    """Nothing that comes later closes before `progressed_ms`: the order of the dialogue relies on it."""
    stage = Segmenter("c", SMALL)
    for one in frames_of(flags):
        known = stage.progressed_ms
        assert all(s.closed_ms > known for s in stage.push([one]))
    assert all(s.closed_ms == stage.progressed_ms for s in stage.flush())


@given(any_flags)
@settings(max_examples=30)
def test_memory_is_bounded(flags):
    stage = Segmenter("c", SMALL)
    most = len(pickle.dumps(stage)) + SMALL.max_ms // FRAME_MS * 2 * len(pickle.dumps(frames_of([True])))
    for one in frames_of(flags):
        stage.push([one])
        assert len(pickle.dumps(stage)) < most


def test_pre_roll_and_hang_over():
    (segment,) = cut(frames_of(pattern(400, 200, 400)))
    assert (segment.start_ms, segment.end_ms) == (400 - 60, 600 + 40)
    # 0.2 of 100 ms is one frame: the window still holds one voiced frame when the fourth silent one has come.
    assert segment.closed_ms == 600 + 80


def test_the_default_pre_roll_is_240_ms():
    (segment,) = cut(frames_of(pattern(1000, 1000, 1000)), SegmenterConfig())
    assert segment.start_ms == 1000 - 240
    assert 2000 < segment.end_ms < 2480


def test_pre_roll_never_reaches_into_the_previous_segment():
    first, second = cut(frames_of(pattern(100, 200, 120, 200, 200)))
    assert first.end_ms == 340
    assert second.start_ms == 420 - 60
    first, second = cut(frames_of(pattern(100, 200, 80, 200, 200)))
    assert second.start_ms == first.end_ms == 340


def test_pre_roll_never_reaches_before_the_beginning():
    assert times(cut(frames_of(pattern(20, 200, 200)))) == [(0, 260)]


def test_too_short_is_dropped():
    assert cut(frames_of(pattern(200, 60, 400))) == []
    assert times(cut(frames_of(pattern(200, 80, 400)))) == [(140, 320)]


def test_isolated_frames_open_nothing():
    assert cut(frames_of([True, False, False] * 30)) == []


def test_the_tail_is_flushed_with_its_last_incomplete_frame():
    frames = [*frames_of(pattern(100, 200)), frame(15, True, length=100)]
    (segment,) = cut(frames)
    assert (segment.start_ms, segment.end_ms, segment.closed_ms) == (40, 306, 306)
    assert len(segment.samples) == (300 - 40) * 16 + 100
    stage = Segmenter("c", SMALL)
    stage.push(frames)
    assert len(stage.flush()) == 1
    assert stage.flush() == []


def test_a_long_one_is_split_at_its_quietest_frame():
    flags = pattern(0, 600, 200)
    levels = [-30.0] * len(flags)
    levels[3] = -90.0  # quieter, but not within the search
    levels[16] = -50.0
    first, second = cut(frames_of(flags, levels))
    assert (first.start_ms, first.end_ms, first.closed_ms, first.split) == (0, 320, 400, True)
    assert (second.start_ms, second.end_ms, second.split) == (320, 640, False)


def test_the_rest_of_a_split_one_is_kept_however_short():
    flags = pattern(0, 400, 200)
    levels = [-30.0] * len(flags)
    levels[19] = -50.0
    first, second = cut(frames_of(flags, levels))
    assert first.split
    assert (second.start_ms, second.end_ms) == (380, 440)


def test_no_split_where_the_speech_has_ended():
    flags = pattern(0, 380, 200)
    levels = [-30.0 if flag else -80.0 for flag in flags]
    (segment,) = cut(frames_of(flags, levels))
    assert (segment.start_ms, segment.end_ms, segment.split) == (0, 400, False)


def test_without_a_clock_the_wall_time_stays_unknown():
    stage = Segmenter("c", SMALL)
    frames = [Frame(flag, -30.0, RAMP) for flag in pattern(100, 200, 200)]
    assert [s.speech_ended_at for s in stage.push(frames)] == [0]


def test_reset_starts_a_new_channel():
    stage = Segmenter("c", SMALL)
    frames = frames_of(pattern(100, 200, 200, 200))
    first = stage.push(frames)
    stage.reset()
    assert key(stage.push(frames)) == key(first)
    stage.close()
    assert stage.flush() == []
    assert stage.progressed_ms == 0


def test_settings_that_do_not_fit():
    with pytest.raises(ConfigError, match="hangover_ms must not be above stop_window_ms"):
        load_config(SegmenterConfig, overrides=["hangover_ms=500"])
    with pytest.raises(ConfigError, match=r"max_ms must be at least .* here 3960"):
        load_config(SegmenterConfig, overrides=["max_ms=3000"])
    with pytest.raises(ConfigError, match="max_ms must be at least"):
        load_config(SegmenterConfig, overrides=["min_ms=12000"])
    with pytest.raises(ConfigError, match="start_ratio: 0 given"):
        load_config(SegmenterConfig, overrides=["start_ratio=0"])
