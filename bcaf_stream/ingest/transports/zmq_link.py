"""The server of our own audio link: a ROUTER socket of ZeroMQ, and senders with credit.

The bytes are those of protocols/link.py; the senders' socket is in bcaf_stream.client.link. A sender that is ahead
waits for credit, and is never cut. One that is gone is noticed when its next credit is sent.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import zmq
import zmq.asyncio
from pydantic import Field, ValidationInfo, field_validator

from bcaf_stream.addresses import is_local, why_not_bound
from bcaf_stream.config import Config
from bcaf_stream.connections import Refusals
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallStart, TextUpdate
from bcaf_stream.ingest.protocols.link import (
    Accepted,
    Audio,
    ClientMessage,
    Close,
    Closed,
    Credit,
    Open,
    Refused,
    ServerMessage,
    pack,
    parse_client,
)
from bcaf_stream.ingest.protocols.link_flow import AudioOrder
from bcaf_stream.ingest.sink import CallHandle, CallSink
from bcaf_stream.loops import faults, spawn_task, start_task
from bcaf_stream.types import AudioChunk

ALIVE_S = 2.0  # between two signs of life to a sender; the sending finds out whether it is still there
HANDSHAKE_MS = 5_000  # how long a connection may take to say that it speaks ZeroMQ


class LinkConfig(Config):
    """`window_ms` is how far a sender may be ahead of the analysis.

    A message beyond `max_message_bytes` ends its connection; `waiting_messages` may wait for each client, then
    it is read no further until there is room. `linger_s` is how long `close` may still deliver answers. One
    address may have `max_calls_per_client` calls at the same time. With more than `max_connections` the one that
    has said least is ended.
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


@dataclass(eq=False)
class _Sender:
    """A client with an open call."""

    opening: Open
    order: AudioOrder = field(default_factory=AudioOrder)
    credit_ms: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def may_send(self, ms: int) -> None:
        self.credit_ms = ms
        self.news.set()


