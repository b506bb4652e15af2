"""RTP without its sockets: packets -> one call, with a channel for each port or all of them in one stream.

Specifications: RFC 3550 and 3551; see rtp_packets for the bytes and rtp_stream for the order. RTP says neither who
calls nor when a call is over: a call begins with its first two packets in a row, and ends with an RTCP BYE from
all its senders, or when nothing comes any more, which is for its server to see.
"""

from collections.abc import Callable, Sequence
from typing import Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.fields import require_unique_names
from bcaf_stream.ingest.media import (
    MAX_CHANNELS,
    MAX_NAME,
    RATES,
    CallEnd,
    CallStart,
    ChannelConfig,
    Degraded,
    MissingSound,
    call_id,
)
from bcaf_stream.ingest.protocols.rtp_packets import (
    COMFORT_NOISE,
    STATIC_FORMATS,
    Codec,
    Format,
    Packet,
    is_rtcp,
    parse_control,
    parse_packet,
)
from bcaf_stream.ingest.protocols.rtp_source import Counts, RtpMedia
from bcaf_stream.ingest.protocols.rtp_stream import UNHEARD, Note, RtpStream, Silence, Sound, Span, Unheard
from bcaf_stream.ingest.security import ServerConfig
from bcaf_stream.types import AudioChunk, Gap

Item = CallStart | AudioChunk | Gap | MissingSound | Degraded | CallEnd

FIRST_DYNAMIC, EVENT_BYTES = 96, 4


class FormatConfig(Config):
    """What a payload type stands for (a=rtpmap of SDP): `codec` pcmu, pcma or l16."""

    codec: Codec
    rate: int = Field(8_000, ge=RATES[0], le=RATES[1])
    channels: int = Field(1, ge=1, le=MAX_CHANNELS)


class RtpConfig(ServerConfig):
    """One call at a time: channel i is what comes in on `port` + 2 i, its RTCP on the port after it.

    With `interleaved` all channels are in the one stream of `port`, as stereo L16 has them. `formats` are the
    payload types beside 0, 8, 10 and 11. Call ids are `name` and the time, or just `call`. What comes out of order
    is waited for `jitter_ms`. A channel that is silent is never more than `lag_ms` behind the others.
    A call without packets for `idle_s` is over. `waiting_s` of sound may wait for the analysis, what is more is
    dropped. RTP carries no secret, so that beyond this machine `allow` says who may come. It has no connections
    either: of the limits of a server, that on the size of a message alone means something here.
    """

    port: int = Field(5004, ge=0, le=65_534)
    name: str = Field("rtp", min_length=1, max_length=MAX_NAME)
    call: str | None = Field(None, min_length=1, max_length=MAX_NAME)
    channels: tuple[ChannelConfig, ...] = Field((ChannelConfig(),), min_length=1, max_length=MAX_CHANNELS)
    interleaved: bool = False
    formats: dict[int, FormatConfig] = Field(default_factory=dict)
    jitter_ms: int = Field(60, ge=0, le=1000)
    lag_ms: int = Field(1000, ge=100)
    idle_s: float = Field(30.0, gt=0)
    waiting_s: float = Field(10.0, gt=0)

    @property
    def streams(self) -> tuple[tuple[ChannelConfig, ...], ...]:
        """The channels of each port."""
        return (self.channels,) if self.interleaved else tuple((channel,) for channel in self.channels)

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        if self.tokens is not None or self.certificate is not None:
            raise ValueError("RTP carries no token and no TLS: say who may come with allow: [NETWORK]")
        require_unique_names(self.channels)
        if any(not 0 <= number <= 127 or number in COMFORT_NOISE for number in self.formats):
            raise ValueError("formats: payload types are 0 to 127, without 13 and 19, which are comfort noise")
        if self.port and self.port + 2 * len(self.streams) - 1 > 65_535:
            raise ValueError("port: there are not enough ports above it")
        return self


