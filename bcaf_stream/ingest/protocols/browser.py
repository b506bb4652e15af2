"""Samples over a WebSocket, as a page in a browser sends its microphone, and the page itself.

    client -> server  text    {"call": NAME, "channels": [[NAME, ROLE], ...], "rate": HZ, "text"?: "asr"}
                      binary  samples, 16 bit little endian, interleaved by channel
                      text    {"end": true}
    server -> client  text    {"t": "accepted", "call": NAME}
                      text    {"t": "closed", "reason": WHY}
                      text    {"t": "refused", "busy": true or false, "message": WHY}

A page whose computer sleeps sends nothing: such a pause is a gap. A browser cannot set headers, so that its secret
is in the address: ws://HOST:PORT/?token=SECRET.
"""

import json
from importlib.resources import files
from typing import Any

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.fields import Fields
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart
from bcaf_stream.ingest.pcm_stream import PcmStream
from bcaf_stream.ingest.protocol import ConnectionConfig, Item, Parser, Reply, Request, WebSocketProtocol
from bcaf_stream.types import TextSource

PAGE = "browser.html"


class BrowserConfig(ConnectionConfig):
    """http://HOST:PORT/ in a browser; beyond this machine a browser gives its microphone to TLS alone."""

    def protocol(self) -> "Browser":
        return Browser(self)


class Browser(WebSocketProtocol):
    """Answers a browser's first request with the page, and the page's own with a call."""

    name = "microphone"

    def load(self) -> None:
        try:
            self.page = files(__package__).joinpath(PAGE).read_bytes()
        except OSError:
            raise LinkError(f"{self.name}: {PAGE} is missing from the installed package") from None

    def parser(self, request: Request) -> "BrowserParser":
        return BrowserParser(self.config.text)


class BrowserParser(Parser):
    """The frames of one connection.

    Raises:
        LinkError: from `push`, for a client that breaks the protocol.
    """

    def __init__(self, text: TextSource = "asr") -> None:
        self._text = text
        self._call = ""
        self._stream: PcmStream | None = None
        self._ended = False

    def push(self, data: str | bytes, received_at: int) -> list[Item]:
        """What a frame brings."""
        if self._ended:
            return []
        if isinstance(data, bytes):
            if self._stream is None:
                raise LinkError("microphone: samples came before the call was named")
            return [*self._stream.push(data, received_at)]
        fields = Fields.of_json("microphone", data)
        if self._stream is None:
            return [self._begin(fields)]
        self._ended = fields.get("end") is True
        return [*self._stream.flush(), CallEnd(), CLOSED] if self._ended else []

    def flush(self, received_at: int, closed: bool) -> list[Item]:
        """The sound that is held back after a pause; a page that is closed may be opened again."""
        return [*self._stream.flush()] if self._stream else []

    def accepted(self) -> list[Reply]:
        return [_answer(t="accepted", call=self._call)]

    def refused(self, error: LinkError) -> list[Reply]:
        return [_answer(t="refused", busy=isinstance(error, BusyError), message=str(error))]

    def closed(self, outcome: CallOutcome) -> list[Reply]:
        return [] if self._ended else [CLOSED]

    def _begin(self, fields: Fields) -> CallStart:
        call, channels, rate = fields.needed_name("call"), fields.channels(), fields.rate()
        text = fields.one_of("text", TextSource) if "text" in fields else self._text
        self._call, self._stream = call, PcmStream([channel.name for channel in channels], rate, real_time=True)
        return CallStart(call, channels, rate, text)


def _answer(**fields: Any) -> Reply:
    return Reply(json.dumps(fields))


CLOSED = _answer(t="closed", reason="complete")
