"""Somebody who floods a ZeroMQ socket with raw ZMTP frames, as fast as TCP takes them, and comes back."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
WAIT_S = 2.0  # a connection that was ended may take nothing and say nothing


def frame(body: bytes, flags: int = 0) -> bytes:
    """One ZMTP frame; flags: 1 more, 4 a command."""
    head = bytes([flags, len(body)]) if len(body) < 256 else bytes([flags | 2]) + struct.pack(">Q", len(body))
    return head + body


def ready(kind: bytes) -> bytes:
    return frame(b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind, flags=4)


def connected(address: str, kind: bytes = b"SUB") -> socket.socket:
    """A TCP connection to a ZeroMQ address after the handshake, as a socket of that kind would make it."""
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=WAIT_S)
    try:
        connection.sendall(GREETING + ready(kind))
        received = b""
        while len(received) < 64 + 10:
            part = connection.recv(1000)
            if not part:
                raise ConnectionError
            received += part
    except BaseException:
        connection.close()
        raise
    return connection


class Flood:
    """Sends blocks of frames until `end`; `block` makes the frames of one block from its number."""

    def __init__(self, address: str, block: Callable[[int], bytes], kind: bytes = b"SUB") -> None:
        self.bytes = self.connections = 0
        self._address, self._block, self._kind = address, block, kind
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._ending.is_set():
            with contextlib.suppress(OSError), connected(self._address, self._kind) as connection:
                self.connections += 1
                while not self._ending.is_set():
                    block = self._block(number)
                    number += 1
                    connection.sendall(block)
                    self.bytes += len(block)
