"""One channel's sound is dealt out to its speakers: nothing twice, nothing lost, and cut where it is quiet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.transcripts.lanes import LaneCutter, cuts_between
from bcaf_stream.types import AudioChunk, Words

RATE = 8000
REST = "mono"


def dealt(sound: np.ndarray, words: list[Words], chunk: int, lanes=("Ann", "Bob", REST)) -> dict[str, np.ndarray]:
    cutter = LaneCutter(lanes, cuts_between(words, REST))
    chunks = []
    for start in range(0, len(sound), chunk):
        chunks += cutter.push(AudioChunk(REST, start, RATE, sound[start : start + chunk]))
    chunks += cutter.flush()
    parts: dict[str, list[np.ndarray]] = {lane: [np.zeros(0, np.int16)] for lane in lanes}
    for number, piece in enumerate(chunks):
        assert piece.channel == lanes[number % len(lanes)]
        assert piece.start == sum(map(len, parts[piece.channel]))
        parts[piece.channel].append(piece.samples)
    return {lane: np.concatenate(pieces) for lane, pieces in parts.items()}


WORDS = st.lists(
    st.builds(
        lambda start, length, lane: Words(start, start + length, "word", lane),
        st.integers(0, 6000),
        st.integers(0, 3000),
        st.sampled_from(["Ann", "Bob", None]),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(WORDS, st.integers(0, 40_000), st.sampled_from([7, 800, 2400, 100_000]))
def test_every_sample_is_in_one_lane_whatever_the_chunks(words, length, chunk):
    sound = np.random.default_rng(length).integers(1, 100, length).astype(np.int16)
    lanes = dealt(sound, words, max(chunk, length // 50 + 1))
    assert all(len(lane) == length for lane in lanes.values())
    assert (sum(lane != 0 for lane in lanes.values()) == 1).all()
    np.testing.assert_array_equal(sum(lanes.values()), sound)
    whole = dealt(sound, words, length + 1)
    for name, lane in lanes.items():
        np.testing.assert_array_equal(lane, whole[name])


def test_the_cut_lies_in_the_quietest_moment_near_the_times():
    sound = np.full(4 * RATE, 1000, np.int16)
    sound[int(1.88 * RATE) : int(1.96 * RATE)] = 0  # the pause; the file says 2.0 s
    lanes = dealt(sound, [Words(0, 2000, "a", "Ann"), Words(2000, 4000, "b", "Bob")], 800)
    assert np.flatnonzero(lanes["Ann"])[-1] / RATE == pytest.approx(1.88, abs=0.001)
    assert np.flatnonzero(lanes["Bob"])[0] / RATE == pytest.approx(1.96, abs=0.001)
    assert not lanes[REST].any()


def owner(words: list[Words], at_ms: int) -> str:
    sound = np.ones(10 * RATE, np.int16)
    return next(name for name, lane in dealt(sound, words, 800).items() if lane[at_ms * RATE // 1000])


def test_who_began_last_has_the_sound_and_gives_it_back():
    words = [Words(0, 6000, "a long story", "Ann"), Words(3000, 3600, "mhm", "Bob")]
    assert [owner(words, at) for at in (1000, 2700, 3300, 3900, 5900)] == ["Ann", "Ann", "Bob", "Ann", "Ann"]


def test_speech_far_from_every_turn_is_nobodys():
    words = [Words(2000, 3000, "a", "Ann"), Words(3400, 4000, "b", "Bob"), Words(8000, 8500, "c", "Bob")]
    found = [owner(words, at) for at in (500, 2500, 3700, 4200, 6000, 8200, 9800)]
    assert found == [REST, "Ann", "Bob", "Bob", REST, "Bob", REST]


def test_words_that_alternate_within_an_overlap_do_not_chop_the_sound():
    ann = [Words(at, at + 300, "a", "Ann") for at in range(0, 3000, 300)]
    bob = [Words(at, at + 300, "b", "Bob") for at in range(2450, 5000, 300)]
    assert [cut.lane for cut in cuts_between(ann + bob, REST)] == ["Ann", "Bob", REST]
