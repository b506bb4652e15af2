"""Who knocks and is not let in, sends more than anybody needs to, or only holds a connection: counted, and told in
the log once in a while.

ZeroMQ takes every connection, reads what it sends for as long as it sends, within the call of whoever owns the
socket, and says nothing of how much that is. So a thread beside it asks the system, ends connections beyond their
budget, and where there are too many the one that has said least.
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

from bcaf_stream.loops import LoopThread, start_thread

log = logging.getLogger(__name__)

# Not AUTH: who asks the gate is counted there.
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_WATCHED = _FAILED | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
QUIET_S = 10.0  # whoever knocks all the time does not fill the log
LOOK_S = 0.02
LOOK_EACH_S = 1e-4  # and so much for each connection: a hundredth of a processor
YOUNG_S = 1.0  # before that a connection has had no time to say anything
GREETING_BYTES = 64  # of ZMTP: whoever has said no more has said nothing
AT_ONCE = 1000  # news of connections between two looks
_RECEIVED_AT = 128  # of tcpi_bytes_received in Linux's struct tcp_info


class Budget(NamedTuple):
    """What a connection may send: so many bytes at once, and so many in each second after that."""

    burst: int
    per_second: int


class Refusals:
    """Counts what a socket refused; may be used from several threads.

    Args:
        budget: what each connection may send.
        most: connections at the same time; with one more, one that has said least is ended.
    """

    def __init__(self, where: str, budget: Budget | None = None, most: int | None = None) -> None:
        self.count = 0
        self._where, self._budget, self._most = where, budget, most
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
        self._socket, address = socket, f"inproc://connections-{id(self)}"
        socket.monitor(address, _WATCHED)
        self._monitor = zmq.Context.shadow(socket.context.underlying).socket(zmq.PAIR)  # plain, also of asyncio's
        self._monitor.connect(address)
        self._thread = start_thread(f"connections of {self._where}", self._run)

    def unwatch(self) -> None:
        """Before the socket is closed, and from the thread that owns it."""
        if self._thread is not None:
            self._thread.end()
        if self._socket is not None and not self._socket.closed:
            self._socket.disable_monitor()
        if self._monitor is not None:
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
                next_look = time.monotonic() + rest_s
                heeded = 0
                while heeded < AT_ONCE and not ending.is_set():
                    left_s = next_look - time.monotonic()
                    if not monitor.poll(max(0, int(left_s * 1000))):
                        break
                    self._heed(recv_monitor_message(monitor), watched, port)
                    heeded += 1
                now = time.monotonic()
                for connection in watched.values():
                    if connection.is_beyond_budget(now):
                        self.add("a connection that sends too much, which is ended")
                self._end_the_quietest(watched, now)

    def _end_the_quietest(self, watched: Mapping[int, "_Watched"], now: float) -> None:
        held = [connection for connection in watched.values() if not connection.ended]
        excess = 0 if self._most is None else len(held) - self._most
        if excess <= 0:
            return

        def said(one: _Watched) -> tuple[bool, bool, int, float]:
            return (one.received > GREETING_BYTES, now - one.since < YOUNG_S, one.received, one.since)

        for connection in sorted(held, key=said)[:excess]:
            connection.end()
            self.add(f"more than {self._most} connections: one that has said least, which is ended")

    def _heed(self, message: Mapping[str, Any], watched: dict[int, "_Watched"], port: int | None) -> None:
        event, descriptor = message["event"], message["value"]
        if event & _FAILED:
            self.add("a connection without the right key, or of another protocol")
            return
        if descriptor in watched:
            watched.pop(descriptor).close()
        watching = self._budget is not None or self._most is not None
        if event == zmq.EVENT_ACCEPTED and watching and port is not None:
            with contextlib.suppress(OSError):  # gone already
                connection = _Watched(descriptor, self._budget)
                if connection.port == port:
                    watched[descriptor] = connection
                else:  # it is gone, and the descriptor somebody else's
                    connection.close()


class _Watched:
    """One TCP connection of ZeroMQ's, by a descriptor of our own; raises OSError where there is none."""

    def __init__(self, descriptor: int, budget: Budget | None) -> None:
        own = os.dup(descriptor)
        try:
            self._socket = socket.socket(fileno=own)
        except OSError:  # a file by now
            os.close(own)
            raise
        self.since = self._looked_at = time.monotonic()
        self.received = 0  # bytes, when it was last looked at
        self.ended = False
        self._budget = budget
        self._left = float(budget.burst) if budget else 0.0

    @property
    def port(self) -> int | None:
        """Its port on this side; None where it is not TCP."""
        name = self._socket.getsockname()
        return int(name[1]) if isinstance(name, tuple) and len(name) > 1 else None

    def is_beyond_budget(self, now: float) -> bool:
        """Look how much was received; end the connection, once, when that is too much."""
        if self.ended:
            return False
        before, self.received = self.received, self._bytes_received()
        if self._budget is None:
            return False
        earned = (now - self._looked_at) * self._budget.per_second
        self._left = min(self._budget.burst, self._left + earned) - (self.received - before)
        self._looked_at = now
        if self._left < 0:
            self.end()
        return self.ended

    def end(self) -> None:
        """The client sees the end of the stream; ZeroMQ then frees what it holds for it."""
        self.ended = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

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
