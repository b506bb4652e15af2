"""The socket of the audio link's server: a ZeroMQ ROUTER; what many clients send is bounded and checked here.

The bytes are those of protocols/link.py; what becomes of the messages is in zmq_link.py. The senders' socket is in
bcaf_stream.client.link.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.asyncio
from pydantic import Field, ValidationInfo, field_validator

from bcaf_stream.addresses import is_local, why_not_bound
from bcaf_stream.config import Config
from bcaf_stream.connections import Refusals
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.protocols.link import (
    Audio,
    ClientMessage,
    Closed,
    Open,
    Refused,
    ServerMessage,
    pack,
    parse_client,
)
from bcaf_stream.types import Role

HANDSHAKE_MS = 5_000  # how long a connection may take to say that it speaks ZeroMQ


class LinkConfig(Config):
    """`window_ms` is how far a sender may be ahead of the analysis.

    A message beyond `max_message_bytes` ends its connection; `waiting_messages` may wait for each client, then
    it is read no further until there is room. `linger_s` is how long `close` may still deliver answers. One
    address may have `max_calls_per_client` calls at the same time. With more than `max_connections` the one that
    has said least is ended. `enrol` is that of ServerConfig.
    """

    insecure: bool = False  # above `bind`, whose check looks at it
    bind: str = "tcp://127.0.0.1:5560"
    window_ms: int = Field(default=10_000, ge=200)
    max_message_bytes: int = Field(default=1_048_576, ge=131_072)
    waiting_messages: int = Field(default=64, ge=1)
    heartbeat_s: float = Field(default=2.0, gt=0)
    linger_s: float = Field(default=1.0, ge=0)
    max_calls_per_client: int = Field(default=64, ge=1)
    max_connections: int = Field(default=1000, ge=1)
    enrol: dict[Role, Path] = Field(default_factory=dict)

    @field_validator("bind")
    @classmethod
    def _stays_on_this_machine(cls, bind: str, info: ValidationInfo) -> str:
        if not info.data.get("insecure") and not is_local(bind):
            raise ValueError("only this machine's addresses, unless insecure: true lets anybody send audio")
        return bind


class LinkSocket:
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
        self._open: dict[bytes, _OpenCall] = {}  # of each client that has one
        self.busy = 0  # calls beyond those that an address may have
        self._malformed = 0  # messages, or out of place
        self._connections = Refusals("link", most=config.max_connections)
        self._context = zmq.asyncio.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a client that is gone is reported, not ignored
        self._router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._router.setsockopt(zmq.RCVHWM, config.waiting_messages)
        self._router.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes)
        self._router.setsockopt(zmq.LINGER, math.ceil(config.linger_s * 1000))
        # No heartbeats of ZeroMQ here: with a limit on what may wait they abort the process when a client leaves
        # whose messages wait (libzmq 4.3.5, issue 3937). The credit that is sent every while tells who is gone.
        self._router.setsockopt(zmq.TCP_MAXRT, math.ceil(config.heartbeat_s * 3000))
        self._router.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._router.setsockopt(zmq.TCP_KEEPALIVE_IDLE, math.ceil(config.heartbeat_s * 3))
        try:
            self._router.bind(config.bind)
            self._connections.watch(self._router)
        except zmq.ZMQError as error:
            self.close()
            raise LinkError(why_not_bound(config.bind, error.errno, str(error.strerror))) from None
        self.endpoint: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def refused(self) -> int:
        """Messages that were malformed or out of place, and connections that were ended for others."""
        return self._malformed + self._connections.count

    async def receive(self) -> tuple[bytes, ClientMessage]:
        """The next good message and its client; a bad one is counted and its client refused.

        Each `Open` is to be answered by `Accepted` or `Refused`, each `Close` by `Closed` or `Refused`.
        A cancelled receive loses nothing.
        """
        while True:
            await asyncio.sleep(0)  # a flood of messages must not keep the loop from everything else
            await self._router.poll()
            identity, *frames = await self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            client = identity.bytes
            try:
                return client, self._parse(client, frames)
            except LinkError as error:
                self._malformed += 1
                self._on_refused(client, str(error))
                await self.send(client, Refused(str(error)))

    async def send(self, client: bytes, message: ServerMessage) -> bool:
        """Send an answer; False when the client is gone."""
        if isinstance(message, Closed | Refused):
            self._open.pop(client, None)
        try:
            await self._router.send_multipart([client, pack(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                self._open.pop(client, None)  # it is gone, or reads nothing any more
                return False
            raise LinkError(f"{self.endpoint}: the server is closed") from None
        return True

    def close(self) -> None:
        """Deliver the last answers, for at most `linger_s`, and free the address."""
        self._connections.unwatch()
        self._router.close()
        self._context.term()

    def _parse(self, client: bytes, frames: Sequence[zmq.Frame]) -> ClientMessage:
        if len(frames) != 1:
            raise LinkError("message: must be one frame")
        opened = self._open.get(client)
        message = parse_client(frames[0].bytes, opened.channels if opened else None)
        if isinstance(message, Open):
            if opened:
                raise LinkError("open: this connection has an open call already")
            self._open[client] = self._admitted(_address_of(frames[0]), message)
        if isinstance(message, Audio):
            return replace(message, received_at=self._clock())
        return message

    def _admitted(self, address: str, opening: Open) -> "_OpenCall":
        """Raises BusyError. A call that comes back, before its loss was noticed, is the same call."""
        most = self._config.max_calls_per_client
        others = {one.call for one in self._open.values() if one.address == address} - {opening.call}
        if len(others) >= most:
            self.busy += 1
            raise BusyError(f"busy: {most} calls from this address (link.max_calls_per_client); try again later")
        return _OpenCall(address, opening.call, len(opening.channels))


class _OpenCall(NamedTuple):
    address: str
    call: str
    channels: int


def _address_of(frame: zmq.Frame) -> str:
    """Where a message comes from; "" where there are no addresses (ipc)."""
    try:
        return str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""
