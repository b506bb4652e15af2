"""Where the sound of an AVI file stands in time, by its empty chunks, which FFmpeg passes over.

AVI has no time stamps: a chunk of sound in frames of its own (MP3, AAC) lasts `scale / rate` seconds, and one
that has no bytes lasts as long (AVI RIFF file reference, "stream headers"). Writers put such chunks where a track
begins late or pauses. Files of more than 1 GB go on in further RIFF lists (OpenDML).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_LISTS = (b"movi", b"rec ")
_MOST = 10_000_000  # chunks


def places_of_chunks(path: Path, stream: int) -> NDArray[np.int64] | None:
    """For each chunk with bytes of a stream, how many chunks, empty ones too, stand before it.

    None where none is empty, or where a chunk is no fixed time (PCM). `stream` counts all of the file's streams.
    """
    ours = (f"{stream:02d}wb".encode(), f"{stream:02d}WB".encode())
    places: list[int] = []
    count, sizes = 0, []
    with path.open("rb") as file:
        for kind, length, at in _chunks(file, 0, path.stat().st_size):
            if kind == b"strh":
                file.seek(at)
                header = file.read(48).ljust(48, b"\0")
                sizes.append(struct.unpack_from("<I", header, 44)[0] if header[:4] == b"auds" else 1)
            elif kind in ours:
                if stream >= len(sizes) or sizes[stream] or count > _MOST:
                    return None
                if length:
                    places.append(count)
                count += 1
    return np.array(places) if len(places) < count else None


def _chunks(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, length and place of the data of all chunks, those in lists too."""
    while at + 8 <= end:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        at += 8
        if kind in (b"RIFF", b"LIST"):
            name = file.read(4)
            if kind == b"RIFF" or name in (b"hdrl", b"strl", *_LISTS):
                at += 4
                continue
        else:
            yield kind, length, at
        at += length + length % 2
