"""Who speaks on one channel that several people share; the two voices are those of the demo call, summed."""

import functools
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.speakers import models
from bcaf_stream.audio.speakers.clustering import Clusters, LocalSpeaker
from bcaf_stream.audio.speakers.config import SpeakerConfig, speakers_of
from bcaf_stream.audio.speakers.diarizer import Diarizer
from bcaf_stream.audio.speakers.segmenter import TURN, changes, cuts_of, overlaps, turns_of
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.config import load_config
from bcaf_stream.errors import CheckpointError, ConfigError
from bcaf_stream.types import AudioChunk, Call, Channel

DEMO = Path(__file__).parents[3] / "bcaf_stream" / "demo" / "call.wav"
MIXED = Call("c", (Channel("room", "speaker"),))
PARTIES = Call("c", (Channel("customer", "customer"), Channel("agent", "agent")))
SECONDS = 30


@functools.cache
def demo():
    """The first half minute of each channel, at 8 kHz."""
    sound = {"customer": [], "agent": []}
    with FileSource(str(DEMO)) as source:
        for chunk in source:
            sound[chunk.channel].append(chunk.samples)
            rate = chunk.rate
    return {name: np.concatenate(parts)[: SECONDS * rate] for name, parts in sound.items()}, rate


def mixed():
    sound, rate = demo()
    return np.clip(sum(one.astype(np.int32) for one in sound.values()), -32768, 32767).astype(np.int16), rate


def cut(sound, rate, size, call=MIXED, config=None):
    cutter = CallCutter(call, config)
    (channel,) = [one.name for one in call.channels]
    found = []
    for start in range(0, len(sound), size):
        found += cutter.push(AudioChunk(channel, start, rate, sound[start : start + size], 1 + start))
    return found + cutter.flush()


def told(segments):
    return [
        (s.index, s.start_ms, s.end_ms, s.closed_ms, s.speaker, s.speaker_confidence, s.overlap, s.relabelled)
        for s in segments
    ]


@functools.cache
def of_the_sum():
    return cut(*mixed(), 1600)


def test_the_sum_of_two_channels_has_the_turns_of_the_two():
    sound, rate = demo()
    apart = CallCutter(PARTIES)
    parties = [s for name in sound for s in apart.push(AudioChunk(name, 0, rate, sound[name]))] + apart.flush()
    whose = {}
    for segment in of_the_sum():
        shared = dict.fromkeys(sound, 0)
        for other in parties:
            both = min(other.end_ms, segment.end_ms) - max(other.start_ms, segment.start_ms)
            shared[other.channel] += max(0, both)
        closest = max(shared, key=shared.get)
        assert whose.setdefault(segment.speaker, closest) == closest
        if segment.closed_ms > 10_000 and segment.overlap == 0:
            assert min(shared.values()) < 900, "a segment holds two people"
    assert whose == {"S1": "agent", "S2": "customer"}
    indices = [segment.index for segment in of_the_sum()]
    assert indices == list(range(len(indices)))
    covered = sum(s.end_ms - s.start_ms for s in of_the_sum())
    plain = cut(*mixed(), 1600, config=load_config(AudioConfig, overrides=["speakers=off"]))
    assert covered == sum(s.end_ms - s.start_ms for s in plain), "no speech is lost by cutting"
    assert len(plain) < len(indices)
    assert {s.speaker for s in plain} == {None}


@pytest.mark.parametrize("size", [137, 16_000, 10**6])
def test_chunks_do_not_matter(size):
    sound, rate = mixed()
    assert told(cut(sound[: 12 * rate], rate, size)) == told(cut(sound[: 12 * rate], rate, 1600))


