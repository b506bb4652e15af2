"""The inside of a subscriber: one SUB socket for what is live, one DEALER for the replay.

`follow` decides, `position` remembers, this file moves bytes.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import zmq

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import LIMITS, decode
from bcaf_stream.events.event import Event, topic_of
from bcaf_stream.events.follow import Delivered, Follower, Start, message, parse_start, whole_calls
from bcaf_stream.events.keys import EVERYTHING, HEARTBEAT, ClientKey, load_client_key
from bcaf_stream.events.position import Position

log = logging.getLogger(__name__)

CREDIT = 5000  # events of a replay that are on their way
PATIENCE_S = 2.0  # a replay that says nothing for so long is asked again
LATE_WARNING_S = 10.0
MAX_FRAME_BYTES = 16_000_000  # of one event
MAX_TOPIC_BYTES = 1000  # of a subscription: the hub takes no longer ones; the rest is chosen here
ANSWER = {  # what each kind of answer must have
    "events": {"id", "journal"},
    "end": {"id", "journal", "reached"},
    "count": {"id", "journal", "n"},
    "busy": {"id"},
    "error": {"id", "reason"},
}
READY = 2000  # decoded events that wait for the reader; the rest waits in the sockets
_MAX_BACKOFF_S = 1.0


class Subscription:
    """What the two subscribers share: both sockets, and what was taken from them in the order of its delivery.

    Args:
        live, replay: the hub's two addresses.
        topics: prefixes, `emo.v1.CALL.` for one call; default: everything. Of a part of a call `seq` cannot
            show a loss: so the whole call is received, and the part is chosen here. Only with a key, which may
            be for that part alone, what was lost comes after the next heartbeat, behind later events.
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
        self._wanted = tuple(topic.encode() for topic in topics)
        self._topics = list(topics) if key else [whole_calls(topic) for topic in topics]
        self._asks_for_all = self._topics == list(topics) and all(len(t) <= MAX_TOPIC_BYTES for t in self._wanted)
        self._replay_endpoint, self._max_age_s = replay, max_age_s
        self._key: ClientKey | None = load_client_key(key) if key else None
        self._high_water_mark = high_water_mark
        self._place = Position(position)
        place = self._place.read()
        self._journal: str | None = place["journal"] if place else None
        begin: Start = {"offset": place["offset"] + 1} if place else parse_start(start)
        self._follower = Follower(self._topics, begin, place["seen"] if place else None)
        self._ready: deque[Delivered] = deque()
        self._taken: list[Delivered] = []
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
            for topic in (
                *(t.encode()[:MAX_TOPIC_BYTES] for t in self._topics),
                HEARTBEAT,
            ):  # the heartbeat last: its answer covers all
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
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
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

    def _take(self, limit: int) -> list[Event]:
        """The next events that are ready; those before them are done."""
        self.done()
        if not self._ready:
            self._pump()
        if not self._ready:
            self._place.settle(self._journal, self._follower.base)
        while self._ready and len(self._taken) < limit:
            self._taken.append(self._ready.popleft())
        self._look_at_age()
        return [taken.event for taken in self._taken]

    def done(self) -> None:
        """What was taken so far is done, before more is asked for."""
        for taken in self._taken:
            self._place.advance(self._journal, taken)
        self._taken.clear()

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
            self._keep(self._follower.live(event))
            return
        counted = self._follower.wants_count
        self._follower.heartbeat(event.offset)
        if counted is None and self._follower.wants_count is not None:
            span = {"after": self._follower.base, "to": self._follower.wants_count}
            self._counting = self._follower.wants_count
            self._send("count", time.monotonic(), topics=self._topics, **span)

    def _replied(self, frames: Sequence[bytes]) -> None:
        header = self._header(frames[0])
        if header.get("id") != self._request:
            return  # to a question that was given up, or no answer at all
        self._heard = time.monotonic()
        if header["kind"] == "busy":  # asked too much: the next question waits for longer
            self._follower.interrupted()
            return
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
                self._keep(self._follower.replayed(event))
        if header["kind"] == "end":
            self._keep(self._follower.filled(header["reached"]))
        elif self._credit < CREDIT // 2:
            assert self._dealer is not None
            more = message(ask="credit", id=self._request, n=CREDIT - self._credit)
            self._dealer.send(msgpack.packb(more), zmq.NOBLOCK)
            self._credit = CREDIT

    def _header(self, frame: bytes) -> dict[str, Any]:
        try:
            header = msgpack.unpackb(frame, **LIMITS)
            numbers = [header[name] for name in ("reached", "n") if name in header]
            if ANSWER[header["kind"]] <= header.keys() and all(type(number) is int for number in numbers):
                return dict(header)
        except Exception:  # msgpack documents no closed set of errors
            pass
        self.broken += 1
        return {}

    def _keep(self, delivered: list[Delivered]) -> None:
        """What was received for its `seq` alone was not asked for."""
        for one in delivered:
            event = one.event
            if self._asks_for_all or topic_of(event.call, event.channel, event.type).startswith(self._wanted):
                self._ready.append(one)

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

    def _look_at_age(self) -> None:
        if self._max_age_s is None:
            return
        for taken in self._taken:
            age = (time.time_ns() - taken.event.emitted_at) / 1e9
            if not taken.live or age <= self._max_age_s:
                continue
            self.late += 1
            if time.monotonic() - self._warned > LATE_WARNING_S:
                self._warned = time.monotonic()
                log.warning("this reader is slow: it takes events that are %.1f s old", age)
