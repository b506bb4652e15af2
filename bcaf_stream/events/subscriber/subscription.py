"""The sockets of a subscriber, and what was taken from them in the order of its delivery."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import zmq

from bcaf_stream.errors import EventError
from bcaf_stream.events.auth import ClientKey, load_client_key
from bcaf_stream.events.codec import decode
from bcaf_stream.events.event import EVERYTHING, HEARTBEAT, Event, topic_of
from bcaf_stream.events.subscriber.follow import (
    Delivered,
    EventGap,
    Follower,
    LiveFollower,
    Start,
    parse_start,
    whole_calls,
)
from bcaf_stream.events.subscriber.position import Position
from bcaf_stream.events.subscriber.replay_client import ReplayClient

log = logging.getLogger(__name__)

LATE_WARNING_S = 10.0
MAX_FRAME_BYTES = 16_000_000  # of one event
MAX_TOPIC_BYTES = 1000  # of a subscription: the hub takes no longer ones; the rest is chosen here
READY = 2000  # decoded events that wait for the reader; the rest waits in the sockets


class Subscription:
    """What the two subscribers share.

    Args:
        live: the hub's address for what is published now.
        replay: its address for what is in the journal. None: live alone; what was missed then counts in `gaps` and
            `missed`, and `on_gap` is called before the event after a gap.
        topics: prefixes, `emo.v1.CALL.` for one call; default: everything. Of a part of a call `seq` cannot
            show a loss: so the whole call is received, and the part is chosen here. Only with a key, which may
            be for that part alone, what was lost comes after the next heartbeat, behind later events.
        start: "start", "new", "last", an offset or an ISO time; a position file that exists goes before it.
        position: a file in which the place is kept, so that a restarted program goes on where it was. An event
            counts as done when the next one is asked for, or the `with` block is left without an error.
        key: the file of `bcaf-stream keys new`, for a hub that asks for keys.
        max_age_s: a live event that is older when it is taken counts in `late`, and is warned of in the log.
        high_water_mark: messages that wait here while nobody takes them; what does not fit comes by replay.
        heartbeats: receive these as well.

    A hub may come later, or go and come again: then the subscription is renewed from inside a receive.

    Raises:
        EventError: an address is none, the key or the position file cannot be read, or the journal is another
            one than the position file is about.
    """

    def __init__(
        self,
        live: str = "tcp://127.0.0.1:5561",
        replay: str | None = "tcp://127.0.0.1:5562",
        topics: Sequence[str] = (EVERYTHING,),
        start: str = "new",
        position: Path | None = None,
        key: Path | None = None,
        max_age_s: float | None = None,
        high_water_mark: int = 10_000,
        heartbeats: bool = False,
        on_gap: Callable[[EventGap], None] | None = None,
    ) -> None:
        self._wanted = tuple(topic.encode() for topic in topics)
        self._topics = list(dict.fromkeys(topics if key else map(whole_calls, topics)))
        self._takes_all = self._topics == list(topics) and all(len(t) <= MAX_TOPIC_BYTES for t in self._wanted)
        self._max_age_s = max_age_s
        self._key: ClientKey | None = load_client_key(key) if key else None
        self._high_water_mark, self._heartbeats = high_water_mark, heartbeats
        self._place = Position(position)
        place = self._place.read()
        begin: Start = {"offset": place["offset"] + 1} if place else parse_start(start)
        self._ready: deque[Delivered] = deque()
        self._taken: list[Delivered] = []
        self.late = 0
        self._broken = 0
        self._warned = 0.0
        self._context: zmq.Context[Any] = zmq.Context()
        self._follower: LiveFollower | Follower = LiveFollower(on_gap)
        self._replay: ReplayClient | None = None
        try:
            self._live = self._connected(zmq.SUB, live)
            for topic in self._topics:
                self._live.setsockopt(zmq.SUBSCRIBE, topic.encode()[:MAX_TOPIC_BYTES])
            if replay is not None or heartbeats:
                self._live.setsockopt(zmq.SUBSCRIBE, HEARTBEAT)  # the last one: its answer covers all
            if replay is not None:
                self._follower = Follower(self._topics, begin, place["seen"] if place else None)
                journal = place["journal"] if place else None
                self._replay = ReplayClient(
                    lambda: self._connected(zmq.DEALER, replay), replay, self._topics, self._follower, journal
                )
        except BaseException:
            self._context.destroy(0)
            raise

    @property
    def gaps(self) -> int:
        """How often something was missing; with replay it was asked for."""
        return self._follower.gaps

    @property
    def missed(self) -> int:
        """How many events were not received; with replay none."""
        return self._follower.missed if isinstance(self._follower, LiveFollower) else 0

    @property
    def duplicates(self) -> int:
        return self._follower.duplicates if isinstance(self._follower, Follower) else 0

    @property
    def offset(self) -> int:
        """Everything up to here was received, and is delivered in its turn; with replay."""
        return self._follower.base if isinstance(self._follower, Follower) else 0

    @property
    def broken(self) -> int:
        """Messages that were no event v1, and were skipped."""
        return self._broken + (self._replay.broken if self._replay else 0)

    def close(self) -> None:
        self._place.write(force=True)
        self._context.destroy(0)

    def done(self) -> None:
        """What was taken so far is done, before more is asked for."""
        if self._replay:
            for taken in self._taken:
                self._place.advance(self._replay.journal, taken)
        self._taken.clear()

    @property
    def _sockets(self) -> list["zmq.Socket[Any]"]:
        return [self._live, self._replay.socket] if self._replay else [self._live]

    def _connected(self, kind: int, endpoint: str) -> "zmq.Socket[Any]":
        socket: zmq.Socket[Any] = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, self._high_water_mark)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        if self._key:
            self._key.use(socket)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise EventError(f"{endpoint}: not an address: give tcp://HOST:PORT ({error.strerror})") from None
        return socket

    def _take(self, limit: int) -> list[Event]:
        """The next events that are ready; those before them are done."""
        self.done()
        if not self._ready:
            self._pump(READY if self._replay else min(limit, READY))
        if not self._ready and self._replay:
            self._place.settle(self._replay.journal, self.offset)
        while self._ready and len(self._taken) < limit:
            self._taken.append(self._ready.popleft())
        if self._max_age_s is not None:
            self._look_at_age(self._max_age_s)
        return [taken.event for taken in self._taken]

    def _pump(self, room: int) -> None:
        """Take what has arrived, ask what has to be asked.

        Without replay no more is taken than goes out at once: a gap counts, and `on_gap` is called, when the event
        after it is delivered, and not while those before it wait.
        """
        with contextlib.suppress(zmq.Again):
            while self._replay and len(self._ready) < READY:
                frames = self._replay.socket.recv_multipart(zmq.NOBLOCK)
                self._keep(self._replay.answered(frames, self._decoded))
        with contextlib.suppress(zmq.Again):
            while len(self._ready) < room:
                self._heard(self._live.recv_multipart(zmq.NOBLOCK))
        if self._replay:
            self._replay.ask(time.monotonic())

    def _heard(self, frames: Sequence[bytes]) -> None:
        event = self._decoded(frames)
        if event is None:
            return
        if event.type != "heartbeat":
            self._keep(self._follower.live(event))
            return
        if self._replay:
            self._replay.heartbeat(event.offset)
        if self._heartbeats:
            self._ready.append(Delivered(event, self.offset, True))

    def _keep(self, delivered: Iterable[Delivered]) -> None:
        """What was received for its `seq` alone was not asked for."""
        for one in delivered:
            event = one.event
            if self._takes_all or topic_of(event.call, event.channel, event.type).startswith(self._wanted):
                self._ready.append(one)

    def _decoded(self, frames: Sequence[bytes]) -> Event | None:
        try:
            event = decode(frames[1]) if len(frames) == 2 else None
        except EventError:
            event = None
        if event is None or topic_of(event.call, event.channel, event.type) != frames[0]:
            self._broken += 1
            return None
        return event

    def _look_at_age(self, max_age_s: float) -> None:
        for taken in self._taken:
            age = (time.time_ns() - taken.event.emitted_at) / 1e9
            if not taken.live or age <= max_age_s:
                continue
            self.late += 1
            if time.monotonic() - self._warned > LATE_WARNING_S:
                self._warned = time.monotonic()
                log.warning("this reader is slow: it takes events that are %.1f s old", age)
