"""Who knocks and is not let in: counted, and told in the log once in a while, never with what was sent."""

import logging
import time
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

log = logging.getLogger(__name__)

# Not AUTH: who asks the gate is counted there.
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
QUIET_S = 10.0  # whoever knocks all the time does not fill the log


class Refusals:
    """Counts what a socket refused; may be used from several threads."""

    def __init__(self, where: str) -> None:
        self.count = 0
        self._where = where
        self._next = 0.0
        self._socket: zmq.Socket[Any] | None = None
        self._monitor: zmq.Socket[Any] | None = None

    def add(self, why: str) -> None:
        """One more; `why` holds nothing of what was sent."""
        self.count += 1
        now = time.monotonic()
        if now >= self._next:
            self._next = now + QUIET_S
            log.warning("%s: refused: %s (%d so far)", self._where, why, self.count)

    def watch(self, socket: "zmq.Socket[Any]") -> None:
        """Have ZeroMQ tell of connections to a socket that failed: no key, a wrong one, another protocol."""
        self._socket, self._monitor = socket, socket.get_monitor_socket(_FAILED)

    def look(self) -> None:
        """Count what ZeroMQ told since the last look; from the thread that owns the socket."""
        while self._monitor is not None and self._monitor.poll(0):
            recv_monitor_message(self._monitor)
            self.add("a connection without the right key, or of another protocol")

    def unwatch(self) -> None:
        """Before the socket is closed."""
        if self._socket is not None and self._monitor is not None and not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(0)
        self._socket = self._monitor = None
