"""Twilio Media Streams and what speaks like it (Telnyx, SignalWire): JSON messages -> a call and its media.

Specifications: "Media Streams - WebSocket Messages" (twilio.com/docs/voice/media-streams/websocket-messages) and
"Media Streaming over WebSockets" (developers.telnyx.com/docs/voice/programmable-voice/media-streaming).
Unusual: Telnyx does not promise order, and whether `chunk` counts per track or over both is written nowhere. So
`chunk` gives the order in a track and `timestamp` (ms since the stream began) the place, and both tracks share
that clock. Sample 0 is timestamp 0. A stream that begins later than ORIGIN_MS goes on after a lost connection: its
call continues where it stopped on that clock, or, where that is not known, at its first sound. A call may also
come as two streams with one callSid and one track each; their legs are merged by the wall clock. Nothing is ever
answered: Twilio ends a one-way stream that is (error 31924); a call that cannot be taken now gets the close code
1013, try again later.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from bcaf_stream.codecs import decode_alaw, decode_ulaw
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.fields import Fields, require_unique_names
from bcaf_stream.ingest.jitter import BufferedPacket
from bcaf_stream.ingest.legs import LegMerger
from bcaf_stream.ingest.media import CallEnd, CallStart, ChannelConfig
from bcaf_stream.ingest.protocol import ConnectionConfig, Item, Parser, Request, WebSocketProtocol
from bcaf_stream.ingest.security import UsedSignatures, read_secrets
from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.ingest.track import DISCONNECTED, NOT_STARTED, Track
from bcaf_stream.types import PcmN

DECODERS: dict[str, Callable[[bytes], PcmN]] = {
    "audio/x-mulaw": decode_ulaw,
    "audio/x-alaw": decode_alaw,
    "pcmu": decode_ulaw,
    "pcma": decode_alaw,
}
ORIGIN_MS = 1_000
MAX_JUMP_MS = 600_000  # a timestamp further ahead than this is a broken clock
SINGLE_USE_S = 86_400.0  # how long the signature of an address is remembered, which holds no time itself
MAX_REMEMBERED = 10_000  # calls that may come back
RATES = range(8_000, 48_001)


class TwilioConfig(ConnectionConfig):
    """`channels` says what the tracks are; a stream that does not tell its tracks is taken to have all of them.

    `call_id` is what names a call: the platform's call, or the stream where one call has several. Sound waits up
    to `reorder_ms` for what belongs before it; Twilio keeps the order, so that 0 will do there.

    `auth_token` is a file (mode 600) with the account's token: every request must then carry Twilio's signature
    of the address it was sent to. Behind a proxy `public_url` is that address, as the <Stream> names it. The
    signature of an address never changes, and Twilio shows the same one in each call of a <Stream>: only where the
    <Stream> of each call names an address of its own (a random last part of its path), `single_use: true` takes
    each once.
    """

    channels: dict[Literal["inbound", "outbound"], ChannelConfig] = Field(
        default={
            "inbound": ChannelConfig(name="customer", role="customer"),
            "outbound": ChannelConfig(name="agent", role="agent"),
        }
    )
    call_id: Literal["call", "stream"] = "call"
    reorder_ms: int = Field(500, ge=0, le=10_000)
    auth_token: Path | None = None
    public_url: str | None = None
    single_use: bool = False

    @property
    def asks_for_secret(self) -> bool:
        return super().asks_for_secret or self.auth_token is not None

    def protocol(self) -> "Twilio":
        return Twilio(self)

    @model_validator(mode="after")
    def _channels_have_their_names(self) -> Self:
        require_unique_names(self.channels)
        return self


class Twilio(WebSocketProtocol):
    """A call's id is its callSid; it may come as two streams with one callSid and one track each."""

    name = "twilio"
    config: TwilioConfig

    def __init__(self, config: TwilioConfig) -> None:
        super().__init__(config)
        self._keys: list[bytes] = []
        self._used = UsedSignatures()
        self._heard: dict[tuple[str, ...], int] = {}

    def load(self) -> None:
        self._keys = read_secrets(self.config.auth_token) if self.config.auth_token else []

    def behind(self, sink: CallSink) -> CallSink:
        channels = [channel.channel for channel in self.config.channels.values()]
        return LegMerger(sink, channels) if len(channels) > 1 and self.config.call_id == "call" else sink

    def parser(self, request: Request) -> "TwilioParser":
        return TwilioParser(self.config, self._heard)

    def may_enter(self, request: Request, now_s: float) -> bool:
        if not self._keys:
            return True
        shown = request.header("X-Twilio-Signature") or ""
        if not is_signed(shown, self._signed_urls(request), self._keys):
            return False
        return not self.config.single_use or self._used.take(shown.encode(), now_s + SINGLE_USE_S, now_s)

    def _signed_urls(self, request: Request) -> list[str]:
        if self.config.public_url:
            urls = [self.config.public_url]
        else:
            host = request.header("Host")
            urls = [f"{scheme}://{host}{request.target}" for scheme in ("wss", "https", "ws")]
        # Twilio is known to sign with and without the slash at the end.
        return [*urls, *(url[:-1] if url.endswith("/") else f"{url}/" for url in urls)]


