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
from bcaf_stream.ingest.fields import Reply, is_unicode, json_map, name_in, whole
from bcaf_stream.ingest.media import MAX_TEXT, TextUpdate
from bcaf_stream.types import Words


@dataclass(frozen=True, slots=True)
class CallWords:
    """Words of one line, for a call that somebody else sends the sound of."""

    line: int
    call: str
    message: TextUpdate


class LiveTextParser:
    """The lines of one connection; `ack` asks for an answer to the good ones too."""

    def __init__(self, ack: bool = False) -> None:
        self._ack = ack
        self._lines = 0

    def push(self, data: str | bytes, received_at: int) -> list[CallWords | Reply]:
        """What a frame brings: words, and an answer to each line that is none.

        Raises:
            LinkError: it is a binary frame.
        """
        if isinstance(data, bytes):
            raise LinkError("live text: a frame must be text")
        return [self._parse(line) for line in self._split(data)]

    def taken(self, words: CallWords) -> list[Reply]:
        """The answer to words that the call took."""
        return [_answer(words.line, ok=True)] if self._ack else []

    def refused(self, words: CallWords, error: LinkError) -> list[Reply]:
        """The answer to words that no call took."""
        return [_answer(words.line, error=str(error))]

    def _split(self, data: str) -> Iterator[str]:
        for line in data.split("\n"):  # not splitlines: text may hold other separators
            if line.strip():
                self._lines += 1
                yield line

    def _parse(self, line: str) -> CallWords | Reply:
        try:
            fields = json_map("live text", line)
            call = name_in(fields, "call")
            if call is None:
                raise LinkError("live text: call must be given")
            return CallWords(self._lines, call, _message(fields))
        except LinkError as error:
            return _answer(self._lines, error=str(error))


def _message(fields: dict[str, Any]) -> TextUpdate:
    last = _flag(fields, "last", False)
    if last and fields.get("text") is None:
        return TextUpdate((), last=True)
    start_ms, end_ms = whole(fields, "start_ms"), whole(fields, "end_ms")
    if start_ms is None or end_ms is None or start_ms > end_ms:
        raise LinkError("live text: start_ms and end_ms must be given, and in order")
    text = fields.get("text")
    if not isinstance(text, str) or len(text) > MAX_TEXT or not is_unicode(text):
        raise LinkError(f"live text: text must be a string of at most {MAX_TEXT} characters")
    words = Words(
        start_ms,
        end_ms,
        text,
        channel=name_in(fields, "channel"),
        id=name_in(fields, "id"),
        final=_flag(fields, "is_final", True),
    )
    return TextUpdate((words,), last)


def _flag(fields: dict[str, Any], name: str, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise LinkError(f"live text: {name} must be true or false")
    return value


def _answer(line: int, **fields: Any) -> Reply:
    return Reply(json.dumps({"line": line} | fields) + "\n")
