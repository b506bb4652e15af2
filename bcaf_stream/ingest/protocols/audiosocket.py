"""Asterisk's AudioSocket, without its sockets: bytes of one TCP connection -> a call of one channel.

Specification: docs.asterisk.org, Configuration / Channel Drivers / AudioSocket (0x11 to 0x18: since 2025).

    frame = 1 byte type, 2 bytes length (big endian), payload
    0x00         the end (closing the connection says the same)
    0x01         the call's UUID, 16 bytes; comes first
    0x03         a DTMF digit
    0x10..0x18   signed linear 16 bit mono, little endian, at 8, 12, 16, 24, 32, 44.1, 48, 96, 192 kHz
    0xff         an error, with an optional code

The rate is known with the first audio, so that is when the call begins. The protocol carries neither time nor
numbers: stream time is the count of samples, and a pause of the sender a gap (see jitter.py). Other types below
0x10 carry no sound and are passed over. A call that is not taken is answered by an error frame, whose code is
ours: BUSY or REFUSED; then both sides hang up.
"""

import struct
from typing import Self
from uuid import UUID

from pydantic import Field, model_validator

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.fields import require_unique_names
from bcaf_stream.ingest.legs import LegMerger
from bcaf_stream.ingest.media import MAX_CHANNELS, CallEnd, CallOutcome, CallStart, ChannelConfig
from bcaf_stream.ingest.pcm_stream import PcmStream
from bcaf_stream.ingest.protocol import ConnectionConfig, Item, Parser, Reply, TcpProtocol
from bcaf_stream.ingest.security import Access
from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.types import Channel, TextSource

HANG_UP, CALL_ID, ERROR = 0x00, 0x01, 0xFF
BUSY, REFUSED = 0x11, 0x12
RATES = dict(
    zip(range(0x10, 0x19), (8_000, 12_000, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000), strict=True)
)
CALLER_HUNG_UP = b"\x01"  # Asterisk's error code for the ordinary end
HEADER = struct.Struct(">BH")


class AudioSocketConfig(ConnectionConfig):
    """A connection carries one side of a call: channel i of `channels` is what comes in on `port` + i.

    Connections with the same UUID are one call. The protocol carries no secret, so that beyond this machine
    `allow` says who may come.
    """

    port: int = Field(9092, ge=0, le=65_535)
    channels: tuple[ChannelConfig, ...] = Field((ChannelConfig(),), min_length=1, max_length=MAX_CHANNELS)

    def protocol(self) -> "AudioSocket":
        return AudioSocket(self)

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        if self.tokens is not None:
            raise ValueError("AudioSocket carries no token: say who may come with allow: [NETWORK]")
        require_unique_names(self.channels)
        if self.port and self.port + len(self.channels) - 1 > 65_535:
            raise ValueError("port: there are not enough ports above it")
        return self


class AudioSocket(TcpProtocol):
    """Takes Asterisk's calls; a call's id is its UUID."""

    name = "audiosocket"
    config: AudioSocketConfig

    def __init__(self, config: AudioSocketConfig) -> None:
        super().__init__(config)
        self._channels = [channel.channel for channel in config.channels]
        self.ports = len(self._channels)

    def behind(self, sink: CallSink) -> CallSink:
        return sink if self.ports == 1 else LegMerger(sink, self._channels)

    def parser(self, port: int, access: Access) -> "AudioSocketParser":
        return AudioSocketParser(self._channels[port], self.config.text)


def hang_up() -> bytes:
    """The frame that ends a connection."""
    return HEADER.pack(HANG_UP, 0)


def refusal(busy: bool) -> bytes:
    """The frames that refuse a call."""
    return HEADER.pack(ERROR, 1) + bytes([BUSY if busy else REFUSED]) + hang_up()


class AudioSocketParser(Parser):
    """Turns the bytes of one connection into its call; `channel` is the side that Asterisk sends."""

    def __init__(self, channel: Channel, text: TextSource = "asr") -> None:
        self._channel = channel
        self._text = text
        self._bytes = bytearray()
        self._call: str | None = None
        self._kind: int | None = None  # of the audio frames, all the same
        self._stream: PcmStream | None = None
        self._over = False

    @property
    def greeted(self) -> bool:  # type: ignore[override]
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

    def flush(self, received_at: int, closed: bool) -> list[Item]:
        """A closed connection is the end of the call, unless that was in the middle of a frame."""
        if self._over or self._bytes or not closed:
            return []
        self._over = True
        return [*self._rest(), CallEnd()]

    def refused(self, error: LinkError) -> list[Reply]:
        return [Reply(refusal(isinstance(error, BusyError)))]

    def closed(self, outcome: CallOutcome) -> list[Reply]:
        return [Reply(hang_up())]

    def _rest(self) -> list[Item]:
        return [*self._stream.flush()] if self._stream else []

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
            return [*self._rest(), end]
        return []

    def _audio(self, kind: int, payload: bytes, received_at: int) -> list[Item]:
        assert self._call is not None
        items: list[Item] = []
        if self._stream is None:
            self._kind = kind
            self._stream = PcmStream([self._channel.name], RATES[kind], real_time=True)
            items.append(CallStart(self._call, (self._channel,), RATES[kind], self._text))
        return [*items, *self._stream.push(payload, received_at)]
