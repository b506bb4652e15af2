"""EventSubscriber: events that cannot be lost. It notices gaps, fills them by replay, and remembers its place.

One SUB socket for what is live, one DEALER for the replay; `follow` decides, this file moves bytes. It may be
used from one thread, or with AsyncEventSubscriber from one event loop.

    from pathlib import Path
    from bcaf_stream.events.subscriber import EventSubscriber

    place = Path("my-place.json")  # delete it to begin again
    with EventSubscriber(start="start", position=place) as subscriber:
        for event in subscriber:
            if event.emotion is not None:
                print(event.call, event.channel, event.emotion, event.confidence)
            if event.type == "call.end":
                break
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgpack
import zmq

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import decode
from bcaf_stream.events.follow import Delivered, Follower, Start, message, parse_start
from bcaf_stream.events.keys import EVERYTHING, HEARTBEAT, ClientKey, load_client_key
from bcaf_stream.events.messages import Event, topic_of

log = logging.getLogger(__name__)

CREDIT = 5000  # events of a replay that are on their way
PATIENCE_S = 2.0  # a replay that says nothing for so long is asked again
SAVE_S = 0.2
LATE_WARNING_S = 10.0
READY = 2000  # decoded events that wait for the reader; the rest waits in the sockets
_SLICE_S = 0.05
_MAX_BACKOFF_S = 1.0


class _Subscriber:
    """What the two subscribers share.

    Args:
        live, replay: the hub's two addresses.
        topics: prefixes, `emo.v1.CALL.` for one call; default: everything. Of a part of a call, `seq` cannot
            show a loss: what was lost then comes after the next heartbeat, behind later events.
        start: "start", "new", "last", an offset or an ISO time; a position file that exists goes before it.
        position: a file in which the place is kept, so that a restarted program goes on where it was. An event
            counts as done when the next one is asked for, or the `with` block is left without an error.
        key: the file of `bcaf-stream keys new`, for a hub that asks for keys.
        max_age_s: a live event that is older when it is taken counts in `late`, and is warned of in the log.
        high_water_mark: messages that wait here while nobody takes them; what does not fit comes by replay.

    Raises:
        EventError: an address is none, the key or the position file cannot be read, or the journal is another
            one than the position file is about.
    """

    def __init__(
        self,
        live: str = "tcp://127.0.0.1:5561",
        replay: str = "tcp://127.0.0.1:5562",
        topics: Sequence[str] = (EVERYTHING,),
        start: str = "new",
        position: Path | None = None,
        key: Path | None = None,
        max_age_s: float | None = None,
        high_water_mark: int = 10_000,
    ) -> None:
        self._topics, self._replay_endpoint, self._max_age_s = list(topics), replay, max_age_s
        self._key: ClientKey | None = load_client_key(key) if key else None
        self._high_water_mark = high_water_mark
        self._place = _Position(position)
        place = self._place.read()
        self._journal: str | None = place["journal"] if place else None
        begin: Start = {"offset": place["offset"] + 1} if place else parse_start(start)
        self._follower = Follower(topics, begin, place["seen"] if place else None)
        self._ready: deque[Delivered] = deque()
        self._taken: Delivered | None = None
        self.late = 0
        self.broken = 0  # messages that were no event v1, and were skipped
        self._warned = 0.0
        self._request = self._credit = self._counting = 0
        self._heard = self._next_fill = 0.0
        self._backoff = 0.02
        self._context: zmq.Context[Any] = zmq.Context()
        self._dealer: zmq.Socket[Any] | None = None
        try:
            self._live = self._connected(zmq.SUB, live)
            for topic in (*(t.encode() for t in topics), HEARTBEAT):  # the heartbeat last: its answer covers all
                self._live.setsockopt(zmq.SUBSCRIBE, topic)
            self._renew()
        except BaseException:
            self._context.destroy(0)
            raise

    @property
    def gaps(self) -> int:
        """How often something was missing, and was asked for."""
        return self._follower.gaps

    @property
    def duplicates(self) -> int:
        return self._follower.duplicates

    @property
    def offset(self) -> int:
        """Everything up to here was received, and is delivered in its turn."""
        return self._follower.base

    def close(self) -> None:
        self._place.write(force=True)
        self._context.destroy(0)

    def _connected(self, kind: int, endpoint: str) -> "zmq.Socket[Any]":
        socket: zmq.Socket[Any] = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, self._high_water_mark)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if self._key:
            self._key.use(socket)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise EventError(f"{endpoint}: not an address: give tcp://HOST:PORT ({error.strerror})") from None
        return socket

    def _renew(self) -> None:
        """A new replay connection: what was asked on the old one is forgotten on both sides."""
        if self._dealer is not None:
            self._dealer.close()
        self._dealer = self._connected(zmq.DEALER, self._replay_endpoint)

    def _next(self) -> Event | None:
        """The next event that is ready; the one before it is done."""
        self._done()
        if not self._ready:
            self._pump()
            if not self._ready:
                self._place.settle(self._journal, self._follower.base)
                return None
        self._taken = self._ready.popleft()
        self._look_at_age(self._taken)
        return self._taken.event

    def _done(self) -> None:
        if self._taken is not None:
            self._place.advance(self._journal, self._taken)
            self._taken = None

    def _pump(self) -> None:
        """Take what has arrived, ask what has to be asked."""
        assert self._dealer is not None
        with contextlib.suppress(zmq.Again):
            while len(self._ready) < READY:
                self._replied(self._dealer.recv_multipart(zmq.NOBLOCK))
        with contextlib.suppress(zmq.Again):
            while len(self._ready) < READY:
                self._heard_live(self._live.recv_multipart(zmq.NOBLOCK))
        self._ask(time.monotonic())

    def _ask(self, now: float) -> None:
        follower, dealer = self._follower, self._dealer
        assert dealer is not None
        if (follower.filling or follower.wants_count is not None) and now - self._heard > PATIENCE_S:
            follower.interrupted()
            follower.wants_count = None
            self._renew()
        elif follower.wants_fill and now >= self._next_fill:
            self._backoff = min(_MAX_BACKOFF_S, self._backoff * 2) if now - self._next_fill < 5 else 0.02
            self._next_fill = now + self._backoff
            self._send("replay", now, topics=self._topics, credit=CREDIT, **{"from": follower.fill()})
            self._credit = CREDIT

    def _send(self, ask: str, now: float, **fields: object) -> None:
        assert self._dealer is not None
        self._request += 1
        self._heard = now
        with contextlib.suppress(zmq.Again):  # then its silence is noticed
            self._dealer.send(msgpack.packb(message(ask=ask, id=self._request, **fields)), zmq.NOBLOCK)

    def _heard_live(self, frames: Sequence[bytes]) -> None:
        event = self._decoded(frames)
        if event is None:
            return
        if event.type != "heartbeat":
            self._ready.extend(self._follower.live(event))
            return
        counted = self._follower.wants_count
        self._follower.heartbeat(event.offset)
        if counted is None and self._follower.wants_count is not None:
            span = {"after": self._follower.base, "to": self._follower.wants_count}
            self._counting = self._follower.wants_count
            self._send("count", time.monotonic(), topics=self._topics, **span)

    def _replied(self, frames: Sequence[bytes]) -> None:
        header = msgpack.unpackb(frames[0])
        if header["id"] != self._request:
            return  # to a question that was given up
        self._heard = time.monotonic()
        if header["kind"] == "error":
            raise EventError(f"{self._replay_endpoint}: {header['reason']}")
        self._recognise(header["journal"])
        if header["kind"] == "count":
            self._follower.counted(self._counting, header["n"])
            return
        for at in range(1, len(frames) - 1, 2):
            event = self._decoded(frames[at : at + 2])
            self._credit -= 1
            if event is not None:
                self._ready.extend(self._follower.replayed(event))
        if header["kind"] == "end":
            self._ready.extend(self._follower.filled(header["reached"]))
        elif self._credit < CREDIT // 2:
            assert self._dealer is not None
            more = message(ask="credit", id=self._request, n=CREDIT - self._credit)
            self._dealer.send(msgpack.packb(more), zmq.NOBLOCK)
            self._credit = CREDIT

    def _recognise(self, journal: str) -> None:
        if self._journal not in (None, journal):
            way_out = "delete the position file, or start again from `start`"
            raise EventError(f"{self._replay_endpoint}: the hub has another journal than before: {way_out}")
        self._journal = journal

    def _decoded(self, frames: Sequence[bytes]) -> Event | None:
        try:
            event = decode(frames[1]) if len(frames) == 2 else None
        except EventError:
            event = None
        if event is None or topic_of(event.call, event.channel, event.type) != frames[0]:
            self.broken += 1
            return None
        return event

    def _look_at_age(self, taken: Delivered) -> None:
        if self._max_age_s is None or not taken.live:
            return
        age = (time.time_ns() - taken.event.emitted_at) / 1e9
        if age > self._max_age_s:
            self.late += 1
            if time.monotonic() - self._warned > LATE_WARNING_S:
                self._warned = time.monotonic()
                log.warning("this reader is slow: it takes events that are %.1f s old", age)


class EventSubscriber(_Subscriber):
    """Every event once, in order; see `_Subscriber` for the arguments.

    with EventSubscriber(start="start", position=Path("place.json")) as subscriber:
        for event in subscriber:
            ...
    """

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within `timeout_s` (None: wait for ever)."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (event := self._next()) is None:
            left = _SLICE_S if deadline is None else min(_SLICE_S, deadline - time.monotonic())
            if left <= 0:
                return None
            poller = zmq.Poller()
            poller.register(self._live, zmq.POLLIN)
            poller.register(self._dealer, zmq.POLLIN)
            poller.poll(max(1, int(left * 1000)))
        return event

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
            self._done()
        self.close()


class AsyncEventSubscriber(_Subscriber):
    """EventSubscriber for asyncio: `async for event in subscriber`. A cancelled receive loses nothing."""

    async def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within `timeout_s` (None: wait for ever)."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            await asyncio.sleep(0)  # before the event is taken: a cancellation between the two would lose it
            event = self._next()
            if event is not None or (deadline is not None and time.monotonic() >= deadline):
                return event
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
            self._done()
        self.close()

    async def _wait(self, timeout_s: float) -> None:
        """Until something arrives; ZeroMQ may signal less often than that, so never for long."""
        assert self._dealer is not None
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        numbers = [self._live.fileno(), self._dealer.fileno()]
        for number in numbers:
            loop.add_reader(number, arrived.set)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), timeout_s)
        finally:
            for number in numbers:
                loop.remove_reader(number)


class _Position:
    """The place in the journal, in a file that is replaced as a whole."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._journal: str | None = None
        self._offset = -1
        self._seen: dict[str, int] = {}  # delivered beyond the offset
        self._changed = False
        self._written = 0.0

    def read(self) -> dict[str, Any] | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            place = json.loads(self._path.read_text(encoding="utf-8"))
            place = {"journal": str(place["journal"]), "offset": int(place["offset"]), "seen": dict(place["seen"])}
        except (OSError, ValueError, KeyError, TypeError):
            raise EventError(f"{self._path}: not a position file: delete it, or name another") from None
        self._offset, self._seen = place["offset"], dict(place["seen"])
        return place

    def advance(self, journal: str | None, taken: Delivered) -> None:
        """This event is done."""
        if self._path is None:
            return
        self.settle(journal, taken.base)
        offset = taken.event.offset
        if offset is not None and offset > self._offset:
            self._seen[taken.event.id] = offset
            self._changed = True
        self.write()

    def settle(self, journal: str | None, base: int) -> None:
        """Everything up to `base` is done."""
        if self._path is None:
            return
        self._journal = journal
        if base > self._offset:
            self._offset, self._changed = base, True
            self._seen = {id: offset for id, offset in self._seen.items() if offset > base}
        self.write()

    def write(self, force: bool = False) -> None:
        if self._path is None or not self._changed or self._journal is None:
            return
        if not force and time.monotonic() - self._written < SAVE_S:
            return
        draft = self._path.with_name(f".{self._path.name}.part")
        try:
            draft.write_text(json.dumps({"journal": self._journal, "offset": self._offset, "seen": self._seen}))
            draft.replace(self._path)
        except OSError as error:
            raise EventError(f"{self._path}: the position cannot be written: {error.strerror}") from None
        self._changed, self._written = False, time.monotonic()
