"""Replay: a second socket (ROUTER) that gives back what is in the journal, as fast as the asker takes it.

A request is one frame, a msgpack map; an answer is a msgpack map and then topic, event, topic, event, ...

    {"v": 1, "ask": "replay", "id": 7, "from": START, "topics": ["emo.v1.a."], "credit": 1000, "speed": null}
    {"v": 1, "ask": "credit", "id": 7, "n": 500}        {"v": 1, "ask": "cancel", "id": 7}
    {"v": 1, "ask": "count", "id": 8, "after": 12, "to": 90, "topics": [...]}

    {"id": 7, "kind": "events", "reached": 512, "journal": "9f...", "epoch": 3}, then the events
    ... "kind": "end": nothing more is there, everything up to `reached` was given
    ... "kind": "count", "n": 31            ... "kind": "error", "reason": "..."

START is "start", "new" (an end at once, which tells where the journal is), "last" (the latest event of each
channel of each call), {"offset": 5} (that one included) or {"time": unix ns}. Each event costs one credit.
`speed` 1 replays in original time. Keys see what they are allowed, and nothing tells them of the rest.
"""

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import msgpack
import zmq
from pydantic import Field

from bcaf_stream.addresses import why_not_bound
from bcaf_stream.config import Config
from bcaf_stream.errors import EventError
from bcaf_stream.events.bus import BusConfig
from bcaf_stream.events.codec import LIMITS
from bcaf_stream.events.fields import INT64
from bcaf_stream.events.journal import Journal
from bcaf_stream.events.journal_file import JournalConfig
from bcaf_stream.events.keys import Gate
from bcaf_stream.events.messages import call_of_prefix
from bcaf_stream.events.rows import Entry

MAX_REQUEST_BYTES = 65_536
MAX_CREDIT = 100_000
REFRESH_S = 0.5  # how soon a revoked key is noticed


class ReplayConfig(Config):
    """`page` events travel in one message; `max_replays` run at the same time."""

    bind: str = "tcp://127.0.0.1:5562"
    page: int = Field(default=200, ge=1, le=1000)
    max_replays: int = Field(default=256, ge=1)


@dataclass(slots=True)
class _Replay:
    """One running replay of one client."""

    user: str
    prefixes: tuple[bytes, ...]
    call: str | None
    next: int
    latest: bool
    speed: float | None
    credit: int
    begun: float = field(default_factory=time.monotonic)
    first_at: int | None = None  # `stored_at` of its first event
    waiting: list[Entry] = field(default_factory=list)  # in original time: read, and not yet due

    def due_in(self) -> float:
        """Seconds until it has something to do; negative when it has."""
        if self.credit <= 0:
            return 1.0
        if not self.waiting or self.speed is None or self.first_at is None:
            return -1.0
        elapsed = (time.monotonic() - self.begun) * self.speed
        return ((self.waiting[0].stored_at - self.first_at) / 1e9 - elapsed) / self.speed


