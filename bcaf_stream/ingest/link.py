"""The server's socket of the audio link (ROUTER, asyncio); the senders' is in bcaf_stream.client.link.

The bytes are link_protocol's. Flow control is by credit: a sender that is ahead waits, and is never cut.
Nothing ever waits for ever: a peer that is gone is noticed by ZeroMQ's own heartbeats, one that is stuck by
the time since its last message.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import zmq
import zmq.asyncio
from pydantic import Field, ValidationInfo, field_validator

from bcaf_stream.addresses import is_local, why_not_bound
from bcaf_stream.config import Config
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.link_protocol import Accepted as Accepted  # all messages may be had from here
from bcaf_stream.ingest.link_protocol import (
    Audio,
    ClientMessage,
    Closed,
    Open,
    Refused,
    ServerMessage,
    pack,
    parse_client,
)
from bcaf_stream.ingest.link_protocol import Close as Close
from bcaf_stream.ingest.link_protocol import Credit as Credit
from bcaf_stream.ingest.link_protocol import WordsMessage as WordsMessage
from bcaf_stream.ingest.link_protocol import parse_server as parse_server

HANDSHAKE_MS = 5_000  # how long a connection may take to say that it speaks ZeroMQ


class LinkConfig(Config):
    """`window_ms` is how far a sender may be ahead of the analysis.

    A message beyond `max_message_bytes` ends its connection; `waiting_messages` may wait for each client, then
    it is read no further until there is room. `linger_s` is how long `close` may still deliver answers.
    """

    insecure: bool = False  # above `bind`, whose check looks at it
    bind: str = "tcp://127.0.0.1:5560"
    window_ms: int = Field(default=10_000, ge=200)
    max_message_bytes: int = Field(default=1_048_576, ge=131_072)
    waiting_messages: int = Field(default=64, ge=1)
    heartbeat_s: float = Field(default=2.0, gt=0)
    linger_s: float = Field(default=1.0, ge=0)

    @field_validator("bind")
    @classmethod
    def _stays_on_this_machine(cls, bind: str, info: ValidationInfo) -> str:
        if not info.data.get("insecure") and not is_local(bind):
            raise ValueError("only this machine's addresses, unless insecure: true lets anybody send audio")
        return bind


class LinkServer:
    """Takes the messages of many clients; belongs to one event loop.

    Args:
        clock: unix time in ns, for `received_at`.
        on_refused: told of a client whose message was refused, and why: its call, if it had one open, is over.

    Raises:
        LinkError: the address cannot be bound.
    """

    def __init__(
        self,
        config: LinkConfig,
        clock: Callable[[], int] = time.time_ns,
        on_refused: Callable[[bytes, str], None] = lambda client, reason: None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._on_refused = on_refused
        self._channels: dict[bytes, int] = {}  # of the open call of each client
        self.refused = 0  # messages that were malformed or out of place
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a client that is gone is reported, not ignored
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._socket.setsockopt(zmq.RCVHWM, config.waiting_messages)
        self._socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes)
        self._socket.setsockopt(zmq.LINGER, math.ceil(config.linger_s * 1000))
        # No heartbeats of ZeroMQ here: with a limit on what may wait they abort the process when a client leaves
        # whose messages wait (libzmq 4.3.5, issue 3937). The credit that is sent every while tells who is gone.
        self._socket.setsockopt(zmq.TCP_MAXRT, math.ceil(config.heartbeat_s * 3000))
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, math.ceil(config.heartbeat_s * 3))
        try:
            self._socket.bind(config.bind)
        except zmq.ZMQError as error:
            self.close()
            raise LinkError(why_not_bound(config.bind, error.errno, str(error.strerror))) from None
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def receive(self) -> tuple[bytes, ClientMessage]:
        """The next good message and its client; a bad one is counted and its client refused.

        Each `Open` is to be answered by `Accepted` or `Refused`, each `Close` by `Closed` or `Refused`.
        A cancelled receive loses nothing.
        """
        while True:
            await asyncio.sleep(0)  # a flood of messages must not keep the loop from everything else
            await self._socket.poll()
            client, *payload = await self._socket.recv_multipart(zmq.NOBLOCK)
            try:
                return client, self._parse(client, payload)
            except LinkError as error:
                self.refused += 1
                self._on_refused(client, str(error))
                await self.send(client, Refused(str(error)))

    async def send(self, client: bytes, message: ServerMessage) -> bool:
        """Send an answer; False when the client is gone."""
        if isinstance(message, Closed | Refused):
            self._channels.pop(client, None)
        try:
            await self._socket.send_multipart([client, pack(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                self._channels.pop(client, None)  # it is gone, or reads nothing any more
                return False
            raise LinkError(f"{self.endpoint}: the server is closed") from None
        return True

    def close(self) -> None:
        """Deliver the last answers, for at most `linger_s`, and free the address."""
        self._socket.close()
        self._context.term()

    def _parse(self, client: bytes, payload: Sequence[bytes]) -> ClientMessage:
        if len(payload) != 1:
            raise LinkError("message: must be one frame")
        message = parse_client(payload[0], self._channels.get(client))
        if isinstance(message, Open):
            if client in self._channels:
                raise LinkError("open: this connection has an open call already")
            self._channels[client] = len(message.channels)
        if isinstance(message, Audio):
            return replace(message, received_at=self._clock())
        return message
