"""EventSubscriber and its twin for asyncio: every event once, in order; without replay, whatever came in time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Self

import zmq

from bcaf_stream.events.event import Event
from bcaf_stream.events.subscriber.subscription import Subscription

_SLICE_S = 0.05


class EventSubscriber(Subscription):
    """To be used from one thread; see `Subscription` for the arguments."""

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within `timeout_s` (None: wait for ever)."""
        return next(iter(self.receive_many(1, timeout_s)), None)

    def receive_many(self, limit: int, timeout_s: float | None = None) -> list[Event]:
        """The next events, up to `limit`, as soon as there is one; [] when none came within `timeout_s`.

        All of them count as done when more are asked for.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not (events := self._take(limit)):
            left = _SLICE_S if deadline is None else min(_SLICE_S, deadline - time.monotonic())
            if left <= 0:
                break
            poller = zmq.Poller()
            for socket in self._sockets:
                poller.register(socket, zmq.POLLIN)
            poller.poll(max(1, int(left * 1000)))
        return events

    def events(self, timeout_s: float | None = None) -> Iterator[Event]:
        """Events until none came for `timeout_s` (None: for ever)."""
        while (event := self.receive(timeout_s)) is not None:
            yield event

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind in (None, KeyboardInterrupt):
            self.done()
        self.close()


class AsyncEventSubscriber(Subscription):
    """EventSubscriber for asyncio: `async for event in subscriber`. A cancelled receive loses nothing."""

    async def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within `timeout_s` (None: wait for ever)."""
        return next(iter(await self.receive_many(1, timeout_s)), None)

    async def receive_many(self, limit: int, timeout_s: float | None = None) -> list[Event]:
        """As EventSubscriber's."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            await asyncio.sleep(0)  # before events are taken: a cancellation between the two would lose them
            events = self._take(limit)
            if events or (deadline is not None and time.monotonic() >= deadline):
                return events
            left = _SLICE_S if deadline is None else min(_SLICE_S, deadline - time.monotonic())
            await self._wait(max(0.0, left))

    async def events(self, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """Events until none came for `timeout_s` (None: for ever)."""
        while (event := await self.receive(timeout_s)) is not None:
            yield event

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.done()
        self.close()

    async def _wait(self, timeout_s: float) -> None:
        """Until something arrives; ZeroMQ may signal less often than that, so never for long."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        numbers = [socket.fileno() for socket in self._sockets]
        for number in numbers:
            loop.add_reader(number, arrived.set)
        try:
            # Not wait_for: in Python 3.11 it may swallow the cancellation of its caller.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await arrived.wait()
        finally:
            for number in numbers:
                loop.remove_reader(number)
