"""Any chunking of the sound, and any interleaving of the channels, gives the same segments in the same order."""

import functools
import itertools
import random

import numpy as np
import pytest

from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.config import load_config
from bcaf_stream.types import AudioChunk, Call, Channel
from tests.components import require
from tests.unit.audio.signals import SHARED, babble, decode, silence

CALL = Call("c", (Channel("customer", "customer"), Channel("agent", "agent")))
SIDES = ("caller", "agent")  # of the shared recording
SPLITTING = load_config(AudioConfig, overrides=["segmenter.max_ms=2000", "segmenter.split_search_ms=600"])


@functools.cache
def two_channels(rate):
    """A short dialogue with overlap; both channels end in the middle of speech."""
    customer = [silence(0.4, rate), babble(1.2, rate, 1), silence(0.9, rate), babble(0.8, rate, 0)]
    agent = [babble(0.7, rate, 2), silence(0.7, rate), babble(1.3, rate, 1), silence(0.1, rate)]
    return {"customer": np.concatenate(customer), "agent": np.concatenate(agent)}


def pieces(sound, rate, size):
    """Chunks by channel; the wall clock is the stream's, so that it depends on no chunking either."""
    return {
        name: [
            AudioChunk(name, i, rate, samples[i : i + size], (i + len(samples[i : i + size])) * 10**9 // rate)
            for i in range(0, len(samples), size)
        ]
        for name, samples in sound.items()
    }


def lockstep(chunks):
    queues = [list(c) for c in chunks.values()]
    while any(queues):
        yield from (queue.pop(0) for queue in queues if queue)


def one_after_the_other(chunks):
    for channel in reversed(list(chunks)):
        yield from chunks[channel]


def shuffled(chunks):
    queues, rng = [list(c) for c in chunks.values()], random.Random(3)
    while any(queues):
        yield rng.choice([q for q in queues if q]).pop(0)


def cut(chunks, config=None):
    cutter = CallCutter(CALL, config)
    out = [segment for chunk in chunks for segment in cutter.push(chunk)] + cutter.flush()
    return [(s.channel, s.index, s.start_ms, s.end_ms, s.closed_ms, s.split, s.samples.tobytes()) for s in out]


@pytest.fixture(scope="module")
def expected():
    cache = {}

    def get(rate, config):
        if (rate, id(config)) not in cache:
            sound = two_channels(rate)
            cache[rate, id(config)] = cut(lockstep(pieces(sound, rate, 10**9)), config)
        return cache[rate, id(config)]

    return get


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("config", [None, SPLITTING], ids=["default", "splitting"])
def test_the_whole_file_gives_segments_of_both_channels(expected, rate, config):
    segments = expected(rate, config)
    assert {s[0] for s in segments} == {"customer", "agent"}
    assert len(segments) >= 3
    assert [(s[4], s[0] != "customer") for s in segments] == sorted((s[4], s[0] != "customer") for s in segments)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("size", [7, 160, 16000])
@pytest.mark.parametrize("interleave", [lockstep, one_after_the_other, shuffled], ids=lambda f: f.__name__)
def test_chunking_and_interleaving(expected, rate, size, interleave):
    assert cut(interleave(pieces(two_channels(rate), rate, size))) == expected(rate, None)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_single_samples(expected, rate):
    assert cut(shuffled(pieces(two_channels(rate), rate, 1))) == expected(rate, None)


@pytest.mark.parametrize("size", [7, 160, 16000])
def test_splits_too(expected, size):
    assert cut(shuffled(pieces(two_channels(8000), 8000, size)), SPLITTING) == expected(8000, SPLITTING)


def test_chunks_of_random_lengths(expected):
    rng = np.random.default_rng(11)
    chunks = {}
    for name, samples in two_channels(8000).items():
        bounds = np.unique(np.concatenate([[0, len(samples)], rng.integers(0, len(samples), 200)]))
        chunks[name] = [AudioChunk(name, int(a), 8000, samples[a:b]) for a, b in itertools.pairwise(bounds)]
    assert cut(shuffled(chunks)) == expected(8000, None)


def test_the_wall_clock_of_the_end_hardly_depends_on_the_chunks():
    def ends(size):
        cutter, out = CallCutter(CALL), []
        for chunk in lockstep(pieces(two_channels(8000), 8000, size)):
            out += cutter.push(chunk)
        return [s.speech_ended_at for s in out + cutter.flush()]

    fine, coarse = ends(80), ends(4000)
    assert len(fine) == len(coarse) > 2
    assert np.abs(np.array(fine) - np.array(coarse)).max() < 15e6


@pytest.fixture(scope="module")
def real_call():
    """The first 30 s of a real two-channel telephone call, and its files."""
    files = {
        c.name: SHARED / "calls" / f"auto_repairs_40_{side}.flac"
        for c, side in zip(CALL.channels, SIDES, strict=True)
    }
    require("shared data")
    return {name: decode(path)[0, : 30 * 8000] for name, path in files.items()}, files


def test_a_real_call(real_call):
    whole = cut(lockstep(pieces(real_call[0], 8000, 10**9)))
    assert len(whole) >= 4
    for size, interleave in ((160, shuffled), (1601, one_after_the_other), (16000, lockstep)):
        assert cut(interleave(pieces(real_call[0], 8000, size))) == whole


def test_slices_of_a_real_file(real_call):
    def segments(slice_ms):
        with FileSource(real_call[1], slice_ms=slice_ms) as source:
            return cut(itertools.takewhile(lambda chunk: chunk.start < 20 * 8000, source))

    assert segments(20) == segments(1000) != []
