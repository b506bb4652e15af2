"""What is piped into `send -` is what its bytes say: samples, or a container, which is decoded."""

import io
import os
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import av
import numpy as np
import pytest

from bcaf_stream.audio.live_sources import EncodedPipe, PcmNC, PcmPipe
from bcaf_stream.audio.raw import parse_raw
from bcaf_stream.client.live import live_call, live_source
from bcaf_stream.errors import SourceError, UsageError

RATE = 16_000
LOUD_N = (8000 * np.sin(np.arange(2 * RATE) / 20)).astype(np.int16)
SOUND_NC = np.stack([LOUD_N // 8, LOUD_N], axis=1)  # the second channel is the loud one


def encoded(format: str, codec: str, rate: int = RATE) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(SOUND_NC.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = RATE
        for part in av.AudioResampler(stream.format, "stereo", rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return out.getvalue()


def live_wav() -> bytes:
    """As `ffmpeg -f wav -` writes it: nobody can go back to say how long it is."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((2, 2, RATE, 0, "NONE", ""))
        file.writeframes(SOUND_NC.astype("<i2").tobytes())
    data = bytearray(out.getvalue())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    return bytes(data)


@contextmanager
def piped(data: bytes, monkeypatch: pytest.MonkeyPatch, step: int = 5000) -> Iterator[None]:
    """A real pipe as standard input, written in pieces."""
    reading, writing = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), open(writing, "wb", buffering=0) as out:
            for at in range(0, len(data), step):
                out.write(data[at : at + step])

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
        yield
    writer.join()


def heard(source: EncodedPipe | PcmPipe) -> PcmNC:
    return np.concatenate(list(source))


@pytest.mark.parametrize("step", [1, 5000])
def test_samples_are_samples_and_none_is_lost_by_looking(step: int, monkeypatch: pytest.MonkeyPatch):
    with piped(SOUND_NC[:6000].astype("<i2").tobytes(), monkeypatch, step):
        source = live_source("-", RATE, 2, None)
        assert isinstance(source, PcmPipe)
        np.testing.assert_array_equal(heard(source), SOUND_NC[:6000])


@pytest.mark.parametrize(
    ("format", "codec", "rate"),
    [
        ("wav", "pcm_s16le", RATE),
        ("flac", "flac", RATE),
        ("au", "pcm_s16be", RATE),
        ("matroska", "pcm_s16le", RATE),
        ("ogg", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("mp3", "mp3", RATE),
        ("adts", "aac", RATE),
    ],
)
def test_a_container_is_decoded_whatever_was_said_of_samples(
    format: str, codec: str, rate: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with piped(encoded(format, codec, rate), monkeypatch):
        source = live_source("-", 8000, 2, None)
        assert isinstance(source, EncodedPipe)
        assert (source.rate, source.channels) == (rate, 2)
        sound_NC = heard(source)
    assert "--rate 8000 is for raw samples" in capsys.readouterr().err
    if codec in ("libopus", "mp3", "aac"):
        quiet, loud = np.abs(sound_NC.astype(int)).mean(0)
        assert loud > 5 * quiet > 0
        assert abs(len(sound_NC) / rate - 2) < 0.2
    else:
        np.testing.assert_array_equal(sound_NC, SOUND_NC)


def test_a_wav_stream_of_unknown_length(monkeypatch: pytest.MonkeyPatch):
    with piped(live_wav(), monkeypatch):
        source = live_source("-", RATE, 2, None)
        np.testing.assert_array_equal(heard(source), SOUND_NC)
        assert source.remark is None


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_mulaw", "adpcm_ima_wav"])
def test_a_wav_that_is_cut_says_so_when_all_of_it_was_given_out(codec: str, monkeypatch: pytest.MonkeyPatch):
    whole = encoded("wav", codec)
    with piped(whole, monkeypatch):
        assert abs(len(heard(live_source("-", None, None, None))) / RATE - 2) < 0.2
    parts = []
    with piped(whole[: len(whole) // 2], monkeypatch), pytest.raises(SourceError, match="the rest is missing"):
        parts += live_source("-", None, None, None)
    assert 0.7 < sum(map(len, parts)) / RATE < 1.2


def test_what_cannot_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch):
    for data, options, error, says in (
        (live_wav(), (RATE, 1), UsageError, "a wav stream of 2 channels at 16000 Hz: leave out --channels 1"),
        (b"RIFF\0\0\0\0WAVEfmt ", (RATE, 1), SourceError, "standard input"),
        (SOUND_NC.tobytes(), (None, 1), UsageError, "samples of 16 bits need --rate, others --raw"),
    ):
        with piped(data, monkeypatch), pytest.raises(error, match=says):
            heard(live_source("-", *options, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(("raw", "codec"), [("mulaw:8000:2", "pcm_mulaw"), ("alaw:8000:2", "pcm_alaw")])
def test_samples_of_other_encodings_are_what_raw_says(raw: str, codec: str, monkeypatch: pytest.MonkeyPatch):
    with piped(encoded("mulaw" if codec == "pcm_mulaw" else "alaw", codec, 8000), monkeypatch):
        source = live_source("-", None, None, None, parse_raw(raw))
        assert (source.rate, source.channels) == (8000, 2)
        sound_NC = np.concatenate(list(source))
    quiet, loud = np.abs(sound_NC.astype(int)).mean(0)
    assert loud > 5 * quiet > 0
    assert abs(len(sound_NC) - 2 * 8000) < 100


def test_raw_is_for_what_has_no_header(monkeypatch: pytest.MonkeyPatch):
    raw = parse_raw("s16le:16000:2")
    with piped(SOUND_NC.tobytes(), monkeypatch):
        np.testing.assert_array_equal(np.concatenate(list(live_source("-", None, None, None, raw))), SOUND_NC)
    with piped(live_wav(), monkeypatch), pytest.raises(UsageError, match="a wav stream, not raw s16le: leave out"):
        live_source("-", None, None, None, raw)
    with piped(SOUND_NC.tobytes(), monkeypatch), pytest.raises(UsageError, match="leave out --rate"):
        live_source("-", 8000, None, None, raw)


def test_a_role_needs_its_channel():
    assert [side.role for side in live_call("-", 2, {"customer": "agent"}, None).channels] == ["agent", "agent"]
    with pytest.raises(UsageError, match="the call's channels are customer, agent"):
        live_call("-", 2, {"nobody": "agent"}, None)
