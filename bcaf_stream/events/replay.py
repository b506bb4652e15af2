"""Replay: a second socket (ROUTER) that gives back what is in the journal, as fast as the asker takes it.

A request is one frame, a msgpack map; an answer is a msgpack map and then topic, event, topic, event, ...

    {"v": 1, "ask": "replay", "id": 7, "from": START, "topics": ["emo.v1.a."], "credit": 1000, "speed": null}
    {"v": 1, "ask": "credit", "id": 7, "n": 500}        {"v": 1, "ask": "cancel", "id": 7}
    {"v": 1, "ask": "count", "id": 8, "after": 12, "to": 90, "topics": [...]}

    {"id": 7, "kind": "events", "reached": 512, "journal": "9f...", "epoch": 3}, then the events
    ... "kind": "end": nothing more is there, everything up to `reached` was given
    ... "kind": "count", "n": 31            ... "kind": "error", "reason": "..."
    ... "kind": "busy": not answered, and to be asked again later

START is "start", "new" (an end at once, which tells where the journal is), "last" (the latest event of each
channel of each call), {"offset": 5} (that one included) or {"time": unix ns}. Each event costs one credit.
`speed` 1 replays in original time. Keys see what they are allowed, and nothing tells them of the rest.
"""

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgpack
import zmq
from pydantic import Field

from bcaf_stream.addresses import why_not_bound
from bcaf_stream.config import Config
from bcaf_stream.errors import EventError
from bcaf_stream.events.bus import LAST, MORE, BusConfig, raw_send
from bcaf_stream.events.fields import INT64
from bcaf_stream.events.journal import Journal
from bcaf_stream.events.journal_file import JournalConfig
from bcaf_stream.events.keys import Gate
from bcaf_stream.events.messages import call_of_prefix
from bcaf_stream.events.refusals import Refusals
from bcaf_stream.events.replay_request import MAX_CREDIT, Pace, parse_request, prefixes_of, whole
from bcaf_stream.events.replay_run import Page, Run
from bcaf_stream.events.rows import Entry

MAX_REQUEST_BYTES = 65_536
MAX_FRAME_BYTES = 1_000_000  # beyond it the connection ends before anything is answered
REFRESH_S = 0.5  # how soon a revoked key is noticed


class ReplayConfig(Config):
    """`page` events travel in one message; `max_replays` run at the same time.

    Each connection, or each key where there are keys, may begin `per_second` replays and counts on average. Up to
    `high_water_mark` messages of a page wait for a client that asked for them and does not read.
    """

    bind: str = "tcp://127.0.0.1:5562"
    page: int = Field(default=200, ge=1, le=1000)
    max_replays: int = Field(default=256, ge=1)
    per_second: float = Field(default=20.0, gt=0)
    high_water_mark: int = Field(default=50, ge=1)


