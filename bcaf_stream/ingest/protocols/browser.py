"""Samples over a WebSocket, as a browser sends its microphone: raw_pcm.py's protocol with frames instead of lines.

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

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.fields import Item, Reply, json_map
from bcaf_stream.ingest.media import CallEnd
from bcaf_stream.ingest.protocols import raw_pcm
from bcaf_stream.types import TextSource

CLOSED = Reply(json.dumps({"t": "closed", "reason": "complete"}))


class BrowserParser:
    """The frames of one connection.

    Raises:
        LinkError: from `push`, for a client that breaks the protocol.
    """

    late = 0  # a WebSocket keeps the order

    def __init__(self, text: TextSource = "asr") -> None:
        self._pcm = raw_pcm.PcmParser(text, real_time=True)
        self._call: str | None = None
        self._ended = False

    def push(self, data: str | bytes, received_at: int) -> list[Item]:
        """What a frame brings."""
        if self._ended:
            return []
        if isinstance(data, bytes):
            if self._call is None:
                raise LinkError("microphone: samples came before the call was named")
            return list(self._pcm.push(data, received_at))
        fields = json_map("microphone", data)
        if self._call is not None:
            self._ended = fields.get("end") is True
            return [*self._pcm.rest(), CallEnd(), CLOSED] if self._ended else []
        begun = self._pcm.push(json.dumps(fields).encode() + b"\n", received_at)
        self._call = str(fields["call"])
        return list(begun)

    def flush(self, received_at: int) -> list[Item]:
        """The sound that is held back after a pause; the connection is gone."""
        return list(self._pcm.rest())

    def began(self) -> list[Reply]:
        """The call was taken."""
        return [Reply(raw_pcm.accepted(self._call or "").decode())]

    def farewell(self, reason: LinkError | None) -> list[Reply]:
        """Why the call ends here."""
        if reason is None:
            return [] if self._ended else [CLOSED]
        return [Reply(raw_pcm.refused(str(reason), isinstance(reason, BusyError)).decode())]