def twilio_signature(secret: bytes, url: str) -> bytes:
    """Twilio's signature of a WebSocket request, which has no parameters but its address.

    Specification: "Security" (twilio.com/docs/usage/security).
    """
    return base64.b64encode(hmac.digest(secret, url.encode("utf-8", "surrogateescape"), hashlib.sha1))


def is_signed(shown: str, urls: Sequence[str], secrets: Sequence[bytes]) -> bool:
    """Whether Twilio signed one of these addresses; each is compared, in constant time."""
    given = shown.encode("utf-8", "replace")
    known = [twilio_signature(secret, url) for secret in secrets for url in urls]
    return sum(hmac.compare_digest(given, signature) for signature in known) > 0


class TwilioParser(Parser):
    """The messages of one connection; `late` counts media that came twice or too late.

    Args:
        heard: until when (ms, on its stream's clock) each call that lost its connection was heard, by its name and
            tracks; shared by all connections of a server.

    Raises:
        LinkError: from `push`, for a peer that breaks the protocol; the connection is then to be closed.
    """

    def __init__(self, config: TwilioConfig, heard: dict[tuple[str, ...], int] | None = None) -> None:
        self._config = config
        self._text = config.text
        self._heard = heard if heard is not None else {}
        self._key: tuple[str, ...] = ()  # of the call and its tracks
        self._pending: CallStart | None = None  # of a call that comes back: its first sound says what was missed
        self._tracks: dict[str, Track] = {}
        self._decode: Callable[[bytes], PcmN] = decode_ulaw
        self._rate = 0
        self._origin_ms: int | None = None
        self._newest = 0  # where the newest sound of any track begins
        self._stopped = False

    @property
    def late(self) -> int:  # type: ignore[override]
        return sum(track.late for track in self._tracks.values())

    def push(self, data: str | bytes, received_at: int) -> list[Item]:
        """What a message brings; `received_at` (unix ns) is when it came."""
        fields = Fields.of_json("stream", data)
        match fields.get("event"):
            case _ if self._stopped:
                return []
            case "start":
                return self._start(fields)
            case "media":
                return self._media(fields.group("media"), received_at)
            case "stop":
                return self._stop(received_at)
        return []  # connected, dtmf, mark, and what is still to be invented

    def flush(self, received_at: int, closed: bool) -> list[Item]:
        """The sound that still waits for what was to come before it; only `stop` ends a call."""
        items = self._rest(received_at)
        if self._tracks and self._pending is None:
            end = max(track.end for track in self._tracks.values())
            self._heard[self._key] = (self._origin_ms or 0) + end * 1000 // self._rate
            if len(self._heard) > MAX_REMEMBERED:
                del self._heard[next(iter(self._heard))]
        return items

    def _start(self, fields: Fields) -> list[Item]:
        if self._tracks:
            raise LinkError("stream: start came twice")
        start = fields.group("start")
        self._set_format(start.group("mediaFormat" if "mediaFormat" in start else "media_format"))
        wanted = start.get("tracks")
        known = self._config.channels
        if not isinstance(wanted, list):
            wanted = list(known)
        tracks = [track for track in known if track in wanted or f"{track}_track" in wanted]
        if not tracks:
            raise LinkError("stream: has none of the tracks that channels names")
        call = self._name(fields, start)
        self._key = (call, *tracks)
        begin = CallStart(call, tuple(known[track].channel for track in tracks), self._rate, self._text)
        before = DISCONNECTED if self._key in self._heard else NOT_STARTED
        self._tracks = {track: Track(known[track].name, self._rate, before) for track in tracks}
        if self._key in self._heard:
            self._pending = begin
            return []
        return [begin]

    def _resume(self, timestamp: int | None) -> list[Item]:
        """The beginning that was held back, once a timestamp says whether the stream's clock went on."""
        begin, self._pending = self._pending, None
        if begin is None:
            return []
        heard_ms = self._heard.pop(self._key, 0)
        if timestamp is None or timestamp <= ORIGIN_MS or abs(timestamp - heard_ms) > MAX_JUMP_MS:
            return [begin]  # another clock: the time that passed is what was missed
        self._origin_ms = heard_ms
        return [replace(begin, missed=0)]

    def _set_format(self, described: Fields) -> None:
        encoding = str(described.get("encoding") or "audio/x-mulaw").lower()
        rate = described.whole("sampleRate", "sample_rate") or 8_000
        channels = described.whole("channels")
        if encoding not in DECODERS or rate not in RATES or channels not in (None, 1):
            raise LinkError(f"stream: the media format must be one of {', '.join(DECODERS)}, one channel")
        self._decode, self._rate = DECODERS[encoding], rate

    def _name(self, fields: Fields, start: Fields) -> str:
        stream = start.name("streamSid", "stream_id") or fields.name("streamSid", "stream_id")
        call = start.name("callSid", "call_control_id", "call_sid", "call_session_id")
        found = (call or stream) if self._config.call_id == "call" else (stream or call)
        if found is None:
            raise LinkError("stream: start must name its call (callSid) or stream (streamSid)")
        return found

    def _media(self, media: Fields, received_at: int) -> list[Item]:
        if not self._tracks:
            raise LinkError("stream: media came before start")
        name = media.get("track") or "inbound"
        track = self._tracks.get(name.removesuffix("_track")) if isinstance(name, str) else None
        if track is None:
            return []  # a track that nobody wants to hear
        begin = self._resume(media.whole("timestamp"))
        track.push(self._packet(track, media, received_at))
        return [*begin, *self._release(received_at)]

    def _packet(self, track: Track, media: Fields, received_at: int) -> BufferedPacket[PcmN]:
        samples = self._decode(_payload(media))
        number = media.whole("chunk")
        timestamp = media.whole("timestamp")
        position = track.expected if timestamp is None else self._position(timestamp)
        if position < 0:  # it was heard over the connection before this one
            samples, position = samples[-position:], 0
        if position - self._newest > MAX_JUMP_MS * self._rate // 1000:
            raise LinkError("stream: a timestamp jumps by more than ten minutes")
        self._newest = max(self._newest, position)
        order = position if number is None else number
        return BufferedPacket(order, position, len(samples), samples, received_at, numbered=number is not None)

    def _position(self, timestamp: int) -> int:
        if self._origin_ms is None:
            self._origin_ms = 0 if timestamp <= ORIGIN_MS else timestamp
        return (timestamp - self._origin_ms) * self._rate // 1000

    def _release(self, now: int) -> list[Item]:
        horizon = self._newest - self._config.reorder_ms * self._rate // 1000
        return [item for track in self._tracks.values() for item in track.release(horizon, now)]

    def _stop(self, now: int) -> list[Item]:
        self._stopped = True
        return [*self._resume(None), *self._rest(now), CallEnd()] if self._tracks else []

    def _rest(self, now: int) -> list[Item]:
        return [item for track in self._tracks.values() for item in track.flush(now)]


def _payload(media: Fields) -> bytes:
    payload = media.get("payload")
    if not isinstance(payload, str):
        raise LinkError("stream: media must hold a payload")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        raise LinkError("stream: the payload is not base64") from None
