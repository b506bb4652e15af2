"""What a WAV file's chunks promise, beside the bytes that are there.

Recorders that crash leave a size from minutes ago; loggers append a second file to the first; encoders count the
header with the sound. FFmpeg believes the sizes. Only RIFF is looked at here, of a file on disk.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bcaf_stream.audio.sniffing import SNIFF_BYTES, sniff
from bcaf_stream.errors import SourceError

_UNKNOWN_SIZE = 0x7FFF_0000  # recorders that cannot seek back write the largest size, or 0
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS", b"PK\x03\x04")
_LEAST_SOUND = 1024  # bytes; less may be anything


@dataclass(frozen=True, slots=True)
class WavPart:
    """A RIFF file in a file, from byte `start` to before `end`; its header promises `declared` bytes of sound.

    `there` are those that follow its header. `stale`: all of them are sound, though the header promises less.
    `unread`: bytes behind the sound of which it is not known what they are.
    """

    start: int
    end: int
    declared: int
    there: int
    stale: bool = False
    unread: int = 0

    @property
    def missing(self) -> int:
        """Bytes that the header promises and the file does not have."""
        return 0 if self.stale else max(0, self.declared - self.there)


def wav_parts(path: Path) -> list[WavPart]:
    """The RIFF files in this file, nearly always one; none where it is something else.

    Raises:
        SourceError: a header says two things of the number of channels.
    """
    size = path.stat().st_size
    parts: list[WavPart] = []
    with path.open("rb") as file:
        at = 0
        while at < size and (part := _part(file, at, size)) is not None:
            parts.append(part)
            at = part.end
    return parts


def is_misread(head: bytes, codec: str) -> bool:
    """Whether FFmpeg swaps the bytes of every sample: it reads the header of a big-endian WAV (RIFX), and not that
    its samples are big-endian as well.
    """
    wide = codec.startswith("pcm_") and codec.endswith("le")
    return head[:4] == b"RIFX" and wide


def promised_by_head(head: bytes) -> int | None:
    """Bytes that a RIFF file has to the end of its sound, by its first ones; None where they do not say."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    found = _chunk(head, 12, b"data", "<4sI", 2)
    return None if found is None or found[1] == 0 or found[1] >= _UNKNOWN_SIZE else sum(found)


def notes_of(parts: Sequence[WavPart]) -> list[str]:
    """What a user should know of headers that are not true."""
    notes = [f"holds {len(parts)} WAV files one after the other: all are read"] if len(parts) > 1 else []
    for part in parts:
        if part.stale:
            notes.append(
                f"its header promises {part.declared} bytes of sound and there are {part.there}: all are read"
            )
        elif part.missing:
            notes.append(f"its header promises {part.missing} bytes more than there are; it is taken for complete")
        if part.unread:
            notes.append(f"{part.unread} bytes behind its sound are not known to be sound, and are not read")
    return notes


