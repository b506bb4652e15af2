"""Sound that comes by itself, at its own pace: raw samples or a container from a pipe, and the microphone.

The microphone needs the optional package sounddevice, and that the PortAudio library; both are looked for when a
microphone is asked for.
"""

import importlib
import io
import queue
from collections.abc import Iterator
from contextlib import closing
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.decoder import Decoder
from bcaf_stream.audio.raw import RawFormat
from bcaf_stream.audio.sniffing import SNIFF_BYTES, sniff
from bcaf_stream.errors import SourceError

PcmNC = NDArray[np.int16]

PIPE_BYTES = 65_536  # at most at once
BLOCK_MS = 20
MOST_WAITING_S = 30  # of the microphone's sound, while a deployment is too far behind to take it
LOOK_S = 1.0  # how often a silent device is asked whether it is still there


class LiveSource(Protocol):
    """Blocks of sound, N samples of C channels; iterate it once."""

    rate: int
    channels: int

    def __iter__(self) -> Iterator[PcmNC]: ...

    @property
    def remark(self) -> str | None:
        """What its user should know of the sound that came."""
        ...


class PcmPipe:
    """Yields raw samples as they come: 16 bit, little endian, interleaved by channel.

    Raises:
        SourceError: while iterating, nothing came at all, or the pipe cannot be read.
    """

    def __init__(self, pipe: "io.BufferedReader[Any]", rate: int, channels: int) -> None:
        self.rate = rate
        self.channels = channels
        self._pipe = pipe
        self._rest = b""  # of a sample

    @property
    def remark(self) -> str | None:
        if not self._rest:
            return None
        return f"the last {len(self._rest)} bytes are no whole sample: is it s16le of {self.channels} channels?"

    def __iter__(self) -> Iterator[PcmNC]:
        width, came = 2 * self.channels, False
        while data := self._read():
            data = self._rest + data
            whole = len(data) - len(data) % width
            self._rest = data[whole:]
            if whole:
                came = True
                yield np.frombuffer(data[:whole], "<i2").astype(np.int16).reshape(-1, self.channels)
        if not came:
            raise SourceError("standard input: no sound came: did the program before the pipe fail?")

    def _read(self) -> bytes:
        try:
            return self._pipe.read1(PIPE_BYTES)  # what is there, without waiting for more
        except OSError as error:
            raise SourceError(f"standard input: cannot be read: {error.strerror}") from None


class EncodedPipe:
    """Yields the sound of a container (WAV, Ogg, MP3, WebM...) that comes through a pipe, as it comes.

    With `raw`, that of encoded samples without a header.

    Raises:
        SourceError: at creation, it holds no sound or cannot be read as it comes; while iterating, it is broken.
    """

    def __init__(self, pipe: BinaryIO, raw: RawFormat | None = None) -> None:
        self._decoder = Decoder(pipe, raw=raw)
        self.rate = self._decoder.info.rate
        self.channels = self._decoder.info.channels

    @property
    def remark(self) -> str | None:
        return "; ".join(self._decoder.notes) or None

    def __iter__(self) -> Iterator[PcmNC]:
        block = self.rate * BLOCK_MS // 1000
        with closing(self._decoder):
            while (samples_CN := self._decoder.read(block)).shape[1]:
                yield np.ascontiguousarray(samples_CN.T)


class PeekedPipe(io.RawIOBase):
    """A pipe whose beginning was looked at and comes again: `head`, enough of it for `sniff`."""

    def __init__(self, pipe: io.BufferedReader) -> None:
        self._pipe = pipe
        self.head = b""
        while len(self.head) < SNIFF_BYTES and sniff(self.head) is None and (more := self._read(SNIFF_BYTES)):
            self.head += more
        self._rest = self.head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """What is there, without waiting for more."""
        if not self._rest:
            self._rest = self._read(len(buffer))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _read(self, most: int) -> bytes:
        try:
            return self._pipe.read1(most)
        except OSError as error:
            raise SourceError(f"standard input: cannot be read: {error.strerror}") from None


class Microphone:
    """Yields what a microphone hears, for as long as it is iterated.

    What nobody takes in time becomes silence of the same length, so that stream time stays true.

    Args:
        device: a part of its name, or its number; None for the system's own choice.

    Raises:
        SourceError: the package, the library or the device is missing, it cannot record like this, or, while
            iterating, it is gone.
    """

    def __init__(self, rate: int, channels: int, device: str | None = None) -> None:
        self._library = _portaudio()
        self.rate = rate
        self.channels = channels
        self._blocks: queue.Queue[tuple[int, bytes]] = queue.Queue(MOST_WAITING_S * 1000 // BLOCK_MS)
        self._missed = 0  # samples that nobody took, since the last block that was
        self._lost = 0
        number = int(device) if device is not None and device.isdigit() else device
        self._settings = {"samplerate": rate, "channels": channels, "dtype": "int16", "device": number}
        try:
            self._library.check_input_settings(**self._settings)
        except (ValueError, self._library.PortAudioError) as error:
            raise SourceError(f"the microphone cannot be had: {_one_line(error)}; {self._choice()}") from None

    @property
    def remark(self) -> str | None:
        if not self._lost:
            return None
        return f"{self._lost * 1000 // self.rate} ms of the microphone's sound came faster than they were taken"

    def __iter__(self) -> Iterator[PcmNC]:
        block = self.rate * BLOCK_MS // 1000
        try:
            stream = self._library.RawInputStream(**self._settings, blocksize=block, callback=self._heard)
            with stream:
                yield from self._listen(stream)
        except self._library.PortAudioError as error:
            raise SourceError(f"the microphone failed: {_one_line(error)}") from None

    def _listen(self, stream: Any) -> Iterator[PcmNC]:
        while True:
            try:
                missed, data = self._blocks.get(timeout=LOOK_S)
            except queue.Empty:
                if not stream.active:
                    raise SourceError("the microphone is gone: is it still plugged in?") from None
                continue
            if missed:
                yield np.zeros((missed, self.channels), np.int16)
            yield np.frombuffer(data, np.int16).reshape(-1, self.channels)

    def _heard(self, data: Any, count: int, _time: Any, status: Any) -> None:
        """Called by PortAudio on a thread of its own, which must not wait."""
        if status.input_overflow:
            self._lost += count  # the library does not say how much; a block is its best guess
        try:
            self._blocks.put_nowait((self._missed, bytes(data)))
            self._missed = 0
        except queue.Full:
            self._missed += count
            self._lost += count

    def _choice(self) -> str:
        names = [device["name"] for device in self._library.query_devices() if device["max_input_channels"]]
        if not names:
            return "this machine has no device to record with"
        return f"--device takes a part of one of these names: {', '.join(names)}"


def _portaudio() -> Any:
    try:
        return importlib.import_module("sounddevice")  # optional, and loads its library when imported
    except ModuleNotFoundError:
        raise SourceError("the microphone needs a package: pip install 'bcaf-stream[microphone]'") from None
    except OSError:
        raise SourceError(
            "the microphone needs the PortAudio library: apt-get install libportaudio2, or your system's like"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
