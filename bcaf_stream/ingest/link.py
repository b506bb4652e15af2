"""The sockets of the audio link: LinkServer (ROUTER, asyncio) and LinkSender (DEALER, synchronous).

The bytes are link_protocol's. Flow control is by credit: a sender that is ahead waits, and is never cut.
Nothing ever waits for ever: a peer that is gone is noticed by ZeroMQ's own heartbeats, one that is stuck by
the time since its last message.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import zmq
import zmq.asyncio
from pydantic import Field, ValidationInfo, field_validator

from bcaf_stream.addresses import is_local, why_not_bound
from bcaf_stream.config import Config
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.link_flow import AudioCutter, SenderState, words_messages
from bcaf_stream.ingest.link_protocol import Accepted as Accepted  # all messages may be had from here
from bcaf_stream.ingest.link_protocol import (
    Audio,
    ClientMessage,
    Close,
    Closed,
    Open,
    Refused,
    ServerMessage,
    pack,
    parse_client,
    parse_server,
)
from bcaf_stream.ingest.link_protocol import Credit as Credit
from bcaf_stream.ingest.link_protocol import WordsMessage as WordsMessage
from bcaf_stream.types import Call, PcmN, TextSource, Words


class LinkConfig(Config):
    """`window_ms` is how far a sender may be ahead of the analysis.

    A message beyond `max_message_bytes` ends its connection; `waiting_messages` may wait for each client, then
    it is read no further until there is room. `linger_s` is how long `close` may still deliver answers.
    """

    insecure: bool = False  # above `bind`, whose check looks at it
    bind: str = "tcp://127.0.0.1:5560"
    window_ms: int = Field(default=10_000, ge=200)
    max_message_bytes: int = Field(default=1_048_576, ge=131_072)
    waiting_messages: int = Field(default=200, ge=1)
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

    Raises:
        LinkError: the address cannot be bound.
    """

    def __init__(self, config: LinkConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self._config = config
        self._clock = clock
        self._channels: dict[bytes, int] = {}  # of the open call of each client
        self.refused = 0  # messages that were malformed or out of place
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a client that is gone is reported, not ignored
        self._socket.setsockopt(zmq.RCVHWM, config.waiting_messages)
        self._socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes)
        self._socket.setsockopt(zmq.LINGER, math.ceil(config.linger_s * 1000))
        _set_heartbeat(self._socket, config.heartbeat_s)
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
                await self.send(client, Refused(str(error)))

    async def send(self, client: bytes, message: ServerMessage) -> bool:
        """Send an answer; False when the client is gone."""
        if isinstance(message, Closed | Refused):
            self._channels.pop(client, None)
        try:
            await self._socket.send_multipart([client, pack(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
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


class SenderConfig(Config):
    """How long to wait: `connect_s` for the server's first answer, `stall_s` for each later one."""

    connect_s: float = Field(default=5.0, gt=0)
    stall_s: float = Field(default=120.0, gt=0)
    heartbeat_s: float = Field(default=2.0, gt=0)


class LinkSender:
    """Sends one call; opens it when created. Leaving its `with` block without `close` abandons the call.

    Args:
        text: where the words come from: the server's "asr", "given" through `send_words`, or "none".

    Raises:
        LinkError: the server cannot be reached, or refuses the call.
    """

    def __init__(
        self, endpoint: str, call: Call, rate: int, text: TextSource = "asr", config: SenderConfig | None = None
    ) -> None:
        self._endpoint = endpoint
        self._config = config or SenderConfig()
        self._state = SenderState(rate)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # the credit is the limit
        _set_heartbeat(self._socket, self._config.heartbeat_s)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            window_ms = self._open(Open(call.id, call.channels, rate, text))
        except BaseException:
            self.abort()
            raise
        self._cutter = AudioCutter(rate, len(call.channels), window_ms)

    def send(self, samples_NC: PcmN) -> None:
        """Send the next audio; waits while the server is too far behind.

        Args:
            samples_NC: int16, N samples of the call's C channels.

        Raises:
            LinkError: the server refused, is gone or is stuck; or the samples do not fit the call.
        """
        for audio in self._cutter.push(samples_NC):
            self._read(partial(self._state.may_send, audio))
            self._socket.send(pack(audio))

    def send_words(self, words: Sequence[Words], last: bool = False) -> None:
        """Send given words; best before the audio that they were said in. After the `last` ones nothing waits.

        Raises:
            LinkError: as for `send`.
        """
        for message in words_messages(words, last):
            self._read(lambda: True)
            self._socket.send(pack(message))

    def close(self) -> Closed:
        """Say that the call is complete, wait until all of it was analysed, and return the server's summary.

        Raises:
            LinkError: as for `send`.
        """
        if self._state.closed is None:
            self._read(lambda: True)
            self._state.closing = True
            self._socket.send(pack(Close()))
            try:
                self._read(lambda: self._state.closed is not None)
            finally:
                self.abort()
        assert self._state.closed is not None
        return self._state.closed

    def abort(self) -> None:
        """Leave without a word; the server finds out by itself."""
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close()
            self._socket.close()
            self._context.term()

    def __enter__(self) -> "LinkSender":
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _open(self, opening: Open) -> int:
        try:
            self._socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            raise LinkError(f"{self._endpoint}: not an address: give tcp://HOST:PORT ({error.strerror})") from None
        self._socket.send(pack(opening))
        self._read(lambda: self._state.accepted is not None)
        assert self._state.accepted is not None
        return self._state.accepted.window_ms

    def _read(self, done: Callable[[], bool]) -> None:
        """Take what the server sent, and wait for more until `done`."""
        if self._socket.closed:
            raise LinkError(f"{self._endpoint}: this call is over; open another")
        opening = self._state.accepted is None
        patience_s = self._config.connect_s if opening else self._config.stall_s
        deadline = time.monotonic() + patience_s
        while True:
            lost = self._was_disconnected()  # looked at first: what was sent before the loss is still here
            while self._socket.poll(0):
                self._take(self._socket.recv())
                deadline = time.monotonic() + patience_s
            finished = done()
            if lost and self._state.closed is None and (finished or not opening):
                raise LinkError(f"{self._endpoint}: connection lost: did `bcaf-serve` stop? send the call again")
            if finished:
                return
            if not self._poller.poll(max(0, math.ceil((deadline - time.monotonic()) * 1000))):
                raise LinkError(f"{self._endpoint}: no answer for {patience_s} s: is `bcaf-serve up` running?")

    def _take(self, data: bytes) -> None:
        try:
            self._state.take(parse_server(data))
        except LinkError as error:
            raise LinkError(f"{self._endpoint}: {error}") from None

    def _was_disconnected(self) -> bool:
        lost = False
        while self._monitor.poll(0):
            self._monitor.recv_multipart()
            lost = True
        return lost


def _set_heartbeat(socket: zmq.Socket[Any], seconds: float) -> None:
    socket.setsockopt(zmq.HEARTBEAT_IVL, math.ceil(seconds * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, math.ceil(seconds * 3000))