def promised_bytes(path: Path, kind: str) -> tuple[int, int, bool] | None:
    """Bytes of sound that the header of an AIFF, AU, CAF, W64 or RF64 promises, those that there are, and whether
    another file begins behind them.

    None where it does not say, or is none of these. `kind` is FFmpeg's name of the format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 16)
    found: tuple[int, int] | None = None  # where the sound begins, and how long it is
    if kind == "au" and head[:4] == b".snd":
        start, length = struct.unpack(">II", head[4:12])
        found = None if length == 0xFFFF_FFFF else (start, length)
    elif kind == "aiff":
        found = _chunk(head, 12, b"SSND", ">4sI", 2)
    elif kind == "caf":
        found = _chunk(head, 8, b"data", ">4sq", 1)
    elif kind == "w64":
        at = head.find(b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a")
        if at > 0:
            found = at + 24, struct.unpack("<Q", head[at + 16 : at + 24])[0] - 24
    elif kind == "wav" and head[:4] == b"RF64" and head[12:16] == b"ds64" and (at := head.find(b"data")) > 0:
        found = at + 8, struct.unpack("<Q", head[28:36])[0]
    if found is None or found[1] <= 0 or found[1] >= 1 << 62:
        return None
    start, length = found
    with path.open("rb") as file:
        file.seek(min(size, start + length))
        behind = file.read(SNIFF_BYTES)
    another = any(sniff(behind[pad:]) is not None for pad in range(8))  # chunks are padded
    return length, min(length, size - start), another


def _chunk(head: bytes, at: int, wanted: bytes, form: str, padded: int) -> tuple[int, int] | None:
    """Where the data of a chunk begin and how long they are, if its header is within `head`."""
    width = struct.calcsize(form)
    while at + width <= len(head):
        kind, length = struct.unpack_from(form, head, at)
        if kind == wanted:
            return at + width, length
        if length < 0:
            return None
        at += width + length + length % padded
    return None


def _part(file: BinaryIO, start: int, size: int) -> WavPart | None:
    file.seek(start)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at, width = start + 12, 0
    while True:
        file.seek(at)
        header = file.read(8)
        if len(header) < 8:
            return None
        kind, length = struct.unpack("<4sI", header)
        if kind == b"data":
            break
        if kind == b"fmt ":
            form, channels, rate, byte_rate, align, bits = struct.unpack("<HHIIHH", file.read(16).ljust(16, b"\0"))
            width = bits if form in (1, 0xFFFE) else 0
            size_said = channels * bits // 8
            if width and size_said and align > size_said and align % size_said == 0 and byte_rate == align * rate:
                raise SourceError(
                    f"{file.name}: its header contradicts itself: {channels} x {bits} bits a sample, and {align}"
                    " bytes; mend it, or cut it off and say what the rest is, as with --raw s16le:8000:2"
                )
        at += 8 + length + length % 2
    sound = at + 8
    there = size - sound
    if length == 0 or length >= _UNKNOWN_SIZE:
        return WavPart(start, size, there, there)
    after = sound + length
    if after >= size:
        return WavPart(start, size, length, there)
    end = _after_chunks(file, after + length % 2, size)
    if length % 2 and end == after + 1:
        end = max(end, _after_chunks(file, after, size))  # some writers forget to pad
    if end >= size or _is_riff(file, end):
        return WavPart(start, min(end, size), length, length)
    if _is_sound(file, end, size, width):
        return WavPart(start, size, length, there, stale=True)
    return WavPart(start, size, length, length, unread=size - end)


def _after_chunks(file: BinaryIO, at: int, size: int) -> int:
    """Where the chunks and tags end that begin here."""
    while at < size:
        file.seek(at)
        header = file.read(8)
        if header.startswith(_TAGS) or len(header) < 8:
            return size
        kind, length = struct.unpack("<4sI", header)
        named = all(0x20 <= byte < 0x7F for byte in kind) and kind[0] != 0x20
        if kind == b"RIFF" or not named or length > size - at:
            return at
        at += 8 + length + length % 2
    return size


def _is_riff(file: BinaryIO, at: int) -> bool:
    file.seek(at)
    head = file.read(12)
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _is_sound(file: BinaryIO, at: int, size: int, width: int) -> bool:
    """Whether what follows a WAV file's sound goes on with it: for 16 bits, neighbours are alike; never zeros."""
    file.seek(at)
    rest = file.read(1 << 16)
    if size - at < _LEAST_SOUND or not any(rest) or sniff(rest[:SNIFF_BYTES]) is not None:
        return False
    if width != 16:
        return True
    best = 0.0
    for channels in (1, 2):  # neighbours of the same channel, however many there are
        samples_N = np.frombuffer(rest[: len(rest) // 2 * 2], "<i2").astype(np.float64)
        power = float(samples_N @ samples_N) or 1.0
        best = max(best, float(samples_N[channels:] @ samples_N[:-channels]) / power)
    return best > 0.3