class RtpParser:
    """Turns the packets of all ports into one call; make a new one for the next call.

    Args:
        ignored: SSRCs that are not listened to: of a call that is over, whose sender does not know it.
        counts: where to count what became of the packets.
    """

    def __init__(
        self, config: RtpConfig, ignored: frozenset[int] = frozenset(), counts: Counts | None = None
    ) -> None:
        self._config = config
        self._ignored = ignored
        self._formats = STATIC_FORMATS | {
            number: Format(form.codec, form.rate, form.channels) for number, form in config.formats.items()
        }
        self._streams: list[RtpStream | None] = [None] * len(config.streams)
        self._left: set[int] = set()  # streams that said goodbye
        self._unheard = [0] * len(config.streams)  # packets of a stream that was never heard
        self._begin: CallStart | None = None
        self._over = False
        self.counts = counts or Counts()
        self.heard: set[int] = set()  # the SSRCs of the call

    def source(self, stream: int) -> int | None:
        """The SSRC that is heard on this port."""
        found = self._streams[stream]
        return found.ssrc if found else None

    def hears(self, stream: int) -> bool:
        """Whether a sender was found on this port."""
        return self.source(stream) is not None

    def push(self, data: bytes, received_at: int, stream: int = 0) -> list[Item]:
        """What a datagram on the port of `stream` says; RTCP may come on the same port or its own.

        Raises:
            LinkError: this packet is not RTP, or not in a known format. The others are as good as before.
        """
        if self._over:
            return []
        if is_rtcp(data):
            return self._control(data, received_at, stream)
        packet = parse_packet(data)
        if packet.ssrc in self._ignored:
            return []
        why = self._why_unheard(packet, stream)
        self.counts.unknown += why is not None
        form = None if why else self._formats.get(packet.payload_type)
        if form is None and not self.hears(stream):
            return self._never_heard(stream, why)
        samples_NC = form.decode(packet.payload) if form else None  # telephone events come between the sound
        target = self._stream(stream, form.rate if form else 0)
        quiet = packet.payload_type in COMFORT_NOISE
        spans = target.push(RtpMedia(packet, samples_NC, quiet, received_at, why))
        return [*self._opening(stream, target), *self._items(stream, spans), *self._level(received_at)]

    def rival(self, stream: int) -> list[Item]:
        """A packet came on the port of `stream` from where it must not come while its source is heard."""
        found = self._streams[stream]
        return self._items(stream, found.rival(1)) if found and self._begin and not self._over else []

    def advance(self, now: int) -> list[Item]:
        """Time has passed, to `now` (unix ns): what waited long enough for what is missing comes out."""
        if self._over or not self._begin:
            return []
        return [*self._of_all(lambda stream: stream.advance(now)), *self._level(now)]

    def flush(self) -> list[Item]:
        """The rest, when nothing comes any more."""
        if self._over or not self._begin:
            return []
        self._over = True
        return self._of_all(RtpStream.flush)

    def _of_all(self, spans: Callable[[RtpStream], list[Span]]) -> list[Item]:
        streams = enumerate(self._streams)
        return [item for number, stream in streams if stream for item in self._items(number, spans(stream))]

    def _why_unheard(self, packet: Packet, stream: int) -> str | None:
        """Why what may be sound cannot be heard; a telephone event (RFC 4733) is none and has 4 bytes."""
        kind, form = packet.payload_type, self._formats.get(packet.payload_type)
        if form is None:
            beside = kind in COMFORT_NOISE or (kind >= FIRST_DYNAMIC and len(packet.payload) == EVENT_BYTES)
            return None if beside else f"RTP payload type {kind} has no format here (set formats)"
        if form.channels != len(self._config.streams[stream]):
            return f"RTP payload type {kind} has {form.channels} channels, not {len(self._config.streams[stream])}"
        if self._begin and form.rate != self._begin.rate:
            return f"RTP payload type {kind} has {form.rate} Hz in a call of {self._begin.rate} Hz"
        return None

    def _never_heard(self, stream: int, why: str | None) -> list[Item]:
        """Nothing else has come on this port so far: of a call, it is told to those who follow it.

        Raises:
            LinkError: there is no call yet, and so nobody else to tell.
        """
        if why is None:
            return []
        if self._begin is None:
            raise LinkError(f"{why} and is not heard")
        self._unheard[stream] += 1
        return [self._degraded(stream, f"{why} and is not heard")] if self._unheard[stream] == UNHEARD else []

    def _degraded(self, stream: int, reason: str) -> Degraded:
        sides = self._config.streams[stream]
        return Degraded(reason, sides[0].name if len(sides) == 1 else None)

    def _stream(self, number: int, rate: int) -> RtpStream:
        stream = self._streams[number]
        if stream is None or (rate and stream.rate != rate):  # of another rate only before the call begins
            stream = self._streams[number] = self._new_stream(number, rate)
        return stream

    def _new_stream(self, number: int, rate: int) -> RtpStream:
        return RtpStream(rate, len(self._config.streams[number]), self._config.jitter_ms, self.counts)

    def _opening(self, number: int, stream: RtpStream) -> list[Item]:
        """The call begins with the first stream that is sure; the others are placed in its time."""
        if stream.ssrc is None or stream.ssrc in self.heard:
            return []
        self.heard.add(stream.ssrc)
        self._left.discard(number)
        if self._begin:
            return []
        assert stream.origin is not None
        rate = stream.rate
        for other in range(len(self._streams)):
            self._stream(other, rate).align(stream.origin)
        channels = tuple(channel.channel for channel in self._config.channels)
        call = self._config.call or call_id(self._config.name, stream.origin)
        self._begin = CallStart(call, channels, rate, self._config.text)
        return [self._begin]

    def _items(self, stream: int, spans: Sequence[Span]) -> list[Item]:
        items: list[Item] = []
        for span in spans:
            if isinstance(span, Note):
                items.append(self._degraded(stream, span.reason))
                continue
            for column, channel in enumerate(self._config.streams[stream]):
                items.append(self._item(channel.name, column, span))
        return items

    def _item(self, channel: str, column: int, span: Sound | Silence | Unheard) -> AudioChunk | Gap | MissingSound:
        if isinstance(span, Silence):
            return Gap(channel, span.start, span.end, span.reason)
        if isinstance(span, Unheard):
            return MissingSound(channel, span.start, span.end, span.reason)
        assert self._begin is not None
        samples_N = span.samples_NC[:, column].copy()
        return AudioChunk(channel, span.start, self._begin.rate, samples_N, span.received_at)

    def _level(self, now: int) -> list[Item]:
        """No channel holds up the others."""
        if not self._begin:
            return []
        lag = self._config.lag_ms * self._begin.rate // 1000
        furthest = max(stream.end for stream in self._streams if stream)
        items: list[Item] = []
        for number, stream in enumerate(self._streams):
            if stream and furthest - stream.end > lag:
                items += self._items(number, stream.fill(furthest - lag // 2, now))
        return items

    def _control(self, data: bytes, now: int, stream: int) -> list[Item]:
        control, found = parse_control(data), self._streams[stream]
        if not self._begin or found is None or found.ssrc is None:
            return []
        if found.ssrc in control.leaving:
            self._left.add(stream)
            heard = {number for number in range(len(self._streams)) if self.hears(number)}
            return [*self.flush(), CallEnd()] if heard <= self._left else self._items(stream, found.flush())
        if found.ssrc in control.clocks:
            return [*self._items(stream, found.report(control.clocks[found.ssrc], now)), *self._level(now)]
        return []
