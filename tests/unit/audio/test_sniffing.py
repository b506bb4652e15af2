"""What bytes are, by their beginning: every container that users pipe or misname, and never a raw sound."""

import io

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.audio.sniffing import SNIFF_BYTES, sniff
from tests.unit.audio.signals import babble, tone


def encoded(container: str, codec: str, rate: int = 16_000) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(babble(3)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return target.getvalue()


@pytest.mark.parametrize(
    ("container", "codec", "name"),
    [
        ("wav", "pcm_s16le", "wav"),
        ("wav", "pcm_mulaw", "wav"),
        ("w64", "pcm_s16le", "w64"),
        ("flac", "flac", "flac"),
        ("opus", "libopus", "ogg"),
        ("webm", "libopus", "matroska"),
        ("matroska", "aac", "matroska"),
        ("mp4", "aac", "mp4"),
        ("mov", "pcm_s16le", "mp4"),
        ("adts", "aac", "aac"),
        ("mp3", "libmp3lame", "mp3"),
        ("mp2", "mp2", "mp3"),
        ("mpegts", "aac", "mpegts"),
        ("aiff", "pcm_s16be", "aiff"),
        ("au", "pcm_mulaw", "au"),
        ("caf", "pcm_s16le", "caf"),
        ("asf", "pcm_s16le", "asf"),
        ("avi", "pcm_s16le", "avi"),
        ("voc", "pcm_s16le", "voc"),
        ("flv", "libmp3lame", "flv"),
    ],
)
def test_containers(container: str, codec: str, name: str):
    rate = 22_050 if container == "flv" else 16_000
    assert sniff(encoded(container, codec, rate)[:SNIFF_BYTES]) == name


def test_mpeg_audio_without_an_id3_tag():
    with_tag = encoded("mp3", "libmp3lame")
    at = with_tag.index(b"\xff\xf3")
    assert with_tag.startswith(b"ID3")
    assert sniff(with_tag[at : at + SNIFF_BYTES]) == "mp3"


def test_other_magics():
    assert sniff(b"#!AMR\n" + bytes(50)) == "amr"
    assert sniff(b"RF64\xff\xff\xff\xffWAVEds64" + bytes(50)) == "wav"
    assert sniff(b"RIFX\0\0\0\0WAVEfmt " + bytes(50)) == "wav"
    assert sniff(b"RIFF") is None  # not enough to tell


def test_a_constant_is_no_container():
    assert not any(sniff(bytes([value]) * SNIFF_BYTES) for value in range(256))


@pytest.mark.parametrize("hertz", [50, 85, 440, 1000])
@pytest.mark.parametrize("kind", ["<i2", ">i2"])
def test_tones_are_no_containers(hertz: int, kind: str):
    for rate in (8000, 16_000, 44_100):
        assert sniff(tone(1, rate, hertz).astype(kind).tobytes()[:SNIFF_BYTES]) is None


def test_noise_and_speech_are_no_containers():
    random = np.random.default_rng(7)
    assert not any(sniff(random.bytes(SNIFF_BYTES)) for _ in range(2000))
    speech = babble(4).tobytes()
    assert not any(sniff(speech[at : at + SNIFF_BYTES]) for at in range(0, len(speech), 2))


@given(st.binary(max_size=400))
def test_anything_is_looked_at_without_an_error(head: bytes):
    assert sniff(head) is None or isinstance(sniff(head), str)
