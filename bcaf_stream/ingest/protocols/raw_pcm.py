"""Raw PCM over TCP, without its sockets: for whatever can write samples into a connection.

Specification: this one. The samples are 16 bit, little endian, interleaved by channel, until the sender closes.
They come after one line of JSON, or alone where the server knows their format (`nc`, `ffmpeg -f s16le tcp://...`):

    client -> server  {"call": NAME, "channels": [[NAME, ROLE], ...], "rate": HZ, "token": SECRET, "text": "asr"}
                      "token" and "text" as needed; unknown fields are ignored
    server -> client  {"t": "accepted", "call": NAME}               only to who sent a line
                      {"t": "closed", "utterances": COUNT, "reason": WHY}
                      {"t": "refused", "busy": true or false, "message": WHY}     and the connection is closed

A sender of samples alone reads nothing, and a connection that is closed with unread bytes is reset, sound and all:
such a sender is told nothing before it has closed its side.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.fields import Fields
from bcaf_stream.ingest.media import (
    MAX_CHANNELS,
    MAX_NAME,
    RATES,
    CallEnd,
    CallOutcome,
    CallStart,
    ChannelConfig,
    call_id,
)
from bcaf_stream.ingest.pcm_stream import PcmStream
from bcaf_stream.ingest.protocol import ConnectionConfig, Item, Parser, Reply, TcpProtocol
from bcaf_stream.ingest.security import Access
from bcaf_stream.types import TextSource

MAX_HELLO = 16_384  # bytes of the first line


class PcmFormat(Config):
    """What the samples are where no line says so; the call's id is `name` and the time at which it begins."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] = "pcm"
    channels: tuple[ChannelConfig, ...] = Field((ChannelConfig(),), min_length=1, max_length=MAX_CHANNELS)
    rate: Annotated[int, Field(ge=RATES[0], le=RATES[1])]


class PcmConfig(ConnectionConfig):
    """Without `format` each connection says what it sends, in a line of JSON that also holds its token."""

    port: int = Field(5570, ge=0, le=65_535)
    format: PcmFormat | None = None

    def protocol(self) -> "RawPcm":
        return RawPcm(self)

    @model_validator(mode="after")
    def _a_secret_needs_its_line(self) -> Self:
        if self.format is not None and self.tokens is not None:
            raise ValueError("samples alone carry no token: leave format out, or use allow: [NETWORK]")
        return self


class RawPcm(TcpProtocol):
    """Takes raw samples; answers in lines of JSON."""

    name = "pcm"
    config: PcmConfig

    def parser(self, port: int, access: Access) -> "PcmParser":
        return PcmParser(self.config.text, self.config.format, access.token_allowed)


class PcmParser(Parser):
    """Turns the bytes of one connection into its call.

    Args:
        text: where the words come from, unless the first line says so.
        fixed: the format, if no line comes.
        token_allowed: whether this secret (None: none was shown) lets a sender in; asked of the line.
    """

    def __init__(
        self,
        text: TextSource = "asr",
        fixed: PcmFormat | None = None,
        token_allowed: Callable[[str | None], bool] = lambda _: True,
    ) -> None:
        self._text = text
        self._fixed = fixed
        self._token_allowed = token_allowed
        self._line = b""  # what has come of it
        self._call = ""
        self._stream: PcmStream | None = None

    def push(self, data: bytes, received_at: int) -> list[Item]:
        """What the next bytes say, however they were cut.

        Raises:
            LinkError: the first line is no hello, or shows no secret that lets it in.
        """
        if self._stream is not None:
            return [*self._stream.push(data, received_at)]
        begin, data = self._from_format(data, received_at) if self._fixed else self._from_hello(data)
        if begin is None:
            return []
        self._call = begin.call
        # A file is sent as fast as it is taken: its pauses are the reader's.
        self._stream = PcmStream([channel.name for channel in begin.channels], begin.rate, real_time=False)
        return [begin, *self._stream.push(data, received_at)]

    def flush(self, received_at: int, closed: bool) -> list[Item]:
        """The sender closed: that is the end of the call. A part of a sample is dropped."""
        return [CallEnd()] if self._stream and closed else []

    def accepted(self) -> list[Reply]:
        return [] if self._fixed else [answer(t="accepted", call=self._call)]

    def refused(self, error: LinkError) -> list[Reply]:
        return [answer(t="refused", busy=isinstance(error, BusyError), message=str(error))]

    def closed(self, outcome: CallOutcome) -> list[Reply]:
        return [answer(t="closed", utterances=outcome.utterances, reason=outcome.reason)]

    def _from_format(self, data: bytes, received_at: int) -> tuple[CallStart, bytes]:
        assert self._fixed is not None
        channels = tuple(channel.channel for channel in self._fixed.channels)
        return CallStart(call_id(self._fixed.name, received_at), channels, self._fixed.rate, self._text), data

    def _from_hello(self, data: bytes) -> tuple[CallStart | None, bytes]:
        self._line += data
        line, newline, rest = self._line.partition(b"\n")
        if len(line) > MAX_HELLO:
            raise LinkError(f"hello: the first line must be JSON of at most {MAX_HELLO} bytes")
        if not newline:
            return None, b""
        hello = Fields.of_json("hello", line)
        call, channels, rate = hello.needed_name("call"), hello.channels(), hello.rate()
        text = hello.one_of("text", TextSource) if "text" in hello else self._text
        token = hello.needed("token", str) if "token" in hello else None
        if not self._token_allowed(token):
            raise LinkError("hello: the token is not one that lets you in" if token else "hello: no token")
        return CallStart(call, channels, rate, text), rest


def answer(**fields: Any) -> Reply:
    return Reply(json.dumps(fields).encode() + b"\n")
