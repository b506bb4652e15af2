"""Events over ZeroMQ: an XPUB socket that publishes; `subscriber` is the other side.

A message has two parts, the topic (UTF-8) and the event (msgpack). Delivery is at most once and in order per
call; who needs every event reads the journal. XPUB and not PUB, because it sees subscriptions arrive: what
is published before the first one is gone. Nothing of ours is needed to read along:

    import msgpack, zmq

    socket = zmq.Context().socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"emo.v1.")
    socket.connect("tcp://127.0.0.1:5561")
    while True:
        topic, data = socket.recv_multipart()
        event = msgpack.unpackb(data)
        print(event["type"], event["seq"], flush=True)
"""

import math
import select
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import zmq
from pydantic import Field, ValidationInfo, field_validator

from bcaf_stream.addresses import is_local, why_not_bound
from bcaf_stream.config import Config
from bcaf_stream.connections import Budget, Refusals
from bcaf_stream.errors import EventError
from bcaf_stream.events.auth import Gate
from bcaf_stream.events.codec import encode
from bcaf_stream.events.connections import connection_of, disconnect, is_gone
from bcaf_stream.events.event import HEARTBEAT, Event, heartbeat, hub_degraded, topic_of
from bcaf_stream.events.journal.rows import Entry
from bcaf_stream.events.subscriptions import Connection, Subscriptions

MAX_SUBSCRIPTION_BYTES = 1024  # what a subscriber may send at once; beyond it its connection ends
UNREAD = 2  # subscriptions of a connection that wait: ZeroMQ reads on while there are any; 1 breaks CURVE
UNREAD_BYTES = 32_768  # of a connection, which the system takes before its sender has to wait
BUDGET = Budget(burst=100_000, per_second=32_000)  # bytes: a thousand subscriptions, and changes of them
READ_AT_ONCE = 200  # subscriptions, in about a millisecond: what is to be published does not wait for more
LOOK_S = 1.0  # how soon connections that are gone are forgotten
_SLICE_S = 0.05  # the longest that a waiting thread overlooks a subscription seen by another thread


def keep_alive(socket: "zmq.Socket[Any]") -> None:
    """Have the system ask whether the other side of a silent connection is still there: within two minutes."""
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 20)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)


class BusConfig(Config):
    """`high_water_mark` events wait for each subscriber (about 1 KB each); beyond that `when_full` decides.

    `drop` loses events for that subscriber alone, who sees the gap in `seq`; `overflows` counts how often that
    began. `block` lets all wait, for at most `block_s`. `linger_s` is how long `close` may still deliver.
    A connection that has more than `max_subscriptions`, or changes more than that in a second, is dropped; with
    more than `max_connections` the one that has said least is.
    With `keys`, the folder of `bcaf-stream keys`, every connection is encrypted and each reader gets what its
    key is allowed.
    """

    insecure: bool = False  # above `bind`, whose check looks at it
    keys: Path | None = None
    bind: str = "tcp://127.0.0.1:5561"
    high_water_mark: int = Field(default=10_000, ge=1)
    when_full: Literal["drop", "block"] = "drop"
    block_s: float = Field(default=5.0, gt=0)
    linger_s: float = Field(default=2.0, ge=0)
    max_subscriptions: int = Field(default=1000, ge=1)
    max_connections: int = Field(default=1000, ge=1)

    @field_validator("bind")
    @classmethod
    def _stays_on_this_machine(cls, bind: str, info: ValidationInfo) -> str:
        if not is_local(bind) and not info.data.get("insecure") and info.data.get("keys") is None:
            keys = "keys: FOLDER (bcaf-stream keys new) says who may read"
            raise ValueError(f"only this machine's addresses, unless {keys}, or insecure: true (--insecure)")
        return bind


