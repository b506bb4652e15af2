"""Events over ZeroMQ: an XPUB socket that publishes, and listeners that notice what they missed.

A message has two parts, the topic (UTF-8) and the event (msgpack). Delivery is at most once and in order per
call; who needs every event reads the journal. XPUB and not PUB, because it sees subscriptions arrive: what
is published before the first one is gone.
"""

import math
import select
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal, cast

import zmq
import zmq.asyncio
from pydantic import Field, ValidationInfo, field_validator

from bcaf_stream.addresses import is_local, why_not_bound
from bcaf_stream.config import Config
from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import encode
from bcaf_stream.events.messages import Event, heartbeat, topic, topic_prefix
from bcaf_stream.events.reception import Gap, Reception

LISTENER_HIGH_WATER_MARK = 100_000  # events; about 100 MB
HEARTBEAT_TOPIC = topic_prefix("", "") + "heartbeat"
_SLICE_S = 0.05  # the longest that a waiting thread overlooks a subscription seen by another thread


class BusConfig(Config):
    """`high_water_mark` events wait for each subscriber (about 1 KB each); beyond that `when_full` decides.

    `drop` loses events for that subscriber alone, who sees the gap in `seq`; `overflows` counts how often that
    began. `block` lets all wait, for at most `block_s`. `linger_s` is how long `close` may still deliver.
    """

    insecure: bool = False  # above `bind`, whose check looks at it
    bind: str = "tcp://127.0.0.1:5561"
    high_water_mark: int = Field(default=10_000, ge=1)
    when_full: Literal["drop", "block"] = "drop"
    block_s: float = Field(default=5.0, gt=0)
    linger_s: float = Field(default=2.0, ge=0)

    @field_validator("bind")
    @classmethod
    def _stays_on_this_machine(cls, bind: str, info: ValidationInfo) -> str:
        if not info.data.get("insecure") and not is_local(bind):
            raise ValueError("only this machine's addresses, unless insecure: true lets anybody read the events")
        return bind


