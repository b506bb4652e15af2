"""Who knocks and is not let in, or sends more than anybody needs to: counted, and told in the log once in a while.

ZeroMQ reads what a connection sends for as long as it sends, within the call of whoever owns the socket, and says
nothing of how much that is. So a thread beside it asks the system, and ends connections beyond their budget.
"""

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from bcaf_stream.events.subscriptions import Connection
from bcaf_stream.loops import LoopThread, start_thread

log = logging.getLogger(__name__)

# Not AUTH: who asks the gate is counted there.
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_WATCHED = _FAILED | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
QUIET_S = 10.0  # whoever knocks all the time does not fill the log
LOOK_S = 0.02
LOOK_EACH_S = 1e-4  # and so much for each connection: a hundredth of a processor
_RECEIVED_AT = 128  # of tcpi_bytes_received in Linux's struct tcp_info


class Budget(NamedTuple):
    """What a connection may send: so many bytes at once, and so many in each second after that."""

    burst: int
    per_second: int


class Refusals:
    """Counts what a socket refused; may be used from several threads."""

    def __init__(self, where: str, budget: Budget | None = None) -> None:
        self.count = 0
        self._where, self._budget = where, budget
        self._next = 0.0
        self._socket: zmq.Socket[Any] | None = None
        self._monitor: zmq.Socket[Any] | None = None
        self._thread: LoopThread | None = None

    def add(self, why: str) -> None:
        """One more; `why` holds nothing of what was sent."""
        self.count += 1
        now = time.monotonic()
        if now >= self._next:
            self._next = now + QUIET_S
            log.warning("%s: refused: %s (%d so far)", self._where, why, self.count)

    def watch(self, socket: "zmq.Socket[Any]") -> None:
        """Count connections to a bound socket that fail (no key, another protocol), and end those that flood."""
        self._socket, self._monitor = socket, socket.get_monitor_socket(_WATCHED)
        self._thread = start_thread(f"connections of {self._where}", self._run)

    def unwatch(self) -> None:
        """Before the socket is closed, and from the thread that owns it."""
        if self._thread is not None:
            self._thread.end()
        if self._socket is not None and self._monitor is not None and not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(0)
        self._socket = self._monitor = self._thread = None

    def _run(self, ending: threading.Event) -> None:
        monitor, port = self._monitor, _port_of(self._socket)
        assert monitor is not None
        with contextlib.ExitStack() as stack:
            watched: dict[int, _Watched] = {}
            stack.callback(_close, watched)
            while not ending.is_set():
                rest_s = LOOK_S + LOOK_EACH_S * len(watched) if watched else 10 * LOOK_S
                if monitor.poll(int(rest_s * 1000)):
                    self._heed(recv_monitor_message(monitor), watched, port)
                now = time.monotonic()
                for connection in watched.values():
                    if connection.is_beyond_budget(now):
                        self.add("a connection that sends too much, which is ended")

    def _heed(self, message: Mapping[str, Any], watched: dict[int, "_Watched"], port: int | None) -> None:
        event, descriptor = message["event"], message["value"]
        if event & _FAILED:
            self.add("a connection without the right key, or of another protocol")
            return
        if descriptor in watched:
            watched.pop(descriptor).close()
        if event == zmq.EVENT_ACCEPTED and self._budget is not None and port is not None:
            with contextlib.suppress(OSError):  # gone already
                connection = _Watched(descriptor, self._budget)
                if connection.port == port:
                    watched[descriptor] = connection
                else:  # it is gone, and the descriptor somebody else's
                    connection.close()


class _Watched:
    """One TCP connection of ZeroMQ's, by a descriptor of our own; raises OSError where there is none."""

    def __init__(self, descriptor: int, budget: Budget) -> None:
        own = os.dup(descriptor)
        try:
            self._socket = socket.socket(fileno=own)
        except OSError:  # a file by now
            os.close(own)
            raise
        self._budget = budget
        self._left = float(budget.burst)
        self._received = 0
        self._looked_at = time.monotonic()

    @property
    def port(self) -> int | None:
        """Its port on this side; None where it is not TCP."""
        name = self._socket.getsockname()
        return int(name[1]) if isinstance(name, tuple) and len(name) > 1 else None

    def is_beyond_budget(self, now: float) -> bool:
        """Look how much was received; end the connection, once, when that is too much."""
        if self._left < 0:
            return False
        received = self._bytes_received()
        earned = (now - self._looked_at) * self._budget.per_second
        self._left = min(self._budget.burst, self._left + earned) - (received - self._received)
        self._received, self._looked_at = received, now
        if self._left < 0:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        return self._left < 0

    def close(self) -> None:
        self._socket.close()

    def _bytes_received(self) -> int:
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + 8)
            return int(struct.unpack_from("=Q", info, _RECEIVED_AT)[0])
        except (AttributeError, OSError, struct.error):  # not Linux; or not TCP, and then on this machine
            return 0


def _close(watched: dict[int, _Watched]) -> None:
    for connection in watched.values():
        connection.close()


def _port_of(socket: "zmq.Socket[Any] | None") -> int | None:
    """The port of a bound TCP socket."""
    assert socket is not None
    kind, _, rest = socket.getsockopt_string(zmq.LAST_ENDPOINT).partition("://")
    return int(rest.rpartition(":")[2]) if kind == "tcp" else None


def connection_of(frame: zmq.Frame) -> Connection | None:
    """Where a message of a subscriber came from; None when that connection is gone."""
    try:
        descriptor = int(frame.get(zmq.SRCFD))
        return Connection(descriptor, os.fstat(descriptor).st_ino)
    except (zmq.ZMQError, OSError):
        return None


def is_gone(connection: Connection) -> bool:
    try:
        return os.fstat(connection.descriptor).st_ino != connection.inode
    except OSError:
        return True


def disconnect(connection: Connection) -> None:
    """End one connection, for which ZeroMQ has no call: its side of the socket sees the end of the stream."""
    with contextlib.suppress(OSError):
        if not is_gone(connection):
            with socket.socket(fileno=os.dup(connection.descriptor)) as same:
                same.shutdown(socket.SHUT_RDWR)
