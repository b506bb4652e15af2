"""One audio or video file, or URL, decoded to int16 PCM as a stream, by PyAV (whose wheels carry FFmpeg).

Rate and channels stay as they are in the file, and memory does not grow with its length. Unusual: nothing is
lost in silence. Whatever could be decoded is handed out first; then a broken stretch, a gap in the time
stamps, a file that is shorter than its own header says, or a sample that is no number raises a SourceError
that names the second. What no header tells (the end of a truncated Ogg file) cannot be found out.
"""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from bcaf_stream.errors import SourceError

_GAP_S = 0.1  # containers round their time stamps to a millisecond or to a packet
_SHORT_S = 0.25  # encoders pad and trim up to some 2000 samples at either end
_NO_HEADER = {"aac", "ac3", "amr", "amrnb", "amrwb", "eac3", "loas", "mpeg", "mpegts"}  # duration is an estimate
_EXACT = {"aiff", "au", "flac", "w64", "wav"}  # the header counts samples or bytes
_UNKNOWN_WAV_SIZE = 0x7FFF_0000  # recorders that cannot seek back write the largest size, or 0


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file says of its sound; duration None where it does not say (live streams)."""

    rate: int
    channels: int
    duration_ms: int | None

    @property
    def samples(self) -> int | None:
        """Samples of each channel, as far as the duration tells."""
        return None if self.duration_ms is None else self.duration_ms * self.rate // 1000


def probe(source: str | Path) -> AudioInfo:
    """Read rate, channels and duration without decoding.

    Raises:
        SourceError: it cannot be reached or opened, or holds no sound.
    """
    with contextlib.closing(Decoder(source)) as decoder:
        return decoder.info


def shown(source: str | Path) -> str:
    """The name for messages: a URL without its user, password and query, which may be secrets."""
    if not _is_url(source):
        return str(source)
    parts = urlsplit(str(source))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Decoder:
    """Reads one source block by block; `info` tells rate and channels."""

    def __init__(self, source: str | Path, timeout_s: float = 10.0) -> None:
        self._path = None if _is_url(source) else Path(source)
        self._name = shown(source)
        self._container = _open(source, self._name, timeout_s)
        stream = self._container.streams.best("audio")
        if not isinstance(stream, av.AudioStream) or stream.channels < 1 or stream.rate < 1:
            self._container.close()
            raise SourceError(f"{self._name}: holds no audio stream; give a file with sound")
        self._stream = stream
        self._declared_s = _declared_seconds(self._container, stream)
        duration = self._container.duration if self._declared_s is None else self._declared_s * 1_000_000
        self.info = AudioInfo(stream.rate, stream.channels, None if duration is None else int(duration / 1000))
        self._blocks = self._decode()
        self._fifo = av.AudioFifo()
        self._error: SourceError | None = None
        self._done = 0  # samples decoded
        self._start: float | None = None  # time stamp of the first sample
        self._cut_short = False

    def read(self, count: int) -> NDArray[np.int16]:
        """Return the next `count` samples of every channel, fewer only at the end: (channels, samples).

        Raises:
            SourceError: all that could be decoded was returned, and it was not the whole.
        """
        while self._error is None and self._fifo.samples < count:
            try:
                block = next(self._blocks, None)
            except SourceError as error:
                self._error = error
                break
            if block is None:
                break
            self._fifo.write(block)
        frame = self._fifo.read(count, partial=True) if self._fifo.samples else None
        if frame is not None:
            return np.asarray(frame.to_ndarray(), dtype=np.int16)
        if self._error is not None:
            raise self._error
        return np.zeros((self.info.channels, 0), np.int16)

    def close(self) -> None:
        self._container.close()

    def _decode(self) -> Iterator[av.AudioFrame]:
        to_int16 = av.AudioResampler(format="s16p")  # the format alone: rate and layout stay
        try:
            for packet in self._container.demux(self._stream):
                self._cut_short |= packet.is_corrupt
                for frame in packet.decode():
                    self._check(frame)
                    self._done += frame.samples
                    frame.pts = None
                    yield from to_int16.resample(frame)
        except (av.FFmpegError, OSError) as error:
            raise self._fail(
                f"cannot be decoded beyond {self._at()}: {_reason(error)}; convert or repair it"
            ) from None
        self._check_end()

    def _check(self, frame: av.AudioFrame) -> None:
        """Raise if this frame does not continue the ones before it, or holds what is not a number."""
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        if (rate, channels) != (self.info.rate, self.info.channels):
            raise self._fail(
                f"changes at {self._at()} from {self.info.channels} channels of {self.info.rate} Hz to"
                f" {channels} of {rate} Hz; cut it there and analyze the parts"
            )
        if frame.time is not None:
            self._start = frame.time if self._start is None else self._start
            ahead = frame.time - self._start - self._done / rate
            if ahead > _GAP_S:
                raise self._fail(
                    f"{ahead:.2f} s of sound are missing at {self._at()};"
                    " repair it with ffmpeg -i FILE -af aresample=async=1 NEW"
                )
        broken = _first_not_finite(frame)
        if broken is not None:
            second = (self._done + broken) / rate
            raise self._fail(f"holds NaN or infinite samples at {second:.2f} s; export it again as 16-bit PCM")

    def _check_end(self) -> None:
        if not self._done:
            raise self._fail("holds no sound: not one sample could be decoded")
        seconds, declared, slack = self._done / self.info.rate, self._declared_s, _SHORT_S
        if self._container.format.name in _EXACT:
            slack = 0.001
        if self._cut_short and self._path and self._container.format.name == "wav":
            declared = seconds * _wav_declared_ratio(self._path)
        if declared is not None and seconds < declared - slack:
            raise self._fail(
                f"ends at {self._at()}, but its header says {declared:.2f} s;"
                " the rest is missing: get the whole file"
            )

    def _at(self) -> str:
        return f"{self._done / self.info.rate:.2f} s"

    def _fail(self, text: str) -> SourceError:
        return SourceError(f"{self._name}: {text}")


def _is_url(source: str | Path) -> bool:
    return isinstance(source, str) and "://" in source


def _open(source: str | Path, name: str, timeout_s: float) -> InputContainer:
    if _is_url(source):
        try:
            return av.open(str(source), timeout=timeout_s)
        except av.InvalidDataError:
            raise SourceError(f"{name}: answers with what is no audio or video; check the address") from None
        except (av.FFmpegError, OSError) as error:
            raise SourceError(
                f"{name}: cannot be opened: {_reason(error)}; check the address and the network"
            ) from None
    path = Path(source)
    if not path.exists():
        raise SourceError(f"{name}: no such file; check the path")
    if path.is_dir():
        raise SourceError(f"{name}: is a directory; name a file in it")
    if path.is_file() and path.stat().st_size == 0:
        raise SourceError(f"{name}: is empty; record or copy it again")
    try:
        return av.open(f"file:{path}")  # without the prefix a colon in a name would look like a protocol
    except PermissionError:
        raise SourceError(f"{name}: may not be read; check its permissions") from None
    except (av.FFmpegError, OSError) as error:
        raise SourceError(
            f"{name}: is not an audio or video file, or is damaged ({_reason(error)}); convert it to WAV or FLAC"
        ) from None


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the number and the name around it."""
    return str(getattr(error, "strerror", None) or error).lower()


def _declared_seconds(container: InputContainer, stream: av.AudioStream) -> float | None:
    """How long the header says the sound is; None where FFmpeg only estimates it from the bit rate."""
    # An MP3 has a start time only if it has the header that also counts its frames.
    if container.format.name in _NO_HEADER or (container.format.name == "mp3" and not stream.start_time):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1_000_000
    return None


def _first_not_finite(frame: av.AudioFrame) -> int | None:
    """The first sample that is NaN or infinite, before a conversion to int16 could hide it."""
    if not frame.format.name.startswith(("flt", "dbl")):
        return None
    sound = frame.to_ndarray()
    sound_CN = sound if frame.format.is_planar else sound.reshape(frame.samples, -1).T
    broken_N = ~np.isfinite(sound_CN).all(axis=0)
    return int(np.argmax(broken_N)) if broken_N.any() else None


def _wav_declared_ratio(path: Path) -> float:
    """Declared size of a WAV file's sound over what is there, 1 if the header does not know (a live recording)."""
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            kind, size = struct.unpack("<4sI", header)
            if kind == b"data":
                there = path.stat().st_size - file.tell()
                return size / there if there and size < _UNKNOWN_WAV_SIZE else 1.0
            file.seek(size + size % 2, 1)
    return 1.0
