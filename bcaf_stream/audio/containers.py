"""A file, URL or pipe opened as a container, and what it says of itself before anything is decoded.

**The clock of a file.** Zero is where the file's own clock says zero: time stamp 0 in Matroska, WebM, MP4, Ogg,
AVI, ASF and FLV. Sound whose track starts at 3.87 s of such a file starts at 3.87 s. The stamps of MPEG transport
and program streams count from anywhere, and stamps beyond ABSOLUTE_S are times of day: there, zero is the earliest
start of the file's sound or picture. Plain sound files (WAV, FLAC, MP3, ADTS) begin with their first sample. Zero
is never later than the earliest start, so that a negative stamp (an encoder's priming) is no gap.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import av
from av.container import InputContainer
from av.stream import Disposition

from bcaf_stream.audio.raw import WAY_OUT, RawFormat, check_one_channel, raw_by_name
from bcaf_stream.audio.sniffing import SNIFF_BYTES, sniff
from bcaf_stream.errors import SourceError

ABSOLUTE_S = 6 * 3600.0  # nobody joins a call later
_OWN_ZERO = {"matroska", "mov", "ogg", "avi", "asf", "flv"}
_SYSTEM_CLOCK = {"mpegts", "mpeg"}
_NO_HEADER = {  # the duration is an estimate, or that of the file and not of the sound
    *("aac", "ac3", "amr", "amrnb", "amrwb", "asf", "eac3", "loas", "mpeg", "mpegts", "ogg"),
}
_HEADERLESS = {"alaw", "mulaw", "vidc", "bin"} | {
    f"{kind}{bits}{end}" for kind in "suf" for bits in (8, 16, 24, 32, 64) for end in ("", "le", "be")
}
_DEMUXERS = {
    "mp4": "mov",
    "mpeg": None,
    "riff": None,
    "rm": None,
    "nist": "nistsphere",
    "silk": None,
    "wavpack": "wv",
}
_HEADER_TELLS_ALL = {"wav", "flac", "mp3", "aac", "ogg", "au"}
_LITTLE = {"analyzeduration": "300000"}  # microseconds of sound to look at before the first is given out
HEAD_BYTES = 1 << 16  # of a pipe, which are kept: a header
_PIPE_BYTES = 4096  # at once, so that what comes live is not held up

PIPED_MP4 = "an MP4 must have its index first, or be fragmented: -movflags frag_keyframe+empty_moov"


class PipedBytes:
    """A pipe that gives PyAV what is there, so that nothing waits for a full buffer; it cannot seek.

    `head` are its first bytes, `count` is how many came.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._read = pipe.read1 if isinstance(pipe, io.BufferedReader) else pipe.read
        self.head, self.count = b"", 0

    def read(self, most: int) -> bytes:
        data = self._read(most)
        if len(self.head) < HEAD_BYTES:
            self.head += data[: HEAD_BYTES - len(self.head)]
        self.count += len(data)
        return data

    def peek(self, most: int) -> bytes:
        return self._pipe.peek(most) if isinstance(self._pipe, io.BufferedReader) else b""


Source = str | Path | BinaryIO


@dataclass(frozen=True, slots=True)
class Track:
    """One audio track of a container, `number` counted among them from 0."""

    number: int
    rate: int
    channels: int
    codec: str
    title: str

    def __str__(self) -> str:
        title = f" {self.title!r}" if self.title else ""
        return f"#{self.number}{title} ({self.codec}, {self.channels} of {self.rate} Hz)"


def is_url(source: Source | PipedBytes) -> bool:
    return isinstance(source, str) and "://" in source


def shown(source: Source | PipedBytes) -> str:
    """The name for messages: a URL without its user, password and query, which may be secrets."""
    if not isinstance(source, str | Path):
        return "standard input"
    if not is_url(source):
        return str(source)
    parts = urlsplit(str(source))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def format_of(container: InputContainer) -> str:
    """FFmpeg's name of the container, the first of several."""
    return container.format.name.partition(",")[0]


def open_container(
    source: Source | PipedBytes,
    raw: RawFormat | None = None,
    timeout_s: float = 10.0,
    options: dict[str, str] | None = None,
) -> InputContainer:
    """Open what `source` names, as what its bytes say that it is.

    Raises:
        SourceError: it cannot be opened, is no sound, or holds samples without saying how they are to be read.
    """
    name = shown(source)
    options = dict(options or {})
    if not isinstance(source, str | Path):
        return _open_pipe(source if isinstance(source, PipedBytes) else PipedBytes(source), raw, name)
    if is_url(source):
        raw = raw or raw_by_name(urlsplit(str(source)).path)
        demuxer, more = raw.demuxer if raw else (None, {})
        try:
            container = av.open(str(source), format=demuxer, timeout=timeout_s, container_options=more)
        except av.InvalidDataError:
            raise SourceError(f"{name}: answers with what is no audio or video; check the address") from None
        except (av.FFmpegError, OSError) as error:
            raise SourceError(
                f"{name}: cannot be opened: {reason_of(error)}; check the address and the network"
            ) from None
    else:
        raw = _raw_of(Path(source), name, raw)
        demuxer, more = raw.demuxer if raw else (None, {})
        try:  # without the prefix a colon in a name would look like a protocol
            container = av.open(f"file:{source}", format=demuxer, container_options={**options, **more})
        except PermissionError:
            raise SourceError(f"{name}: may not be read; check its permissions") from None
        except (av.FFmpegError, OSError) as error:
            raise SourceError(
                f"{name}: is not an audio or video file, or is damaged ({reason_of(error)});"
                " convert it to WAV or FLAC, or say what it holds with --raw"
            ) from None
    if raw is None and format_of(container) in _HEADERLESS:
        container.close()
        raise SourceError(f"{name}: has no header, and its name does not tell its rate; {WAY_OUT}")
    return container


