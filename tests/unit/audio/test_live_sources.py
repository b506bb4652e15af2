"""Sound that comes by itself: pipes cut anywhere, and microphones that cannot be had."""

import ctypes.util
import io
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.audio.live_sources import Microphone, PcmPipe
from bcaf_stream.errors import SourceError
from tests.components import require

SAMPLES_NC = np.random.default_rng(0).integers(-32768, 32767, (300, 2), np.int16, endpoint=True)


class Pieces(io.RawIOBase):
    """A pipe whose writer writes these pieces; a negative one is a failure."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        self._data = data
        self._cuts = iter(cuts)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        size = min(next(self._cuts, len(self._data)), len(buffer))
        if size < 0:
            raise OSError(5, "Input/output error")
        piece, self._data = self._data[:size], self._data[size:]
        buffer[: len(piece)] = piece
        return len(piece)


def pipe(data: bytes, cuts: list[int] | None = None) -> PcmPipe:
    return PcmPipe(io.BufferedReader(Pieces(data, cuts or [])), 8000, 2)


@given(st.lists(st.integers(1, 200), max_size=20))
def test_a_pipe_cut_anywhere_gives_the_same_samples(cuts: list[int]):
    source = pipe(SAMPLES_NC.astype("<i2").tobytes(), cuts)
    np.testing.assert_array_equal(np.concatenate(list(source)), SAMPLES_NC)
    assert source.remark is None


def test_a_part_of_a_sample_at_the_end_is_told():
    source = pipe(SAMPLES_NC.astype("<i2").tobytes() + b"\1\2\3")
    np.testing.assert_array_equal(np.concatenate(list(source)), SAMPLES_NC)
    assert source.remark == "the last 3 bytes are no whole sample: is it s16le of 2 channels?"


@pytest.mark.parametrize("data", [b"", b"\1"])
def test_a_pipe_without_sound(data: bytes):
    with pytest.raises(SourceError, match="no sound came"):
        list(pipe(data))


def test_a_pipe_that_breaks():
    source = pipe(SAMPLES_NC.tobytes(), [400, -1])
    heard = []
    with pytest.raises(SourceError, match="standard input: cannot be read: Input/output error"):
        heard.extend(source)
    assert sum(map(len, heard)) == 100


def test_a_microphone_without_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SourceError, match=r"pip install 'bcaf-stream\[microphone\]'"):
        Microphone(16_000, 1)


def test_a_microphone_without_its_library(monkeypatch: pytest.MonkeyPatch):
    require("portaudio")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(SourceError, match="apt-get install libportaudio2"):
        Microphone(16_000, 1)
