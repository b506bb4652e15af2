"""Listeners of the bus: they notice what they missed, and no more; `subscriber` also gets it back.

Nothing of ours is needed to read along; the map is described in schema/event.v1.json:

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
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self, cast

import zmq
import zmq.asyncio

from bcaf_stream.errors import EventError
from bcaf_stream.events.event import Event, topic_prefix
from bcaf_stream.events.keys import HEARTBEAT, load_client_key
from bcaf_stream.events.reception import Gap, Reception

LISTENER_HIGH_WATER_MARK = 100_000  # events; about 100 MB


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
        key: Path | None = None,
    ) -> None:
        super().__init__(channel, heartbeats, on_gap)
        topics = [topic_prefix(call).encode()] + [HEARTBEAT] * (heartbeats and call is not None)
        self._context = self._make_context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, high_water_mark)
        self._socket.setsockopt(zmq.LINGER, 0)
        for name in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, name)
        try:
            if key is not None:
                load_client_key(key).use(self._socket)
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise EventError(f"{endpoint}: not an address: give tcp://HOST:PORT ({error.strerror})") from None
        except EventError:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class EventListener(_Listener):
    """Receives the events of all calls, of one call, or of one channel with what concerns its whole call.

    `gaps`, `missed` and `broken` count; `on_gap` is called before the event after a gap.

    Args:
        heartbeats: receive these as well.
        high_water_mark: events that wait here while nobody receives; after that the publisher's queue fills.
        key: the file of `bcaf-stream keys new`, for a publisher that asks for keys.

    A publisher may come later, or go and come again: then the subscription is renewed from inside `receive`.

    Raises:
        EventError: `endpoint` is no address.
    """

    _make_context = zmq.Context

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within `timeout_s` (None: wait for ever)."""
        deadline = _deadline(timeout_s)
        while True:
            try:
                event = self.take(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                if not self._socket.poll(_milliseconds(deadline)):
                    return None
                continue
            if event is not None:
                return event
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def events(self, timeout_s: float | None = None) -> Iterator[Event]:
        """Events until none came for `timeout_s` (None: for ever)."""
        while (event := self.receive(timeout_s)) is not None:
            yield event

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def __enter__(self) -> Self:
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _milliseconds(deadline: float | None) -> int | None:
    return None if deadline is None else max(0, math.ceil((deadline - time.monotonic()) * 1000))
