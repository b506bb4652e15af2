"""Twilio Media Streams and what speaks like it (Telnyx, SignalWire): JSON messages -> a call and its media.

Specifications: "Media Streams - WebSocket Messages" (twilio.com/docs/voice/media-streams/websocket-messages) and
"Media Streaming over WebSockets" (developers.telnyx.com/docs/voice/programmable-voice/media-streaming).
Unusual: Telnyx does not promise order, and whether `chunk` counts per track or over both is written nowhere. So
`chunk` gives the order in a track and `timestamp` (ms since the stream began) the place, and both tracks share
that clock. Sample 0 is timestamp 0. A stream that begins later than ORIGIN_MS goes on after a lost connection: its
call continues where it stopped on that clock, or, where that is not known, at its first sound. A call may also
come as two streams with one callSid and one track each; its door joins them by the wall clock.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.fields import Item, Reply, group, json_map, name_in, require_unique_names, whole
from bcaf_stream.ingest.g711 import decode_alaw, decode_ulaw
from bcaf_stream.ingest.media import CallEnd, CallStart, ChannelConfig
from bcaf_stream.ingest.reorder import DISCONNECTED, NOT_STARTED, Piece, Track
from bcaf_stream.types import PcmN, TextSource

DECODERS: dict[str, Callable[[bytes], PcmN]] = {
    "audio/x-mulaw": decode_ulaw,
    "audio/x-alaw": decode_alaw,
    "pcmu": decode_ulaw,
    "pcma": decode_alaw,
}
ORIGIN_MS = 1_000
MAX_JUMP_MS = 600_000  # a timestamp further ahead than this is a broken clock
MAX_REMEMBERED = 10_000  # calls that may come back
RATES = range(8_000, 48_001)


class StreamConfig(Config):
    """`channels` says what the tracks are; a stream that does not tell its tracks is taken to have all of them.

    `call_id` is what names a call: the platform's call, or the stream where one call has several. Sound waits up
    to `reorder_ms` for what belongs before it; Twilio keeps the order, so that 0 will do there.
    """

    channels: dict[Literal["inbound", "outbound"], ChannelConfig] = Field(
        default={
            "inbound": ChannelConfig(name="customer", role="customer"),
            "outbound": ChannelConfig(name="agent", role="agent"),
        }
    )
    call_id: Literal["call", "stream"] = "call"
    reorder_ms: int = Field(500, ge=0, le=10_000)

    @model_validator(mode="after")
    def _channels_are_told_apart(self) -> Self:
        require_unique_names(self.channels)
        return self


class TwilioParser:
    """The messages of one connection; `late` counts media that came twice or too late.

    Args:
        heard: until when (ms, on its stream's clock) each call that lost its connection was heard, by its name and
            tracks; shared by all connections of a door.

    Raises:
        LinkError: from `push`, for a peer that breaks the protocol; the connection is then to be closed.
    """

    def __init__(
        self, config: StreamConfig, text: TextSource = "asr", heard: dict[tuple[str, ...], int] | None = None
    ) -> None:
        self._config = config
        self._text = text
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
    def late(self) -> int:
        return sum(track.late for track in self._tracks.values())

    def push(self, data: str | bytes, received_at: int) -> list[Item]:
        """What a message brings; `received_at` (unix ns) is when it came."""
        fields = json_map("stream", data)
        match fields.get("event"):
            case _ if self._stopped:
                return []
            case "start":
                return self._start(fields)
            case "media":
                return self._media(group(fields, "media"), received_at)
            case "stop":
                return self._stop(received_at)
        return []  # connected, dtmf, mark, and what is still to be invented

    def flush(self, received_at: int) -> list[Item]:
        """The sound that still waits for what was to come before it; the connection is gone."""
        items = self._rest(received_at)
        if self._tracks and self._pending is None:
            end = max(track.end for track in self._tracks.values())
            self._heard[self._key] = (self._origin_ms or 0) + end * 1000 // self._rate
            if len(self._heard) > MAX_REMEMBERED:
                del self._heard[next(iter(self._heard))]
        return items

    def began(self) -> list[Reply]:
        """Nothing: Twilio ends a one-way stream that is answered (error 31924)."""
        return []

    def farewell(self, reason: LinkError | None) -> list[Reply]:
        """Nothing but the close code of the connection."""
        return []

    def _start(self, fields: dict[str, Any]) -> list[Item]:
        if self._tracks:
            raise LinkError("stream: start came twice")
        start = group(fields, "start")
        self._set_format(group(start, "mediaFormat") or group(start, "media_format"))
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

    def _set_format(self, described: Mapping[str, Any]) -> None:
        encoding = str(described.get("encoding", "audio/x-mulaw")).lower()
        rate = whole(described, "sampleRate", "sample_rate") or 8_000
        channels = whole(described, "channels")
        if encoding not in DECODERS or rate not in RATES or channels not in (None, 1):
            raise LinkError(f"stream: the media format must be one of {', '.join(DECODERS)}, one channel")
        self._decode, self._rate = DECODERS[encoding], rate

    def _name(self, fields: dict[str, Any], start: dict[str, Any]) -> str:
        stream = name_in(start, "streamSid", "stream_id") or name_in(fields, "streamSid", "stream_id")
        call = name_in(start, "callSid", "call_control_id", "call_sid", "call_session_id")
        found = (call or stream) if self._config.call_id == "call" else (stream or call)
        if found is None:
            raise LinkError("stream: start must name its call (callSid) or stream (streamSid)")
        return found

    def _media(self, media: dict[str, Any], received_at: int) -> list[Item]:
        if not self._tracks:
            raise LinkError("stream: media came before start")
        name = media.get("track", "inbound")
        track = self._tracks.get(name.removesuffix("_track")) if isinstance(name, str) else None
        if track is None:
            return []  # a track that nobody wants to hear
        begin = self._resume(whole(media, "timestamp"))
        track.push(self._piece(track, media, received_at))
        return [*begin, *self._release(received_at)]

    def _piece(self, track: Track, media: dict[str, Any], received_at: int) -> Piece:
        samples = self._decode(_payload(media))
        number = whole(media, "chunk")
        timestamp = whole(media, "timestamp")
        position = track.expected if timestamp is None else self._position(timestamp)
        if position < 0:  # it was heard over the connection before this one
            samples, position = samples[-position:], 0
        if position - self._newest > MAX_JUMP_MS * self._rate // 1000:
            raise LinkError("stream: a timestamp jumps by more than ten minutes")
        self._newest = max(self._newest, position)
        order = position if number is None else number
        return Piece(order, position, samples, received_at, numbered=number is not None)

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


def _payload(media: dict[str, Any]) -> bytes:
    payload = media.get("payload")
    if not isinstance(payload, str):
        raise LinkError("stream: media must hold a payload")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        raise LinkError("stream: the payload is not base64") from None