class ReplayServer:
    """Serves replays from a thread of its own, with its own view of the journal; it holds up no append.

    Raises:
        EventError: the address cannot be bound, or the journal or the keys cannot be read.
    """

    def __init__(self, config: ReplayConfig, bus: BusConfig, journal: JournalConfig) -> None:
        self._config = config
        self._refusals = Refusals("replay")
        self._pace = Pace(config.per_second)
        self._replays: dict[tuple[bytes, int], Run] = {}
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
    def refused(self) -> int:
        """Requests that were malformed or not allowed, and connections of keys that are not let in."""
        return self._refusals.count + (self._gate.refused if self._gate else 0)

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
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        socket.setsockopt(zmq.SNDHWM, self._config.high_water_mark)
        socket.setsockopt(zmq.LINGER, 0)
        if self._gate:
            self._gate.protect(socket)
        try:
            socket.bind(self._config.bind)
            self._refusals.watch(socket)
        except zmq.ZMQError as error:
            socket.close()
            raise EventError(why_not_bound(self._config.bind, error.errno, str(error.strerror))) from None
        return socket

    def _run(self) -> None:
        next_refresh = 0.0
        while not self._ending:
            now = time.monotonic()
            rest = min((replay.due_in(now) for replay in self._replays.values()), default=1.0)
            if self._socket.poll(0 if rest <= 0 else max(1, min(50, int(rest * 1000)))):
                self._take()
            for key, replay in list(self._replays.items()):
                if replay.due_in(time.monotonic()) <= 0:
                    self._step(key, replay)
            self._refusals.look()
            if self._gate and time.monotonic() >= next_refresh:
                next_refresh = time.monotonic() + REFRESH_S
                with contextlib.suppress(EventError):
                    self._gate.refresh()
        self._refusals.unwatch()
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
            if len(frames[0]) > MAX_REQUEST_BYTES:
                raise EventError(f"request: must not be longer than {MAX_REQUEST_BYTES} bytes")
            if self._gate:
                user = str(frames[0].get("User-Id"))
            request = parse_request(frames[0].bytes)
            id = request["id"]
            self._answer(client.bytes, id, user, request)
        except EventError as error:
            self._refusals.add(str(error))
            self._send((client.bytes, id), "error", reason=str(error))

    def _answer(self, client: bytes, id: int, user: str, request: dict[str, Any]) -> None:
        key = (client, id)
        match request["ask"]:
            case "replay" | "count" if not self._pace.allows(user.encode() or client):
                self._send(key, "busy")
            case "replay" if len(self._replays) >= self._config.max_replays:
                self._send(key, "busy")
            case "replay":
                self._begin(key, user, request)
            case "credit":
                if key in self._replays:
                    credit = self._replays[key].credit + whole(request, "n", MAX_CREDIT)
                    self._replays[key].credit = min(credit, MAX_CREDIT)
            case "cancel":
                self._replays.pop(key, None)
            case "count":
                self._send(key, "count", n=self._count(user, request))
            case _:
                raise EventError("request: ask must be replay, credit, cancel or count")

    def _begin(self, key: tuple[bytes, int], user: str, request: dict[str, Any]) -> None:
        start, prefixes, speed = request.get("from"), prefixes_of(request), request.get("speed")
        credit = whole(request, "credit", MAX_CREDIT)
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
        self._replays[key] = Run(
            user, prefixes, call, first, start == "last", speed, credit, begun=time.monotonic()
        )

    def _step(self, key: tuple[bytes, int], replay: Run) -> None:
        """Send the next page of one replay, or what the client had no room for before."""
        now = time.monotonic()
        try:
            entries, reached = replay.held or replay.paced(self._next(replay), now)
        except EventError as error:
            del self._replays[key]
            self._send(key, "error", reason=str(error))
            return
        if entries:
            sent = self._send(key, "events", entries, reached=entries[-1].offset)
            if sent != "sent":
                self._not_sent(key, replay, sent, (entries, reached))
                return
            replay.credit -= len(entries)
        if reached is not None:
            sent = self._send(key, "end", reached=reached)
            if sent == "full":
                self._not_sent(key, replay, sent, ([], reached))
                return
            del self._replays[key]
        replay.held = None

    def _not_sent(self, key: tuple[bytes, int], replay: Run, why: str, page: Page) -> None:
        if why == "gone" or not replay.hold(page, time.monotonic()):
            del self._replays[key]

    def _next(self, replay: Run) -> Page:
        """What is to be sent next; and up to where everything was given, at the end."""
        allowed = self._gate.prefixes(replay.user) if self._gate else (b"",)
        if replay.waiting:
            replay.narrow(lambda entry: entry.topic.startswith(allowed))
            return replay.waiting, None
        limit = min(self._config.page, replay.credit)
        last = self._journal.last_offset  # before the page: what is stored between the two is not promised
        page = self._journal.page(replay.next, replay.call, limit, replay.latest)
        if page:
            replay.next = page[-1].offset + 1
        wanted = [e for e in page if e.topic.startswith(replay.prefixes) and e.topic.startswith(allowed)]
        return wanted, max(last, replay.next - 1) if len(page) < limit else None

    def _count(self, user: str, request: dict[str, Any]) -> int:
        """How many events of these topics lie after `after`, up to `to`."""
        at, to, prefixes = whole(request, "after", INT64), whole(request, "to", INT64), prefixes_of(request)
        allowed = self._gate.prefixes(user) if self._gate else (b"",)
        topics = self._journal.topics(at, to)
        return sum(n for topic, n in topics if topic.startswith(prefixes) and topic.startswith(allowed))

    def _send(
        self, key: tuple[bytes, int], kind: str, entries: Sequence[Entry] = (), **fields: object
    ) -> Literal["sent", "full", "gone"]:
        client, id = key
        journal = {"journal": self._journal.identity, "epoch": self._journal.epoch}
        frames = [client, msgpack.packb({"v": 1, "id": id, "kind": kind, **journal, **fields})]
        for entry in entries:
            frames += (entry.topic, entry.data)
        try:
            for frame in frames[:-1]:
                raw_send(self._socket, frame, MORE)
            raw_send(self._socket, frames[-1], LAST)
        except zmq.Again:
            return "full"
        except zmq.ZMQError:
            return "gone"
        return "sent"
