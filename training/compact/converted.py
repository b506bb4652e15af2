"""Reading weights out of a CTranslate2 file (`model.bin`, format version 6), as faster-whisper publishes them.

Little-endian throughout: version, name of the specification, its revision, number of variables; then of each
variable its name, rank, sizes, number of its type, length in bytes, and the bytes. Strings are a length (16
bits) and as many bytes, the last one zero. Source: CTranslate2, python/ctranslate2/specs/model_spec.py.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcaf_stream.errors import DataError

VERSION = 6
FLOATS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    4: np.dtype("<f2"),
}  # by number of the type; other types hold no weights of ours


def read_converted(path: Path) -> dict[str, Tensor]:
    """Every floating-point variable of the file, as float32.

    Raises:
        DataError: another version of the format, or a file that ends too early.
    """
    try:
        return _read(path.read_bytes())
    except (struct.error, UnicodeDecodeError, ValueError):
        raise DataError(f"{path}: not a whole CTranslate2 file of version {VERSION}; download it again") from None


def _read(data: bytes) -> dict[str, Tensor]:
    at = 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(kind)
        return int(value)

    def string() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at - 1].decode("ascii")

    if number("I") != VERSION:
        raise ValueError
    string()
    number("I")
    found: dict[str, Tensor] = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        kind, length = FLOATS.get(number("B")), number("I")
        if kind is not None:
            values = np.frombuffer(data, kind, length // kind.itemsize, at).reshape(shape)
            found[name] = torch.from_numpy(values.astype(np.float32))
        at += length
    return found
