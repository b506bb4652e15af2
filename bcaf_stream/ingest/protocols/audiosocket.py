"""Asterisk's AudioSocket, without its sockets: bytes of one TCP connection -> a call of one channel.

Specification: docs.asterisk.org, Configuration / Channel Drivers / AudioSocket (0x11 to 0x18: since 2025).

    frame = 1 byte type, 2 bytes length (big endian), payload
    0x00         the end (closing the connection says the same)
    0x01         the call's UUID, 16 bytes; comes first
    0x03         a DTMF digit
    0x10..0x18   signed linear 16 bit mono, little endian, at 8, 12, 16, 24, 32, 44.1, 48, 96, 192 kHz
    0xff         an error, with an optional code

The rate is known with the first audio, so that is when the call begins. The protocol carries neither time nor
numbers: stream time is the count of samples, and a pause of the sender a gap (see pauses.py). Other types below
0x10 carry no sound and are passed over. A call that is not taken is answered by an error frame, whose code is
ours: BUSY or REFUSED; then both sides hang up.
"""

import struct
from collections.abc import Iterator, Sequence
from uuid import UUID

import numpy as np

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart
from bcaf_stream.ingest.pauses import NOTHING_SENT, Heard, Missing, PauseFinder
from bcaf_stream.types import AudioChunk, Channel, Gap, TextSource

HANG_UP, CALL_ID, ERROR = 0x00, 0x01, 0xFF
BUSY, REFUSED = 0x11, 0x12
RATES = dict(
    zip(range(0x10, 0x19), (8_000, 12_000, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000), strict=True)
)
CALLER_HUNG_UP = b"\x01"  # Asterisk's error code for the ordinary end
HEADER = struct.Struct(">BH")

Item = CallStart | AudioChunk | Gap | CallEnd


def hang_up() -> bytes:
    """The frame that ends a connection."""
    return HEADER.pack(HANG_UP, 0)


def refusal(busy: bool) -> bytes:
    """The frames that refuse a call."""
    return HEADER.pack(ERROR, 1) + bytes([BUSY if busy else REFUSED]) + hang_up()


class AudioSocketParser:
    """Turns the bytes of one connection into its call; `channel` is the side that Asterisk sends."""

    def __init__(self, channel: Channel, text: TextSource = "asr") -> None:
        self._channel = channel
        self._text = text
        self._bytes = bytearray()
        self._call: str | None = None
        self._kind: int | None = None  # of the audio frames, all the same
        self._pauses = PauseFinder(RATES[0x10])  # of the rate that comes
        self._start = 0
        self._over = False

    @property
    def greeted(self) -> bool:
        """Whether the UUID has come: a caller may be silent for a while before the first sound."""
        return self._call is not None

    def push(self, data: bytes, received_at: int) -> list[Item]:
        """What the next bytes say, however they were cut.

        Raises:
            LinkError: this is not AudioSocket, or not a whole sample, or of another rate than before.
        """
        self._bytes += data
        items: list[Item] = []
        at = 0
        while not self._over and len(self._bytes) - at >= HEADER.size:
            kind, length = HEADER.unpack_from(self._bytes, at)
            self._check(kind, length)  # before its payload is waited for
            end = at + HEADER.size + length
            if end > len(self._bytes):
                break
            items += self._frame(kind, bytes(self._bytes[at + HEADER.size : end]), received_at)
            at = end
        del self._bytes[:at]
        return items

    def flush(self) -> list[Item]:
        """The connection was closed: the end of the call, unless that was in the middle of a frame."""
        if self._over or self._bytes:
            return []
        self._over = True
        return [*self._items(self._pauses.flush()), CallEnd()]

    def _check(self, kind: int, length: int) -> None:
        if self._call is None:
            if kind in (HANG_UP, ERROR):
                return
            if kind != CALL_ID or length != 16:
                raise LinkError("AudioSocket: the first frame must be the call's UUID (type 0x01 of 16 bytes)")
        elif kind == CALL_ID:
            raise LinkError("AudioSocket: a second UUID on one connection")
        elif kind in RATES:
            if length % 2:
                raise LinkError(f"AudioSocket: {length} bytes of audio are not whole samples of 2")
            if self._kind not in (None, kind):
                raise LinkError(f"AudioSocket: the rate changed within the call, to {RATES[kind]} Hz")
        elif 0x10 <= kind != ERROR:
            raise LinkError(f"AudioSocket: frames of type 0x{kind:02x} are not known: send signed linear")

    def _frame(self, kind: int, payload: bytes, received_at: int) -> list[Item]:
        if kind == CALL_ID:
            self._call = str(UUID(bytes=payload))
        elif kind in RATES and payload:
            return self._audio(kind, payload, received_at)
        elif kind in (HANG_UP, ERROR):
            self._over = True
            normal = kind == HANG_UP or payload == CALLER_HUNG_UP
            end = CallEnd() if normal else CallEnd(f"AudioSocket error {payload[:4].hex() or 'without a code'}")
            return [*self._items(self._pauses.flush()), end]
        return []

    def _audio(self, kind: int, payload: bytes, received_at: int) -> list[Item]:
        assert self._call is not None
        items: list[Item] = []
        if self._kind is None:
            self._kind = kind
            self._pauses = PauseFinder(RATES[kind])
            items.append(CallStart(self._call, (self._channel,), RATES[kind], self._text))
        samples_N = np.frombuffer(payload, "<i2").astype(np.int16)
        return [*items, *self._items(self._pauses.push(samples_N, received_at))]

    def _items(self, found: Sequence[Heard | Missing]) -> Iterator[AudioChunk | Gap]:
        for item in found:
            start = self._start
            if isinstance(item, Missing):
                self._start += item.samples
                yield Gap(self._channel.name, start, self._start, NOTHING_SENT)
            else:
                assert self._kind is not None
                self._start += len(item.samples)
                yield AudioChunk(self._channel.name, start, RATES[self._kind], item.samples, item.received_at)