class LinkServer:
    """The `IngestServer` of `LinkSender`s.

    Raises:
        LinkError: the address cannot be bound.
    """

    name = "link"

    def __init__(self, config: LinkConfig) -> None:
        self._config = config
        self._socket = LinkSocket(config, on_refused=self._forget)
        self.endpoint = self._socket.endpoint
        self._opening: dict[bytes, _Sender] = {}  # their calls are not begun yet
        self._senders: dict[bytes, tuple[_Sender, CallHandle]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused = 0

    @property
    def refused(self) -> int:
        return self._refused + self._socket.refused

    def counters(self) -> dict[str, int]:
        return {"refused": self.refused, "busy": self._socket.busy}

    async def start(self, sink: CallSink) -> None:
        self._sink = sink
        self._serving = start_task("link", self._serve())

    async def close(self) -> None:
        """Hang up, after the senders whose calls have ended were told so."""
        self._serving.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.linger_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._serving, *self._tasks, return_exceptions=True)
        self._socket.close()

    async def _serve(self) -> None:
        while True:
            client, message = await self._socket.receive()
            if isinstance(message, Open):  # beside the others, who need not wait for the journal
                sender = self._opening[client] = _Sender(message)
                task = spawn_task("call of the link", self._open(client, sender))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                continue
            known = self._senders.get(client)
            try:
                if isinstance(message, TextUpdate) and message.call is not None:
                    await self._sink.words(message.call, message)
                elif known is None:
                    raise LinkError("the call is over here")
                else:
                    self._take(*known, message)
            except Exception as error:  # of this message alone: the endpoint serves all the others
                if not isinstance(error, LinkError):
                    faults.count("message of the link", error)
                reason = str(error) if isinstance(error, LinkError) else "the server failed at this message"
                elsewhere = isinstance(message, TextUpdate) and message.call is not None
                if known is None:
                    await self._refuse(client, reason)
                elif elsewhere:  # a refusal would be of its own call
                    self._refused += 1
                else:  # what was heard before is kept, and the call is over
                    self._refused += 1
                    known[1].end(reason)

    async def _open(self, client: bytes, sender: _Sender) -> None:
        opening = sender.opening
        begin = CallStart(
            opening.call,
            opening.channels,
            opening.rate,
            opening.text,
            sender=opening.sender,
            resume=opening.resume,
            source=opening.source,
        )
        await self._notice_loss(opening.call)
        try:
            call = await self._sink.open(begin, sender.may_send)
        except Exception as error:
            known = isinstance(error, LinkError)
            if self._opening.get(client) is sender:
                await self._refuse(client, str(error) if known else "the server failed to open the call")
            if not known:
                raise
            return
        if self._opening.get(client) is not sender:  # it was refused meanwhile, and may have opened another call
            call.end("its sender broke the protocol")
            return
        del self._opening[client]
        if call.outcome is not None:  # the sender came back too late
            await self._socket.send(client, Closed(call.outcome.utterances, call.outcome.reason))
            return
        sender.order.received = call.start
        sender.credit_ms = call.start * 1000 // opening.rate
        self._senders[client] = sender, call
        start = None if begin.earliest is None else call.start
        await self._socket.send(client, Accepted(call.id, self._config.window_ms, start))
        await self._follow(client, sender, call)

    async def _notice_loss(self, call: str) -> None:
        """Ask whether the call's sender is there, before another one wants its call: it may have died just now."""
        for client, (sender, known) in list(self._senders.items()):
            if known.id == call and not await self._socket.send(client, self._credit(sender, known)):
                known.lost()

    def _credit(self, sender: _Sender, call: CallHandle) -> Credit:
        return Credit(sender.credit_ms + self._config.window_ms, call.settled_ms)

    def _forget(self, client: bytes, reason: str) -> None:
        """The client was refused: what it opened is over, and its connection may open another call."""
        self._opening.pop(client, None)
        if client in self._senders:
            sender, call = self._senders.pop(client)
            call.end(reason)
            sender.news.set()

    async def _refuse(self, client: bytes, reason: str) -> None:
        self._refused += 1
        self._forget(client, reason)
        await self._socket.send(client, Refused(reason))

    def _take(self, sender: _Sender, call: CallHandle, message: ClientMessage) -> None:
        match message:
            case Audio():
                self._audio(sender, call, message)
            case TextUpdate():
                call.accept(message)
            case Close():
                call.end()

    def _audio(self, sender: _Sender, call: CallHandle, audio: Audio) -> None:
        if not sender.order.accept(audio):
            return  # sent twice
        rate = sender.opening.rate
        for missing in audio.missing:
            call.accept(replace(missing, rate=rate))
        if sender.order.received * 1000 > (sender.credit_ms + 2 * self._config.window_ms) * rate:
            raise LinkError("audio was sent beyond the credit given")
        for column, channel in enumerate(sender.opening.channels):
            samples_N = np.ascontiguousarray(audio.samples_NC[:, column])
            call.accept(AudioChunk(channel.name, audio.start, rate, samples_N, audio.received_at))

    async def _follow(self, client: bytes, sender: _Sender, call: CallHandle) -> None:
        """Give a sender its credit until its call ends, and tell it how."""
        over = spawn_task("end of a call of the link", call.ended())
        over.add_done_callback(lambda _: sender.news.set())
        try:
            while not over.done():
                with suppress(TimeoutError):
                    async with asyncio.timeout(ALIVE_S):
                        await sender.news.wait()
                sender.news.clear()
                if over.done() or not self._is_of(client, sender):
                    continue
                if not await self._socket.send(client, self._credit(sender, call)):
                    call.lost()
                    return
            ended = over.result()
            if not self._is_of(client, sender):  # it was refused, and knows
                return
            done = ended.reason == "complete"
            answer = Closed(ended.utterances, ended.reason) if done else Refused(ended.reason)
            await self._socket.send(client, answer)
        finally:
            if self._is_of(client, sender):
                del self._senders[client]
            over.cancel()
            await asyncio.gather(over, return_exceptions=True)

    def _is_of(self, client: bytes, sender: _Sender) -> bool:
        """Whether the call of this sender is the client's."""
        return client in self._senders and self._senders[client][0] is sender
