"""Raw PCM over TCP, without its sockets: for whatever can write samples into a connection.

Specification: this one. The samples are 16 bit, little endian, interleaved by channel, until the sender closes.
They come after one line of JSON, or alone where the server knows their format (`nc`, `ffmpeg -f s16le tcp://...`):

    client -> server  {"call": NAME, "channels": [[NAME, ROLE], ...], "rate": HZ, "token": SECRET, "text": "asr"}
                      "token" and "text" as needed; unknown fields are ignored
    server -> client  {"t": "accepted", "call": NAME}               only to who sent a line
                      {"t": "closed", "utterances": COUNT, "reason": WHY}
                      {"t": "refused", "busy": true or false, "message": WHY}     and the connection is closed
"""

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bcaf_stream.config import Config
from bcaf_stream.errors import LinkError
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
from bcaf_stream.ingest.pauses import NOTHING_SENT, Heard, Missing, PauseFinder
from bcaf_stream.types import AudioChunk, Channel, Gap, Role, TextSource

MAX_HELLO = 16_384  # bytes of the first line

Item = CallStart | AudioChunk | Gap | CallEnd
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Rate = Annotated[int, Field(ge=RATES[0], le=RATES[1])]


class PcmFormat(Config):
    """What the samples are where no line says so; the call's id is `name` and the time at which it begins."""

    name: Name = "pcm"
    channels: tuple[ChannelConfig, ...] = Field((ChannelConfig(),), min_length=1, max_length=MAX_CHANNELS)
    rate: Rate


class _Hello(BaseModel):
    model_config = ConfigDict(strict=True)

    call: Name
    channels: Annotated[list[tuple[Name, Role]], Field(min_length=1, max_length=MAX_CHANNELS)]
    rate: Rate
    token: str | None = None
    text: TextSource | None = None


class PcmParser:
    """Turns the bytes of one connection into its call.

    Args:
        text: where the words come from, unless the first line says so.
        fixed: the format, if no line comes.
        token_allowed: whether this secret (None: none was shown) lets a sender in; asked of the line.
        real_time: the sender is never faster than speech, so that its pauses are gaps (see pauses.py).
    """

    def __init__(
        self,
        text: TextSource = "asr",
        fixed: PcmFormat | None = None,
        token_allowed: Callable[[str | None], bool] = lambda _: True,
        real_time: bool = False,
    ) -> None:
        self._text = text
        self._fixed = fixed
        self._token_allowed = token_allowed
        self._begin: CallStart | None = None
        self._bytes = b""
        self._start = 0
        self._real_time = real_time
        self._pauses: PauseFinder | None = None

    @property
    def greeted(self) -> bool:
        """Never before the call: it begins with the line."""
        return self._begin is not None

    def push(self, data: bytes, received_at: int) -> list[Item]:
        """What the next bytes say, however they were cut.

        Raises:
            LinkError: the first line is no hello, or shows no secret that lets it in.
        """
        self._bytes += data
        if self._begin:
            return self._audio(self._begin, received_at)
        self._begin = self._from_format(received_at) if self._fixed else self._from_hello()
        return [self._begin, *self._audio(self._begin, received_at)] if self._begin else []

    def flush(self) -> list[Item]:
        """The sender closed: that is the end of the call. A part of a sample is dropped."""
        return [*self.rest(), CallEnd()] if self._begin else []

    def rest(self) -> list[Item]:
        """The sound that is held back after a pause."""
        return self._items(self._begin, self._pauses.flush()) if self._begin and self._pauses else []

    def _from_format(self, received_at: int) -> CallStart:
        assert self._fixed is not None
        channels = tuple(channel.channel for channel in self._fixed.channels)
        return CallStart(call_id(self._fixed.name, received_at), channels, self._fixed.rate, self._text)

    def _from_hello(self) -> CallStart | None:
        line, newline, rest = self._bytes.partition(b"\n")
        if len(line) > MAX_HELLO:
            raise LinkError(f"hello: the first line must be JSON of at most {MAX_HELLO} bytes")
        if not newline:
            return None
        try:
            hello = _Hello.model_validate_json(line)
        except ValidationError as error:
            raise LinkError(f"hello: {_first_of(error)}") from None
        channels = tuple(Channel(name, role) for name, role in hello.channels)
        if len({channel.name for channel in channels}) < len(channels):
            raise LinkError("hello: each channel must have its own name")
        if not self._token_allowed(hello.token):
            raise LinkError("hello: the token is not one that lets you in" if hello.token else "hello: no token")
        self._bytes = rest
        return CallStart(hello.call, channels, hello.rate, hello.text or self._text)

    def _audio(self, begin: CallStart, received_at: int) -> list[Item]:
        count = len(self._bytes) // (2 * len(begin.channels))
        if not count:
            return []
        whole = 2 * len(begin.channels) * count
        samples_NC = np.frombuffer(self._bytes[:whole], "<i2").astype(np.int16).reshape(count, -1)
        self._bytes = self._bytes[whole:]
        if self._real_time and self._pauses is None:
            self._pauses = PauseFinder(begin.rate)
        found = self._pauses.push(samples_NC, received_at) if self._pauses else [Heard(samples_NC, received_at)]
        return self._items(begin, found)

    def _items(self, begin: CallStart, found: Sequence[Heard | Missing]) -> list[Item]:
        items: list[Item] = []
        for part in found:
            start = self._start
            self._start += part.samples if isinstance(part, Missing) else len(part.samples)
            for column, channel in enumerate(begin.channels):
                if isinstance(part, Missing):
                    items.append(Gap(channel.name, start, self._start, NOTHING_SENT))
                else:
                    side_N = np.ascontiguousarray(part.samples[:, column])
                    items.append(AudioChunk(channel.name, start, begin.rate, side_N, part.received_at))
        return items


def accepted(call: str) -> bytes:
    return _line({"t": "accepted", "call": call})


def refused(message: str, busy: bool) -> bytes:
    return _line({"t": "refused", "busy": busy, "message": message})


def closed(ended: CallOutcome) -> bytes:
    return _line({"t": "closed", "utterances": ended.utterances, "reason": ended.reason})


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _first_of(error: ValidationError) -> str:
    """The first thing wrong, never quoting what was sent."""
    problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, problem["loc"]))
    what = "not a JSON object" if problem["type"] == "json_invalid" else problem["msg"]
    return f"{where}: {what}" if where else what
