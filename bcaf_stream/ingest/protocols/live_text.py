"""Live text beside a call: JSON lines over a WebSocket -> words for a call; the protocol is our own.

A text frame holds one or more lines, each a JSON map:

    client -> server  {call, start_ms, end_ms, text, channel?, id?, is_final?}    words of a running call
                      {call, last: true}                                          no more words come for it
    server -> client  {line, error}      a line that was not taken, counted from 1 in its connection
                      {line, ok: true}   one that was, if acknowledgements are asked for

Words with an `id` replace the earlier ones of that id; `is_final: false` says that they will be replaced. Unknown
fields are ignored. Answers never quote a line: it is personal data.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.fields import Fields
from bcaf_stream.ingest.media import TextUpdate
from bcaf_stream.ingest.protocol import Item, Parser, Reply, Request, WebSocketProtocol
from bcaf_stream.ingest.security import ServerConfig
from bcaf_stream.types import Words


class LiveTextConfig(ServerConfig):
    """`ack` answers every line that was taken, and not only those that were not."""

    ack: bool = False

    def protocol(self) -> "LiveText":
        return LiveText(self)


class LiveText(WebSocketProtocol):
    """Hands words to running calls; a line that cannot be taken is answered, and the next one read."""

    name = "live_text"
    too_late = "no words came in time"
    config: LiveTextConfig

    def parser(self, request: Request) -> "LiveTextParser":
        return LiveTextParser(self.config.ack)


@dataclass(frozen=True, slots=True)
class Line(TextUpdate):
    """Words for a call whose sound comes by another connection; `number` counts the lines of this one from 1."""

    number: int = 0


class LiveTextParser(Parser):
    """The lines of one connection; `ack` asks for an answer to the good ones too."""

    def __init__(self, ack: bool = False) -> None:
        self._ack = ack
        self._lines = 0

    def push(self, data: str | bytes, received_at: int) -> list[Item]:
        """What a frame brings: words, and an answer to each line that is none.

        Raises:
            LinkError: it is a binary frame.
        """
        if isinstance(data, bytes):
            raise LinkError("live text: a frame must be text")
        self.greeted = True
        return [self._parse(line) for line in self._split(data)]

    def text_taken(self, update: TextUpdate) -> list[Reply]:
        return [_answer(update, ok=True)] if self._ack else []

    def text_refused(self, update: TextUpdate, error: LinkError) -> list[Reply]:
        return [_answer(update, error=str(error))]

    def _split(self, data: str) -> Iterator[str]:
        for line in data.split("\n"):  # not splitlines: text may hold other separators
            if line.strip():
                self._lines += 1
                yield line

    def _parse(self, line: str) -> Line | Reply:
        try:
            return _line(Fields.of_json("live text", line), self._lines)
        except LinkError as error:
            return Reply(_json(self._lines, error=str(error)), refuses=True)


def _line(fields: Fields, number: int) -> Line:
    call = fields.name("call")
    if call is None:
        raise LinkError("live text: call must be given")
    last = fields.flag("last", False)
    if last and "text" not in fields:
        return Line((), last, call, number)
    start_ms, end_ms = fields.whole("start_ms"), fields.whole("end_ms")
    if start_ms is None or end_ms is None or start_ms > end_ms:
        raise LinkError("live text: start_ms and end_ms must be given, and in order")
    final = fields.flag("is_final", True)
    words = Words(start_ms, end_ms, fields.text("text"), fields.name("channel"), fields.name("id"), final)
    return Line((words,), last, call, number)


def _answer(update: TextUpdate, **fields: Any) -> Reply:
    assert isinstance(update, Line)
    return Reply(_json(update.number, **fields))


def _json(line: int, **fields: Any) -> str:
    return json.dumps({"line": line} | fields) + "\n"