class EventPublisher:
    """Publishes events; may be called from any thread, one at a time.

    Args:
        epoch, last_offset: of the journal, for the heartbeats.

    Raises:
        EventError: the address cannot be bound, or the keys cannot be read.
    """

    def __init__(self, config: BusConfig, epoch: int = 0, last_offset: int | None = None) -> None:
        self._config = config
        self._epoch = epoch
        self._lock = threading.RLock()
        self._subscriptions = Subscriptions(config.max_subscriptions)
        self._next_look = 0.0
        self._closed = False
        self._beats = 0
        self._beat_asked = False
        self._last_offset = last_offset
        self._refusals = Refusals("live", BUDGET, config.max_connections)
        self.overflows = 0  # how often a subscriber began to lose events; it alone can tell how many
        self._context: zmq.Context[Any] = zmq.Context()
        self.gate: Gate | None = None
        try:
            self.gate = Gate(config.keys, self._context) if config.keys else None
            self._socket = self._bound(config.bind)
        except BaseException:
            self._free()
            raise
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def publish(self, event: Event) -> None:
        """Send an event to whoever subscribed to its topic.

        Raises:
            EventError: the event is not one, or `when_full` is `block` and there was no room in time.
        """
        name, data = topic_of(event.call, event.channel, event.type), encode(event)
        with self._lock:
            self._read_subscriptions()
            self._send(name, data)
            self._last_offset = event.offset if event.offset is not None else self._last_offset

    def publish_stored(self, entries: Sequence[Entry]) -> None:
        """Send what the journal stored; raises EventError like `publish`."""
        with self._lock:
            self._read_subscriptions()
            for entry in entries:
                self._send(entry.topic, entry.data)
            highest = max((entry.offset for entry in entries), default=0)
            self._last_offset = max(self._last_offset or 0, highest)

    def heartbeat(self, now: int | None = None) -> Event:
        """Publish a sign of life at `now` (unix ns), with the offset of the last event published."""
        with self._lock:
            beat = heartbeat(self._beats, now or time.time_ns(), self._last_offset, self._epoch)
            self._beats += 1
            self._beat_asked = False
            self.publish(beat)
        return beat

    def degraded(self, reason: str) -> None:
        """Tell everybody that events are held back, and why."""
        with self._lock:
            self._beats += 1
            self.publish(hub_degraded(self._beats - 1, time.time_ns(), self._epoch, reason))

    def attend(self) -> bool:
        """Take up subscriptions, answer new ones with a heartbeat, and shut out whose key was revoked.

        Whoever publishes with `keys` calls this often: a subscription counts only from here on. Returns whether
        there may be more to take up.

        Raises:
            EventError: the address cannot be bound again at this moment, or the keys cannot be read.
            LoopError: nobody asks the keys any more.
        """
        with self._lock:
            if self._socket.closed and not self._closed:
                self._socket = self._bound(self.endpoint)
            more = self._read_subscriptions()
            if self._beat_asked:
                self.heartbeat()
            if self.gate is not None and self.gate.refresh():
                self._start_anew()
        return more

    @property
    def trouble(self) -> str | None:
        """Why nobody can connect at the moment; None: they can."""
        return f"{self.endpoint} is to be bound again" if self._socket.closed else None

    @property
    def refused(self) -> int:
        """Messages of subscribers that were no subscription, and connections of keys that are not let in."""
        return self._refusals.count + (self.gate.refused if self.gate else 0)

    @property
    def subscribers(self) -> int:
        """Subscriptions at this moment, not counting those to heartbeats alone; a listener has one."""
        with self._lock:
            self._read_subscriptions()
            self._subscriptions.forget(is_gone)
            return sum(name != HEARTBEAT for name in self._subscriptions.names())

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
            self._closed = True
            self._refusals.unwatch()
            self._socket.close()
            self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bound(self, address: str) -> "zmq.Socket[Any]":
        socket: zmq.Socket[Any] = self._context.socket(zmq.XPUB)
        keep_alive(socket)
        socket.setsockopt(zmq.SNDHWM, self._config.high_water_mark)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        socket.setsockopt(zmq.RCVHWM, UNREAD)
        socket.setsockopt(zmq.RCVBUF, UNREAD_BYTES)
        # Every subscription is seen, not only the first of its topic; with keys each has to be granted.
        socket.setsockopt(zmq.XPUB_MANUAL if self.gate else zmq.XPUB_VERBOSER, 1)
        socket.setsockopt(zmq.XPUB_NODROP, 1)  # a full queue is reported to `_send`, which decides
        socket.setsockopt(zmq.LINGER, math.ceil(self._config.linger_s * 1000))
        if self.gate:
            self.gate.protect(socket)
        try:
            socket.bind(address)
            self._refusals.watch(socket)
        except zmq.ZMQError as error:
            socket.close(0)
            raise EventError(why_not_bound(address, error.errno, str(error.strerror))) from None
        return socket

    def _start_anew(self) -> None:
        """ZeroMQ takes no right back: all connections are dropped, and who is still allowed comes back by itself.

        The system gives the address back a moment later: `attend` binds it again.
        """
        self._refusals.unwatch()
        self._socket.close(0)
        self._subscriptions.forget(lambda _: True)

    def _free(self) -> None:
        if self.gate is not None:
            self.gate.close()
            self.gate = None
        self._context.term()

    def _send(self, name: bytes, data: bytes) -> None:
        # A queue is full before the first part or not at all: the parts of a message travel together.
        try:
            self._socket.send_multipart((name, data), zmq.NOBLOCK)
        except zmq.Again:
            if self._config.when_full == "block":
                self._send_in_time(name, data)
                return
            self.overflows += 1
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)  # those who have room still get it
            self._socket.send_multipart((name, data), zmq.NOBLOCK)
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _send_in_time(self, name: bytes, data: bytes) -> None:
        self._socket.setsockopt(zmq.SNDTIMEO, math.ceil(self._config.block_s * 1000))
        try:
            self._socket.send_multipart([name, data])
        except zmq.Again:
            waited = f"a subscriber took nothing for {self._config.block_s} s"
            raise EventError(f"{self.endpoint}: {waited}: stop it, or set `when_full: drop`") from None

    def _read_subscriptions(self) -> bool:
        """Take up some of what subscribers sent; whether there was any, and so may be more."""
        if self._socket.closed:
            why = "the publisher is closed" if self._closed else "its address is about to be bound again"
            raise EventError(f"{self.endpoint}: {why}")
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            self._subscriptions.forget(is_gone)
        for number in range(READ_AT_ONCE):
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return number > 0
            connection = connection_of(frame)
            if connection is None or self._subscriptions.is_dropped(connection):
                continue
            self._change(connection, frame)
            excess = self._subscriptions.excess(connection, now)
            if excess is not None:
                self._refusals.add("a connection with too many subscriptions, which is dropped")
                disconnect(excess)
        return True

    def _change(self, connection: Connection, frame: zmq.Frame) -> None:
        """Give a subscriber as much of what it asked for as its key is allowed, and take back what it gave up."""
        message = frame.bytes
        name = message[1:]
        match message[:1]:
            case b"\1":
                granted = self.gate.narrowed(str(frame.get("User-Id")), name) if self.gate else ()
                changed, option = self._subscriptions.add(connection, name, granted), zmq.SUBSCRIBE
                self._beat_asked = self._beat_asked or name == HEARTBEAT
            case b"\0":
                changed, option = self._subscriptions.remove(connection, name), zmq.UNSUBSCRIBE
            case _:
                self._refusals.add("what is no subscription")
                return
        for prefix in changed:
            self._socket.setsockopt(option, prefix)
