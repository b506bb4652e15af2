"""Which TCP connection a message of ZeroMQ came by, whether that is gone, and how it is ended."""

import contextlib
import os
import socket

import zmq

from bcaf_stream.events.subscriptions import Connection


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
