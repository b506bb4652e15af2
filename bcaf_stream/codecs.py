"""Bytes -> samples, of a wire or headerless file: linear 16 bit, and G.711 (ITU-T G.711, 1988) by a table of 256.

G.711's values are scaled to 16 bits, as everybody's decoders do: mu-law reaches ±32124, A-law ±32256.
"""

import numpy as np

from bcaf_stream.types import PcmN


def decode_linear(data: bytes) -> PcmN:
    """The samples of 16 bit little endian bytes, of which there must be an even number; a copy."""
    return np.frombuffer(data, "<i2").astype(np.int16)


def decode_ulaw(data: bytes) -> PcmN:
    """The samples of mu-law bytes, one for each."""
    return _ULAW[np.frombuffer(data, np.uint8)]


def decode_alaw(data: bytes) -> PcmN:
    """The samples of A-law bytes, one for each."""
    return _ALAW[np.frombuffer(data, np.uint8)]


def _ulaw_table() -> PcmN:
    code = ~np.arange(256, dtype=np.uint8)  # all bits are sent inverted
    exponent, mantissa = (code >> 4 & 7).astype(int), (code & 15).astype(int)
    magnitude = ((2 * mantissa + 33 << exponent) - 33) * 4
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> PcmN:
    code = np.arange(256, dtype=np.uint8) ^ 0x55  # every other bit is sent inverted
    exponent, mantissa = (code >> 4 & 7).astype(int), (code & 15).astype(int)
    # The lowest segment is linear: it has no leading one and the step of the segment above it.
    magnitude = np.where(exponent, 2 * mantissa + 33 << np.maximum(exponent - 1, 0), 2 * mantissa + 1) * 8
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_ULAW = _ulaw_table()
_ALAW = _alaw_table()
