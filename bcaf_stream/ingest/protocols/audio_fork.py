"""FreeSWITCH's mod_audio_fork and what speaks like it (jambonz `listen`, mod_audio_stream): L16 over a WebSocket.

Specification: the README of mod_audio_fork (drachtio-freeswitch-modules, modules/mod_audio_fork), and "listen" of
jambonz (docs.jambonz.org), which names the fields of the first text.

    client -> server  text    metadata, what the dialplan says: of a JSON map callSid, sampleRate, mixType are read
                      binary  samples, 16 bit little endian, one channel (mono, mixed) or two (stereo: caller left)
                      text    later: whatever the dialplan sends (DTMF, marks); it is no speech, and is passed over
    server -> client  text    {"type": "error", "data": {"busy": BOOLEAN, "message": WHY}}     of a call not taken

Unusual: the module tells neither the rate nor the channels of its samples. They stand in the address (?rate=16k&
mix=stereo&call=UUID, as the dialplan writes it), in the metadata, or in our configuration. Where two of the first
two differ, or nobody says, the call is refused: samples of another form would be noise that nobody notices. There
is no clock either, and `pause` sends nothing: that is a gap (see jitter.py). The module hangs up by closing the
WebSocket; a call whose connection breaks without that may come back.
"""

import json
import re
from collections.abc import Sequence
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.fields import Fields, is_name, require_unique_names
from bcaf_stream.ingest.media import MAX_NAME, RATES, CallEnd, CallStart, ChannelConfig, Degraded, call_id
from bcaf_stream.ingest.pcm_stream import PcmStream
from bcaf_stream.ingest.protocol import ConnectionConfig, Item, Parser, Reply, Request, WebSocketProtocol
from bcaf_stream.types import Channel

Mix = Literal["mono", "mixed", "stereo"]
T = TypeVar("T")
CALL = ("callSid", "call_sid", "callId", "call_id", "callid", "call_uuid", "uuid")
MAX_EARLY_BYTES = 400_000  # of sound before the metadata, which mod_audio_stream sends late now and then
WATCHED_MS = 10_000  # of wall clock, after which the samples' own time is held against it
DEVIATION = 1.5


class AudioForkConfig(ConnectionConfig):
    """`uuid_audio_fork UUID start ws://HOST:PORT/?call=UUID&rate=16k&mix=stereo stereo 16k`, from the dialplan.

    `rate` (Hz) and `mix` are for calls that say neither in their address nor in their metadata what they send;
    calls without a name are called `name` and the time. `caller` and `callee` are the channels of a stereo call,
    `mixed` that of both in one, which is nobody's voice alone.
    """

    name: str = Field("fork", min_length=1, max_length=MAX_NAME)
    rate: int | None = Field(None, ge=RATES[0], le=RATES[1])
    mix: Mix | None = None
    caller: ChannelConfig = ChannelConfig(name="customer", role="customer")
    callee: ChannelConfig = ChannelConfig(name="agent", role="agent")
    mixed: ChannelConfig = ChannelConfig(name="mixed", role="speaker")

    def protocol(self) -> "AudioFork":
        return AudioFork(self)

    def channels(self, mix: Mix) -> tuple[Channel, ...]:
        chosen = {"mono": [self.caller], "stereo": [self.caller, self.callee], "mixed": [self.mixed]}[mix]
        return tuple(channel.channel for channel in chosen)

    @model_validator(mode="after")
    def _channels_have_their_names(self) -> Self:
        require_unique_names([self.caller, self.callee])
        return self


class AudioFork(WebSocketProtocol):
    """A call's id is what the address or the metadata say, best FreeSWITCH's own: ${uuid}."""

    name = "audio_fork"
    config: AudioForkConfig

    def parser(self, request: Request) -> "AudioForkParser":
        return AudioForkParser(self.config, request)

    def subprotocol(self, offered: Sequence[str]) -> str | None:
        """The module offers one, whose name its environment sets, and expects to have it back."""
        return offered[0] if offered else None