def test_a_segment_that_goes_on_is_cut_while_it_does():
    sound, rate = mixed()
    cutter, first = CallCutter(MIXED), None
    for start in range(0, 12 * rate, rate // 10):
        found = cutter.push(AudioChunk("room", start, rate, sound[start : start + rate // 10]))
        first = first or (found[0] if found else None)
    assert first is not None
    assert first.end_ms < first.closed_ms <= first.end_ms + 1500
    assert np.array_equal(first.samples, of_the_sum()[0].samples)


def test_auto_listens_where_a_channel_is_shared():
    auto, most = SpeakerConfig(), SpeakerConfig(max=3)
    assert speakers_of("auto", MIXED.channels) == {"room": auto}
    assert speakers_of("auto", PARTIES.channels) == {}
    assert speakers_of("auto", [*PARTIES.channels, *MIXED.channels]) == {"room": auto}
    several = [Channel("a"), Channel("b")]
    assert speakers_of("auto", several) == {}
    assert speakers_of(most, several) == {"a": most, "b": most}
    assert speakers_of("off", MIXED.channels) == {}
    assert load_config(AudioConfig, overrides=["speakers.max=3"]).speakers == most
    with pytest.raises(ConfigError, match="speakers"):
        load_config(AudioConfig, overrides=["speakers=many"])


def test_a_channel_of_one_party_has_no_cost(monkeypatch):
    monkeypatch.setattr("bcaf_stream.audio.speakers.segmenter.SpeakerSegmenter", None)
    assert CallCutter(PARTIES).flush() == []  # nothing is made that tells speakers apart
    with pytest.raises(TypeError):
        CallCutter(MIXED)


@pytest.mark.parametrize("kind", ["noise", "tone", "silence", "square"])
def test_what_is_no_speech_has_no_speaker(kind):
    time = np.arange(6 * 16_000) / 16_000
    wave = {
        "noise": np.random.default_rng(0).normal(0, 0.1, len(time)),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "silence": 0 * time,
        "square": 0.3 * np.sign(np.sin(2 * np.pi * 3 * time)),
    }[kind]
    assert all(segment.speaker is None for segment in cut((wave * 32767).astype(np.int16), 16_000, 1600))


def test_a_choir_is_heard_without_harm():
    both, rate = mixed()
    choir = sum(np.roll(both[: 10 * rate].astype(np.int32), shift * rate) for shift in range(6)) // 3
    segments = cut(np.clip(choir, -32768, 32767).astype(np.int16), rate, 1600)
    assert segments
    assert all(0 <= (segment.overlap or 0) <= 1 for segment in segments)
    assert {segment.speaker for segment in segments} <= {"S1", "S2", "S3", "S4", None}


def test_memory_does_not_grow():
    diarizer = Diarizer(20, 750)
    noise = np.random.default_rng(0).normal(0, 2000, 320).astype(np.int16)

    def minutes(count):
        for frame in range(count * 3000):
            diarizer.push(noise, speech=frame % 3000 < 300)
            if frame % 1500 == 0:
                diarizer.look(diarizer.now, final=True)

    minutes(1)
    tracemalloc.start()
    minutes(4)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2_000_000


# Turns and cuts

PEOPLE = st.lists(st.tuples(st.integers(1, 60), st.sets(st.integers(0, 2))), max_size=12)


def table(runs):
    rows = [[person in people for person in range(3)] for length, people in runs for _ in range(length)]
    return np.array(rows, bool).reshape(-1, 3)


@given(PEOPLE)
def test_changes_lie_between_turns_in_order(runs):
    active = table(runs)
    turns = turns_of(active)
    found = changes(turns, active)
    assert len(found) == max(0, len(turns) - 1)
    assert found == sorted(found)
    assert all(a.person != b.person for a, b in pairwise(turns))
    assert bool(turns) == bool(active.any())
    for turn, at in zip(turns[1:], found, strict=True):
        assert at < turn.end


@given(PEOPLE)
def test_cuts_are_as_far_apart_as_a_turn_is_long(runs):
    active = table(runs)
    cuts = cuts_of(active, active.sum(1) > 1)
    assert all(0 < at < len(active) for at in cuts)
    assert all(b - a >= TURN for a, b in pairwise([0, *cuts]))
    for begin, end in overlaps(active.sum(1) > 1):
        inside = [at for at in cuts if begin + TURN <= at <= end - TURN]
        assert not inside, "several at once are one segment"


@pytest.mark.parametrize(
    ("runs", "people", "cuts"),
    [
        ([(50, {0}), (10, set()), (50, {1})], [0, 1], [55]),  # a pause: its middle
        ([(50, {0}), (TURN - 2, {0, 1}), (50, {1})], [0, 1], [59]),  # both at once, shortly: its middle
        ([(50, {0}), (TURN, {0, 1}), (50, {1})], [0, 1], [50, 70]),  # both at once: a segment of its own
        ([(50, {0}), (40, {0, 1}), (50, {0})], [0], [50, 90]),  # the same, and not taken over
        ([(50, {0}), (9, {0, 1}), (4, {0}), (9, {0, 1}), (50, {0})], [0], [50, 72]),  # with a break
        ([(10, {0}), (40, {0, 1}), (50, {0})], [0], [50]),  # what is before it is too short to be a segment
        ([(50, {0}), (TURN - 1, {1}), (50, {0})], [0], []),  # too short to be a turn
        ([(50, {0}), (TURN, {1}), (50, {0})], [0, 1, 0], [50, 70]),
    ],
)
def test_where_segments_are_cut(runs, people, cuts):
    active = table(runs)
    assert [turn.person for turn in turns_of(active)] == people
    assert cuts_of(active, active.sum(1) > 1) == cuts


def test_more_voices_than_there_may_be_are_said_once():
    both, rate = mixed()
    segments = cut(both, rate, 1600, config=load_config(AudioConfig, overrides=["speakers.max=1"]))
    notes = [note for segment in segments for note in segment.notes]
    assert notes == ["speakers: more than 1 voices in channel room; the others go by the closest one"]
    assert {segment.speaker for segment in segments} <= {"S1", None}


# Clustering


def unit(*values):
    vector = np.zeros(256, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def heard(*vectors, seconds=2.0):
    return [LocalSpeaker(vector, seconds, np.zeros(0)) for vector in vectors]


def test_two_local_speakers_are_two_persons_even_if_alike():
    clusters = Clusters(20)
    assert clusters.assign(heard(unit(1), unit(0, 1))) == [0, 1]
    near, nearer = unit(1, 0.6), unit(1, 0.1)
    first, second = clusters.assign(heard(near, nearer))
    assert second == 0
    assert first != 0


def test_who_is_heard_too_shortly_is_nobody_new():
    clusters = Clusters(20)
    assert clusters.assign(heard(unit(1))) == [0]
    assert clusters.assign(heard(unit(0, 1), seconds=0.3)) == [0]
    assert clusters.assign(heard(unit(0, 1), seconds=0.7)) == [1]
    assert clusters.assign([LocalSpeaker(None, 0.1, np.zeros(2))]) == [None]


def test_who_is_heard_too_shortly_takes_nobodys_place():
    clusters = Clusters(20)
    clusters.assign(heard(unit(1)))
    short = LocalSpeaker(unit(0.2, 1), 0.3, np.zeros(0))
    assert clusters.assign([*heard(unit(1)), short]) == [0, None]


def test_more_people_than_there_may_be_go_by_the_closest_and_it_is_known():
    clusters = Clusters(2)
    clusters.assign(heard(unit(1), unit(0, 1)))
    assert not clusters.full
    assert clusters.assign(heard(unit(0.2, 0, 1))) == [0]
    assert clusters.full


def test_persons_that_become_alike_are_joined():
    clusters = Clusters(20)
    assert clusters.assign(heard(unit(1), unit(0, 1))) == [0, 1]
    one, other = unit(1, 0.5), unit(0.5, 1)
    for _ in range(8):
        if not clusters.joined:
            people = clusters.assign(heard(one, other, seconds=3.0))
    assert clusters.joined == {1: 0}
    assert people == [0, 0]
    assert clusters.assign(heard(one)) == [0]


# Models


def test_the_filter_bank_is_kaldis():
    torch = pytest.importorskip("torch")
    from torchaudio.compliance.kaldi import fbank

    sound, _ = mixed()
    ours = models._filter_bank(sound[:16_000])
    theirs = fbank(
        torch.from_numpy(sound[:16_000].astype(np.float32))[None],
        num_mel_bins=80, dither=0.0, window_type="hamming", use_energy=False,
    )  # fmt: skip
    assert np.abs(ours - theirs.numpy()).max() < 2e-3


def test_a_damaged_weight_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="missing"):
        models._bytes("segmentation.onnx")
    (tmp_path / "segmentation.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"damaged.*audio.speakers=off"):
        models._bytes("segmentation.onnx")
