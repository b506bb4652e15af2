"""The ROUTER socket of the replays: its limits, and answers that wait for clients without room."""

import time
from collections.abc import Sequence
from typing import Any

import msgpack
import zmq

from bcaf_stream.addresses import why_not_bound
from bcaf_stream.connections import Budget, Refusals
from bcaf_stream.errors import EventError
from bcaf_stream.events.auth import Gate
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.journal.rows import Entry
from bcaf_stream.events.publisher import keep_alive
from bcaf_stream.events.replay.owed import OwedAnswers, Sent
from bcaf_stream.events.replay.running import Key

MAX_FRAME_BYTES = 1_000_000  # beyond it the connection ends before anything is answered
WAITING_REQUESTS = 16  # of one connection; then it is read no further until they are answered
BUDGET = Budget(burst=4_000_000, per_second=1_500_000)  # bytes: the largest requests as often as they are allowed
OWED_REST_S = 0.01


class ReplaySocket:
    """Used from one thread; `refusals` counts whom and what it turned away.

    Args:
        high_water_mark: messages that wait for a client that does not read.
        journal: answers say which one it is.

    Raises:
        EventError: the address cannot be bound.
    """

    def __init__(
        self,
        context: "zmq.Context[Any]",
        bind: str,
        gate: Gate | None,
        journal: Journal,
        high_water_mark: int,
        max_connections: int,
    ) -> None:
        self.refusals = Refusals("replay", BUDGET, max_connections)
        self._journal = journal
        self._owed = OwedAnswers()
        self._socket: zmq.Socket[Any] = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket.setsockopt(zmq.RCVHWM, WAITING_REQUESTS)
        self._socket.setsockopt(zmq.SNDHWM, high_water_mark)
        self._socket.setsockopt(zmq.LINGER, 0)
        keep_alive(self._socket)
        if gate:
            gate.protect(self._socket)
        try:
            self._socket.bind(bind)
            self.refusals.watch(self._socket)
        except zmq.ZMQError as error:
            self._socket.close()
            raise EventError(why_not_bound(bind, error.errno, str(error.strerror))) from None
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def missed(self) -> int:
        """Short answers that their clients never took."""
        return self._owed.missed

    def close(self) -> None:
        self.refusals.unwatch()
        self._socket.close()

    def wait(self, seconds: float) -> bool:
        """Give what clients are owed, and wait for a request; whether there is one."""
        if len(self._owed):
            seconds = min(seconds, OWED_REST_S)
            self._owed.give(self._send_frames, time.monotonic())
        return bool(self._socket.poll(0 if seconds <= 0 else max(1, min(50, int(seconds * 1000)))))

    def receive(self) -> tuple[bytes, list[zmq.Frame]]:
        """The client, and the frames of its request."""
        client, *frames = self._socket.recv_multipart(copy=False)
        return client.bytes, frames

    def tell(self, key: Key, kind: str, **fields: object) -> None:
        """Give an answer without events; it waits where the client has no room."""
        frames = self._frames(key, kind, (), fields)
        if key[0] in self._owed or self._send_frames(frames) == "full":
            self._owed.add(key[0], frames, time.monotonic())

    def send(self, key: Key, kind: str, entries: Sequence[Entry] = (), **fields: object) -> Sent:
        """Give a part of a replay, behind whatever waits for its client."""
        return "full" if key[0] in self._owed else self._send_frames(self._frames(key, kind, entries, fields))

    def _frames(self, key: Key, kind: str, entries: Sequence[Entry], fields: dict[str, object]) -> list[bytes]:
        client, id = key
        journal = {"journal": self._journal.identity, "epoch": self._journal.epoch}
        frames = [client, msgpack.packb({"v": 1, "id": id, "kind": kind, **journal, **fields})]
        for entry in entries:
            frames += (entry.topic, entry.data)
        return frames

    def _send_frames(self, frames: list[bytes]) -> Sent:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return "full"
        except zmq.ZMQError:
            return "gone"
        return "sent"