class ReplayServer:
    """Serves replays from a thread of its own, with its own view of the journal; it holds up no append.

    Raises:
        EventError: the address cannot be bound, or the journal or the keys cannot be read.
    """

    def __init__(self, config: ReplayConfig, bus: BusConfig, journal: JournalConfig) -> None:
        self._config = config
        self.refused = 0  # requests that were malformed or not allowed
        self._replays: dict[tuple[bytes, int], _Replay] = {}
        self._journal = Journal(journal, read_only=True)
        self._context: zmq.Context[Any] = zmq.Context()
        self._gate: Gate | None = None
        self._ending = False
        try:
            self._gate = Gate(bus.keys, self._context) if bus.keys else None
            self._socket = self._bound()
        except BaseException:
            self._free()
            raise
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="event replay", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self._replays)

    def close(self) -> None:
        if not self._ending:
            self._ending = True
            self._thread.join()

    def __enter__(self) -> "ReplayServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bound(self) -> "zmq.Socket[Any]":
        socket: zmq.Socket[Any] = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        socket.setsockopt(zmq.LINGER, 0)
        if self._gate:
            self._gate.protect(socket)
        try:
            socket.bind(self._config.bind)
        except zmq.ZMQError as error:
            socket.close()
            raise EventError(why_not_bound(self._config.bind, error.errno, str(error.strerror))) from None
        return socket

    def _run(self) -> None:
        next_refresh = 0.0
        while not self._ending:
            rest = min((replay.due_in() for replay in self._replays.values()), default=1.0)
            if self._socket.poll(0 if rest <= 0 else max(1, min(50, int(rest * 1000)))):
                self._take()
            for key, replay in list(self._replays.items()):
                if replay.due_in() <= 0:
                    self._step(key, replay)
            if self._gate and time.monotonic() >= next_refresh:
                next_refresh = time.monotonic() + REFRESH_S
                with contextlib.suppress(EventError):
                    self._gate.refresh()
        self._socket.close()
        self._free()

    def _free(self) -> None:
        if self._gate:
            self._gate.close()
        self._context.term()
        self._journal.close()

    def _take(self) -> None:
        client, *frames = self._socket.recv_multipart(copy=False)
        user = ""
        id = 0
        try:
            if len(frames) != 1:
                raise EventError("request: must be one frame")
            if self._gate:
                user = str(frames[0].get("User-Id"))
            request = _request(frames[0].bytes)
            id = request["id"]
            self._answer(client.bytes, id, user, request)
        except EventError as error:
            self.refused += 1
            self._send((client.bytes, id), "error", reason=str(error))

    def _answer(self, client: bytes, id: int, user: str, request: dict[str, Any]) -> None:
        key = (client, id)
        match request["ask"]:
            case "replay":
                if len(self._replays) >= self._config.max_replays:
                    raise EventError("busy: too many replays at the same time")
                self._begin(key, user, request)
            case "credit":
                if key in self._replays:
                    credit = self._replays[key].credit + _whole(request, "n", MAX_CREDIT)
                    self._replays[key].credit = min(credit, MAX_CREDIT)
            case "cancel":
                self._replays.pop(key, None)
            case "count":
                self._send(key, "count", n=self._count(user, request))
            case _:
                raise EventError("request: ask must be replay, credit, cancel or count")

    def _begin(self, key: tuple[bytes, int], user: str, request: dict[str, Any]) -> None:
        start, prefixes, speed = request.get("from"), _prefixes(request), request.get("speed")
        credit = _whole(request, "credit", MAX_CREDIT)
        if speed is not None and (isinstance(speed, bool) or not isinstance(speed, int | float) or not speed > 0):
            raise EventError("request: speed must be a number above 0, or null")
        match start:
            case "new":
                self._send(key, "end", reached=self._journal.last_offset)
                return
            case "start" | "last":
                first = 0
            case {"offset": int(offset)} if 0 <= offset < INT64:
                first = offset
            case {"time": int(when)} if 0 <= when < INT64:
                first = self._journal.first_since(when)
            case _:
                raise EventError('request: from must be start, new, last, {"offset": n} or {"time": ns}')
        call = call_of_prefix(prefixes[0]) if len(prefixes) == 1 else None
        self._replays[key] = _Replay(user, prefixes, call, first, start == "last", speed, credit)

    def _step(self, key: tuple[bytes, int], replay: _Replay) -> None:
        """Send the next page of one replay."""
        try:
            entries, reached = self._next(replay)
        except EventError as error:
            del self._replays[key]
            self._send(key, "error", reason=str(error))
            return
        if replay.speed is not None and entries:
            replay.first_at = entries[0].stored_at if replay.first_at is None else replay.first_at
            replay.waiting = entries
            if replay.due_in() > 0:
                return
            entries, replay.waiting = entries[:1], entries[1:]
        if entries:
            replay.credit -= len(entries)
            if not self._send(key, "events", entries, reached=entries[-1].offset):
                del self._replays[key]
                return
        if reached is not None and not replay.waiting:
            del self._replays[key]
            self._send(key, "end", reached=reached)

    def _next(self, replay: _Replay) -> tuple[list[Entry], int | None]:
        """What is to be sent next; and up to where everything was given, at the end."""
        if replay.waiting:
            return replay.waiting, None
        limit = min(self._config.page, replay.credit)
        last = self._journal.last_offset  # before the page: what is stored between the two is not promised
        page = self._journal.page(replay.next, replay.call, limit, replay.latest)
        if page:
            replay.next = page[-1].offset + 1
        allowed = self._gate.prefixes(replay.user) if self._gate else (b"",)
        wanted = [e for e in page if e.topic.startswith(replay.prefixes) and e.topic.startswith(allowed)]
        reached = max(last, replay.next - 1) if len(page) < limit else None
        return wanted, reached

    def _count(self, user: str, request: dict[str, Any]) -> int:
        """How many events of these topics lie after `after`, up to `to`."""
        at, to, prefixes = _whole(request, "after", INT64), _whole(request, "to", INT64), _prefixes(request)
        allowed = self._gate.prefixes(user) if self._gate else (b"",)
        topics = self._journal.topics(at, to)
        return sum(n for topic, n in topics if topic.startswith(prefixes) and topic.startswith(allowed))

    def _send(
        self, key: tuple[bytes, int], kind: str, entries: list[Entry] | None = None, **fields: object
    ) -> bool:
        client, id = key
        journal = {"journal": self._journal.identity, "epoch": self._journal.epoch}
        frames = [client, msgpack.packb({"v": 1, "id": id, "kind": kind, **journal, **fields})]
        for entry in entries or ():
            frames += (entry.topic, entry.data)
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            return False  # it is gone, or takes nothing
        return True


def _request(data: bytes) -> dict[str, Any]:
    try:
        request = msgpack.unpackb(data, **LIMITS)
    # msgpack documents no closed set of errors
    except Exception as error:
        raise EventError(f"request: not a msgpack map ({type(error).__name__})") from None
    if not isinstance(request, dict) or request.get("v") != 1:
        raise EventError("request: must be a map with v 1")
    _whole(request, "id", INT64)
    return request


def _whole(request: dict[str, Any], name: str, high: int) -> int:
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < INT64:
        raise EventError(f"request: {name} must be a whole number from 0")
    return min(value, high)


def _prefixes(request: dict[str, Any]) -> tuple[bytes, ...]:
    topics = request.get("topics")
    if not isinstance(topics, list) or not 0 < len(topics) <= 1000 or any(type(t) is not str for t in topics):
        raise EventError("request: topics must be a list of up to 1000 prefixes")
    return tuple(topic.encode("utf-8", "replace") for topic in topics)