class EventPublisher:
    """Publishes events; may be called from any thread, one at a time.

    Raises:
        EventError: the address cannot be bound.
    """

    def __init__(self, config: BusConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._subscriptions: dict[bytes, int] = {}
        self._beats = 0
        self._last_offset: int | None = None
        self.overflows = 0  # how often a subscriber began to lose events; it alone can tell how many
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, config.high_water_mark)
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # every subscription, not only the first of its topic
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)  # a full queue is reported to `_send`, which decides
        self._socket.setsockopt(zmq.LINGER, math.ceil(config.linger_s * 1000))
        try:
            self._socket.bind(config.bind)
        except zmq.ZMQError as error:
            self.close()
            raise EventError(why_not_bound(config.bind, error.errno, str(error.strerror))) from None
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def publish(self, event: Event) -> None:
        """Send an event to whoever subscribed to its topic.

        Raises:
            EventError: the event is not one, or `when_full` is `block` and there was no room in time.
        """
        frames = [topic(event).encode(), encode(event)]
        with self._lock:
            self._read_subscriptions()
            self._send(frames)
            self._last_offset = event.offset if event.offset is not None else self._last_offset

    def heartbeat(self, now: int | None = None) -> Event:
        """Publish a sign of life at `now` (unix ns), with the offset of the last event published."""
        beat = heartbeat(self._beats, time.time_ns() if now is None else now, self._last_offset)
        self._beats += 1
        self.publish(beat)
        return beat

    @property
    def subscribers(self) -> int:
        """Subscriptions at this moment, not counting those to heartbeats alone; a listener has one."""
        with self._lock:
            self._read_subscriptions()
            return sum(n for name, n in self._subscriptions.items() if name != HEARTBEAT_TOPIC.encode())

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Whether somebody subscribed within `timeout_s`; other threads may publish meanwhile."""
        deadline = time.monotonic() + timeout_s
        while not self.subscribers:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            select.select([self._socket.fileno()], [], [], min(left, _SLICE_S))
        return True

    def close(self) -> None:
        """Deliver what is queued, for at most `linger_s`, and free the address."""
        with self._lock:
            self._socket.close()
            self._context.term()

    def __enter__(self) -> "EventPublisher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, frames: list[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            if self._config.when_full == "block":
                self._send_in_time(frames)
            else:
                self.overflows += 1
                self._socket.setsockopt(zmq.XPUB_NODROP, 0)  # those who have room still get it
                self._socket.send_multipart(frames, zmq.NOBLOCK)
                self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _send_in_time(self, frames: list[bytes]) -> None:
        self._socket.setsockopt(zmq.SNDTIMEO, math.ceil(self._config.block_s * 1000))
        try:
            self._socket.send_multipart(frames)
        except zmq.Again:
            waited = f"a subscriber took nothing for {self._config.block_s} s"
            raise EventError(f"{self.endpoint}: {waited}: stop it, or set `when_full: drop`") from None

    def _read_subscriptions(self) -> None:
        if self._socket.closed:
            raise EventError(f"{self.endpoint}: the publisher is closed")
        while self._socket.poll(0):
            message = self._socket.recv()
            name, change = message[1:], {1: 1, 0: -1}.get(message[0] if message else -1, 0)
            self._subscriptions[name] = self._subscriptions.get(name, 0) + change
            if self._subscriptions[name] <= 0:
                del self._subscriptions[name]


class _Listener(Reception):
    """What the two listeners share: their socket."""

    _make_context: type[zmq.Context[Any]]

    def __init__(
        self,
        endpoint: str,
        call: str | None = None,
        channel: str | None = None,
        heartbeats: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
        high_water_mark: int = LISTENER_HIGH_WATER_MARK,
    ) -> None:
        super().__init__(channel, heartbeats, on_gap)
        topics = [topic_prefix(call)] + [HEARTBEAT_TOPIC] * (heartbeats and call is not None)
        self._context = self._make_context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, high_water_mark)
        self._socket.setsockopt(zmq.LINGER, 0)
        for name in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, name.encode())
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise EventError(f"{endpoint}: not an address: give tcp://HOST:PORT ({error.strerror})") from None

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class EventListener(_Listener):
    """Receives the events of all calls, of one call, or of one channel with what concerns its whole call.

    `gaps`, `missed` and `broken` count; `on_gap` is called before the event after a gap.

    Args:
        heartbeats: receive these as well.
        high_water_mark: events that wait here while nobody receives; after that the publisher's queue fills.

    A publisher may come later, or go and come again: then the subscription is renewed from inside `receive`.

    Raises:
        EventError: `endpoint` is no address.
    """

    _make_context = zmq.Context

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within `timeout_s` (None: wait for ever)."""
        deadline = _deadline(timeout_s)
        while self._socket.poll(_milliseconds(deadline)):
            event = self.take(self._socket.recv_multipart())
            if event is not None:
                return event
        return None

    def events(self, timeout_s: float | None = None) -> Iterator[Event]:
        """Events until none came for `timeout_s` (None: for ever)."""
        while (event := self.receive(timeout_s)) is not None:
            yield event

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def __enter__(self) -> "EventListener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncEventListener(_Listener):
    """EventListener for asyncio; create it inside the running loop. A cancelled receive loses nothing."""

    _make_context = zmq.asyncio.Context

    async def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within `timeout_s` (None: wait for ever)."""
        deadline = _deadline(timeout_s)
        socket = cast(zmq.asyncio.Socket, self._socket)
        while await socket.poll(_milliseconds(deadline)):
            event = self.take(await socket.recv_multipart(zmq.NOBLOCK))
            if event is not None:
                return event
        return None

    async def events(self, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """Events until none came for `timeout_s` (None: for ever)."""
        while (event := await self.receive(timeout_s)) is not None:
            yield event

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    async def __aenter__(self) -> "AsyncEventListener":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _milliseconds(deadline: float | None) -> int | None:
    return None if deadline is None else max(0, math.ceil((deadline - time.monotonic()) * 1000))