class AudioForkParser(Parser):
    """The frames of one connection, opened by `request`.

    Raises:
        LinkError: from `push`, for a call of which nobody says what its samples are.
    """

    def __init__(self, config: AudioForkConfig, request: Request) -> None:
        self._config = config
        self._asked = Fields("audio_fork address", {key: values[-1] for key, values in request.query.items()})
        self._early: list[tuple[bytes, int]] = []
        self._stream: PcmStream | None = None
        self._rate = 0
        self._began_at: int | None = None  # until the rate was found right, or not

    def push(self, data: str | bytes, received_at: int) -> list[Item]:
        """What a frame brings."""
        if self._stream is not None:
            return self._sound(self._stream, data, received_at) if isinstance(data, bytes) else []
        if isinstance(data, bytes):
            self._early.append((data, received_at))
        begin = self._begin(_metadata(data), received_at, isinstance(data, str))
        if begin is None:
            return []
        self._rate, self._began_at = begin.rate, received_at
        self._stream = PcmStream([channel.name for channel in begin.channels], begin.rate, real_time=True)
        early, self._early = self._early, []
        return [begin, *(item for frame in early for item in self._sound(self._stream, *frame))]

    def flush(self, received_at: int, closed: bool) -> list[Item]:
        """The module closes the connection when it hangs up, or is told to stop."""
        if self._stream is None:
            return []
        return [*self._stream.flush(), *([CallEnd()] if closed else [])]

    def refused(self, error: LinkError) -> list[Reply]:
        """FreeSWITCH makes an event of it, mod_audio_fork::error; `disconnect` would ask to hang up on people."""
        data = {"busy": isinstance(error, BusyError), "message": str(error)}
        return [Reply(json.dumps({"type": "error", "data": data}))]

    def _begin(self, metadata: Fields, received_at: int, is_told: bool) -> CallStart | None:
        """The call; None while the metadata may still say what it is."""
        mix: Mix | None = _agreed("mix", _mix(self._asked, "mix"), _mix(metadata, "mixType", "mix_type"))
        mix = mix or self._config.mix
        rate = _agreed("rate", _rate(self._asked, "rate"), _rate(metadata, "sampleRate", "sample_rate"))
        rate = rate or self._config.rate
        if mix is None or rate is None:
            if not is_told and sum(len(data) for data, _ in self._early) <= MAX_EARLY_BYTES:
                return None
            what = "rate=8k" if rate is None else "mix=mono (or mixed, stereo)"
            raise LinkError(f"audio_fork: nobody says what the samples are: add ?{what} to the address")
        call = self._asked.name("call")
        names = (value for value in map(metadata.get, CALL) if is_name(value))
        call = call or next(names, None) or call_id(self._config.name, received_at)
        return CallStart(call, self._config.channels(mix), rate, self._config.text)

    def _sound(self, stream: PcmStream, data: bytes, received_at: int) -> list[Item]:
        return [*stream.push(data, received_at), *self._pace(stream, received_at)]

    def _pace(self, stream: PcmStream, now: int) -> list[Item]:
        """Whether the samples come as fast as they last, looked at once: else they are not what was said."""
        if self._began_at is None or now - self._began_at < WATCHED_MS * 1_000_000:
            return []
        ratio = stream.end * 1_000_000_000 / self._rate / (now - self._began_at)
        self._began_at = None
        if 1 / DEVIATION < ratio < DEVIATION:
            return []
        return [
            Degraded(f"the sound comes {ratio:.1f} times as fast as its rate and channels say: see rate and mix")
        ]


def _metadata(data: str | bytes) -> Fields:
    """What a first frame says of its call; the dialplan may write anything, and need not."""
    try:
        return Fields.of_json("audio_fork metadata", data if isinstance(data, str) else "{}")
    except LinkError:
        return Fields("audio_fork metadata", {})


def _rate(fields: Fields, *names: str) -> int | None:
    """Hz, of 8000, "8000" or "8k"."""
    for name in names:
        value = fields.get(name)
        if value is None:
            continue
        written = re.fullmatch(r"([0-9]{1,6})(k?)", str(value), re.ASCII | re.IGNORECASE)
        rate = int(written[1]) * (1000 if written[2] else 1) if written else 0
        if not RATES[0] <= rate <= RATES[1]:
            raise fields.wrong(name, f"must be from {RATES[0]} to {RATES[1]} Hz, as 16000 or 16k")
        return rate
    return None


def _mix(fields: Fields, *names: str) -> Mix | None:
    for name in names:
        if name in fields:
            mix: Mix = fields.one_of(name, Mix)
            return mix
    return None


def _agreed(what: str, asked: T | None, told: T | None) -> T | None:
    if asked is not None and told is not None and asked != told:
        raise LinkError(f"audio_fork: the address says {what}={asked}, and the metadata {told}")
    return told if asked is None else asked
