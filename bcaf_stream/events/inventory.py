"""What the hub's journal holds, asked without reading it: for those who keep a copy of what they were sent.

A copy must forget what the journal has forgotten (`erase`, retention), and no event says so: the counts do.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgpack
import zmq
from zmq.utils.monitor import recv_monitor_message

from bcaf_stream.errors import EventError
from bcaf_stream.events.auth import load_client_key
from bcaf_stream.events.codec import LIMITS
from bcaf_stream.events.event import EVERYTHING

ANSWER_S = 5.0
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_SEEN = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CONNECT_RETRIED | _REFUSED
_NOBODY = "nobody listens there: is the deployment up?"


class Extent(NamedTuple):
    """Which journal it is, and the last offset that it gave."""

    journal: str
    last: int


class Inventory:
    """Asks one hub's replay socket; for one thread.

    Raises:
        EventError: from the constructor, where the address or the key is none; from the questions, where no answer
            came, with the reason as far as it can be known, or where the hub refuses to answer.
    """

    def __init__(self, replay: str, key: Path | None = None, patience_s: float = ANSWER_S) -> None:
        self._endpoint, self._patience_s = replay, patience_s
        self._key = load_client_key(key) if key else None
        self._context: zmq.Context[Any] = zmq.Context()
        self._request = 0
        self._trouble: str | None = None
        self._reached = False  # a connection stood, whatever became of it
        self._socket: zmq.Socket[Any] | None = None
        self._events: zmq.Socket[Any]  # what the connection goes through
        try:
            self._connect()
        except BaseException:
            self._context.destroy(0)
            raise

    def extent(self) -> Extent:
        answer = self._ask("replay", topics=[EVERYTHING], credit=0, **{"from": "new"})
        return Extent(answer["journal"], answer["reached"])

    def count(self, topics: Sequence[str], to: int, after: int = 0) -> int:
        """How many events of topics with these beginnings lie after one offset, up to another."""
        return int(self._ask("count", topics=list(topics), after=after, to=to)["n"])

    def close(self) -> None:
        self._context.destroy(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
            self._events.close()
            self._socket.close()
        self._trouble, self._reached = None, False
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if self._key:
            self._key.use(self._socket)
        self._events = self._socket.get_monitor_socket(_SEEN)
        try:
            self._socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            raise EventError(
                f"{self._endpoint}: not an address: give tcp://HOST:PORT ({error.strerror})"
            ) from None

    def _ask(self, ask: str, **fields: object) -> dict[str, Any]:
        assert self._socket is not None
        deadline = time.monotonic() + self._patience_s
        self._request += 1
        with suppress(zmq.Again):  # a connection that was refused is gone, and there is nobody to send to
            self._socket.send(msgpack.packb(dict(v=1, ask=ask, id=self._request, **fields)), zmq.NOBLOCK)
        while (left := deadline - time.monotonic()) > 0:
            self._look()
            if not self._socket.poll(int(min(left, 0.2) * 1000) + 1):
                continue
            answer = msgpack.unpackb(self._socket.recv_multipart()[0], **LIMITS)
            if answer.get("id") != self._request:
                continue
            if answer["kind"] in ("error", "busy"):
                raise EventError(f"{self._endpoint}: {answer.get('reason', 'the hub is busy')}")
            return dict(answer)
        self._look()
        why = self._trouble or "the hub does not answer"
        self._connect()  # what was asked on the old connection is forgotten on both sides
        raise EventError(f"{self._endpoint}: {why}")

    def _look(self) -> None:
        """What the connection has been through since the last look."""
        while self._events.poll(0):
            event = recv_monitor_message(self._events)["event"]
            if event & _REFUSED:
                keyed = "this key is not let in: bcaf-stream keys allow NAME --topics ... where the hub runs"
                self._trouble = keyed if self._key else "the hub asks for a key: give --key FILE"
            elif event == zmq.EVENT_CONNECT_RETRIED:
                # A hub that refuses may close before its greeting was read: somebody listens there all the same.
                self._trouble = self._trouble or (None if self._reached else _NOBODY)
                self._reached = False
            elif event == zmq.EVENT_CONNECTED:
                self._reached = True
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._trouble = None