def open_part(path: Path, start: int, end: int, options: dict[str, str]) -> InputContainer:
    """Open the bytes from `start` to before `end` of a file as a file of their own.

    Raises:
        SourceError: they are no sound.
    """
    try:
        return av.open(f"subfile,,start,{start},end,{end},,:{path}", container_options=options)
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{path}: from byte {start} on it cannot be read: {reason_of(error)}") from None


def tracks_of(container: InputContainer) -> list[Track]:
    """Its audio tracks that hold anything."""
    return [
        Track(number, s.rate, s.channels, s.codec_context.name, s.metadata.get("title", ""))
        for number, s in enumerate(container.streams.audio)
        if s.rate >= 1 and s.channels >= 1
    ]


def earliest_s(container: InputContainer) -> float | None:
    """The first time stamp of its sound and pictures; None where it has no clock but the sound's."""
    if format_of(container) not in _OWN_ZERO | _SYSTEM_CLOCK:
        return None
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in (*container.streams.audio, *container.streams.video)
        if stream.start_time is not None
        and stream.time_base is not None
        and not stream.disposition & Disposition.attached_pic
    ]
    return min(starts, default=0.0 if format_of(container) in _OWN_ZERO else None)


def has_own_zero(container: InputContainer) -> bool:
    """Whether its time stamps count from the beginning of what was recorded."""
    return format_of(container) in _OWN_ZERO


def declared_end_s(container: InputContainer, stream: av.AudioStream) -> float | None:
    """Where the header says that the sound ends, on the file's clock; None where it says nothing, or guesses."""
    kind = format_of(container)
    # An MP3 has a start time only if it has the header that also counts its frames.
    if kind in _NO_HEADER or (kind == "mp3" and not stream.start_time):
        return None
    if stream.duration is not None and stream.time_base is not None:
        start = stream.start_time or 0 if kind in _OWN_ZERO else 0
        return float((stream.duration + start) * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1_000_000
    return None


def matroska_is_cut(path: Path) -> bool | None:
    """Whether a Matroska or WebM file ends before its segment does; None where its size was never written."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1024)
    at = 0
    while at < len(head) - 12:
        identity, after = _ebml_number(head, at, keep_marker=True)
        length, after = _ebml_number(head, after)
        if identity == 0x18538067:  # Segment
            return None if length is None else after + length > size
        if identity != 0x1A45DFA3 or length is None:  # EBML
            return None
        at = after + length
    return None


def reason_of(error: Exception) -> str:
    """What FFmpeg says, without the number and the name around it."""
    return str(getattr(error, "strerror", None) or error).lower()


def _raw_of(path: Path, name: str, asked: RawFormat | None) -> RawFormat | None:
    """How a file without a header is to be read; None for one that has one.

    Raises:
        SourceError: there is nothing to read, or it has a header though `asked` says that it has none.
    """
    if not path.exists():
        raise SourceError(f"{name}: no such file; check the path")
    if path.is_dir():
        raise SourceError(f"{name}: is a directory; name a file in it")
    if not path.is_file():
        return asked or raw_by_name(name)  # a FIFO: looking would take from it
    if path.stat().st_size == 0:
        raise SourceError(f"{name}: is empty; record or copy it again")
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(SNIFF_BYTES))
    except OSError:
        return None  # opening it says why
    if kind is None:
        if asked is None and (named := raw_by_name(name)) is not None:
            check_one_channel(path, named)
            return named
        return asked
    if asked is not None:
        raise SourceError(f"{name}: is a {kind} file, not raw {asked.encoding}; leave out --raw")
    return None


def _open_pipe(pipe: PipedBytes, raw: RawFormat | None, name: str) -> InputContainer:
    # Told the format, FFmpeg need not read on to be sure of it: what is heard live is heard at once.
    demuxer: str | None
    if raw:
        demuxer, options = raw.demuxer
        options = options | _LITTLE
    else:
        kind = sniff(pipe.peek(SNIFF_BYTES))
        demuxer, options = _DEMUXERS.get(kind or "", kind), _LITTLE if kind in _HEADER_TELLS_ALL else {}
    try:
        container = av.open(pipe, mode="r", format=demuxer, container_options=options, buffer_size=_PIPE_BYTES)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SourceError(
            f"{name}: holds no sound that can be read as it comes ({reason_of(error)}); {PIPED_MP4}"
        ) from None
    assert isinstance(container, InputContainer)
    return container


def _ebml_number(data: bytes, at: int, keep_marker: bool = False) -> tuple[int | None, int]:
    """The number there, None for "unknown", and where it ends. RFC 8794, section 4."""
    first = data[at]
    length = 9 - first.bit_length()
    if length > 8:
        return None, at + 1
    (value,) = struct.unpack(">Q", data[at : at + length].rjust(8, b"\0"))
    if keep_marker:
        return value, at + length
    marker = 1 << 7 * length
    return (None if value == 2 * marker - 1 else value - marker), at + length
