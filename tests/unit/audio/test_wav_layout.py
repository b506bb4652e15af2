"""WAV headers that are not true: what is there is read, and what is not is said."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.wav_layout import wav_parts
from bcaf_stream.errors import SourceError
from tests.unit.audio.signals import babble, write

RATE = 8000
SOUND = babble(6, RATE)


def wav(tmp_path, sound_N=SOUND, codec="pcm_s16le", name="a.wav"):
    return write(tmp_path / name, sound_N[None], RATE, codec)


def resized(path, change):
    """The same file, with another size of its sound in its header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    (size,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, change(size))
    path.write_bytes(data)
    return path


def read(path, tells_duration=True):
    with FileSource(path) as source:
        duration_ms = source.duration_ms
        sound = np.concatenate([chunk.samples for chunk in source])
        assert not tells_duration or duration_ms == pytest.approx(len(sound) * 1000 / RATE, rel=0.02)
        return sound, [note.removeprefix(f"{path}: ") for note in source.notes]


def test_a_header_that_is_right(tmp_path):
    sound, notes = read(wav(tmp_path))
    np.testing.assert_array_equal(sound, SOUND)
    assert not notes


@pytest.mark.parametrize("more", [1, 2, 8, 36, 44, 100, 3000])
def test_a_few_bytes_that_are_not_there(tmp_path, more):
    sound, notes = read(resized(wav(tmp_path), lambda size: size + more))
    np.testing.assert_array_equal(sound, SOUND)
    assert notes == [f"its header promises {more} bytes more than there are; it is taken for complete"]


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav"])
def test_half_a_file_stops_early(tmp_path, codec):
    path = wav(tmp_path, codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"ends at [23]\.\d\d s, but its header says [56]\.\d\d s"):
        read(path)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.aiff", "pcm_s16be"), ("a.au", "pcm_mulaw"), ("a.caf", "pcm_s16le"), ("a.w64", "pcm_s16le")],
)
def test_half_of_another_file_stops_early(tmp_path, name, codec):
    path = wav(tmp_path, codec=codec, name=name)
    sound, notes = read(path)
    assert (len(sound), notes) == (len(SOUND), [])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"ends at [23]\.\d\d s, but its header says 6\.0\d s"):
        read(path)


@pytest.mark.parametrize(("name", "codec"), [("a.aiff", "pcm_s16be"), ("a.w64", "pcm_s16le")])
def test_a_second_file_that_is_not_read_is_told(tmp_path, name, codec):
    path = wav(tmp_path, codec=codec, name=name)
    path.write_bytes(path.read_bytes() * 2)
    sound, notes = read(path, tells_duration=False)
    assert len(sound) == len(SOUND)
    assert notes == ["another file begins behind its sound, and is not read: cut it off"]


@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav"])
def test_samples_that_a_compressed_header_counts_wrong(tmp_path, codec):
    path = wav(tmp_path, codec=codec)
    data = bytearray(path.read_bytes())
    at = data.find(b"fact")
    if at >= 0:
        struct.pack_into("<I", data, at + 8, 7 * RATE)
        path.write_bytes(data)
    sound, notes = read(path, tells_duration=False)
    assert len(sound) / RATE == pytest.approx(6, abs=0.15)
    assert not notes


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_mulaw"])
def test_a_size_from_minutes_ago(tmp_path, codec):
    sound, notes = read(resized(wav(tmp_path, codec=codec), lambda size: size // 3))
    assert len(sound) == len(SOUND)
    assert np.corrcoef(sound, SOUND)[0, 1] > 0.99
    assert len(notes) == 1
    assert "all are read" in notes[0]


def test_files_one_after_the_other(tmp_path):
    one, two = wav(tmp_path), wav(tmp_path, -SOUND, name="b.wav")
    both = tmp_path / "both.wav"
    both.write_bytes(one.read_bytes() + two.read_bytes() + one.read_bytes())
    sound, notes = read(both)
    np.testing.assert_array_equal(sound, np.concatenate([SOUND, -SOUND, SOUND]))
    assert notes == ["holds 3 WAV files one after the other: all are read"]


def test_the_second_file_of_another_rate_is_said(tmp_path):
    two = write(tmp_path / "b.wav", SOUND[None], 2 * RATE)
    both = tmp_path / "both.wav"
    both.write_bytes(wav(tmp_path).read_bytes() + two.read_bytes())
    with pytest.raises(SourceError, match=r"changes at 6\.00 s from 1 channels of 8000 Hz to 1 of 16000 Hz"):
        read(both)


@pytest.mark.parametrize(
    "tail",
    [
        b"LIST" + struct.pack("<I", 4) + b"INFO",
        b"bext" + struct.pack("<I", 600) + bytes(600),
        b"TAG" + bytes(125),
        b"ID3\4\0\0\0\0\0\x20" + bytes(32),
        b"\0",
        bytes(3000),
    ],
)
def test_what_is_no_sound_behind_the_sound(tmp_path, tail):
    path = wav(tmp_path)
    path.write_bytes(path.read_bytes() + tail)
    sound, notes = read(path)
    np.testing.assert_array_equal(sound, SOUND)
    assert not any("all are read" in note for note in notes)


def test_noise_behind_the_sound_is_not_taken_for_sound(tmp_path):
    path = wav(tmp_path)
    path.write_bytes(path.read_bytes() + b"\1" + np.random.default_rng(1).bytes(20_000))
    sound, notes = read(path)
    assert len(sound) == len(SOUND)
    assert "20001 bytes behind its sound are not known to be sound" in notes[0]


@settings(deadline=None)  # files, on a busy machine
@given(st.binary(max_size=300))
def test_anything_is_looked_at_without_another_error(tmp_path_factory, junk):
    path = tmp_path_factory.getbasetemp() / "junk.wav"
    for head in (
        b"",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0",
        b"RIFF\0\0\0\0WAVEdata\x04\0\0\0abcd",
    ):
        path.write_bytes(head + junk)
        try:
            parts = wav_parts(path)
        except SourceError:
            continue
        for part in parts:
            assert part.end <= path.stat().st_size
            assert part.missing >= 0


def test_a_header_that_says_two_things_of_the_channels_is_no_sound_at_half_the_speed(tmp_path):
    path = wav(tmp_path)
    data = bytearray(path.read_bytes())
    rate, _, align = struct.unpack_from("<IIH", data, 24)
    struct.pack_into("<IH", data, 28, rate * align * 2, align * 2)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="contradicts itself"):
        read(path)
