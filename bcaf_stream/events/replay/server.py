"""Replay: a second socket (ROUTER) that gives back what is in the journal, as fast as the client takes it.

A request is one frame, a msgpack map; an answer is a msgpack map and then topic, event, topic, event, ...

    {"v": 1, "ask": "replay", "id": 7, "from": START, "topics": ["emo.v1.a."], "credit": 1000, "speed": null}
    {"v": 1, "ask": "credit", "id": 7, "n": 500}        {"v": 1, "ask": "cancel", "id": 7}
    {"v": 1, "ask": "count", "id": 8, "after": 12, "to": 90, "topics": [...]}

    {"id": 7, "kind": "events", "reached": 512, "journal": "9f...", "epoch": 3}, then the events
    ... "kind": "end": nothing more is there, everything up to `reached` was given
    ... "kind": "count", "n": 31            ... "kind": "error", "reason": "..."
    ... "kind": "busy": not answered, or given up because its client wanted nothing for long: ask again later

START is "start", "new" (an end at once, which tells where the journal is), "last" (the latest event of each
channel of each call), {"offset": 5} (that one included) or {"time": unix ns}. Each event costs one credit.
`speed` 1 replays in original time. Keys see what they are allowed, and nothing tells them of the rest.
An event that cannot be read any more comes as a `degraded` event with its offset.
"""

import contextlib
import threading
import time
from typing import Any

import zmq
from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.errors import EventError
from bcaf_stream.events.auth import Gate
from bcaf_stream.events.connections import connection_of
from bcaf_stream.events.event import call_of_prefix
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.job import ReplayJob
from bcaf_stream.events.replay.owed import Sent
from bcaf_stream.events.replay.protocol import (
    MAX_CREDIT,
    AnyRequest,
    CancelRequest,
    CountRequest,
    CreditRequest,
    FromOffset,
    FromTime,
    ReplayRequest,
    id_of,
    request_of,
    unpacked,
)
from bcaf_stream.events.replay.running import Key, RunningReplays
from bcaf_stream.events.replay.socket import ReplaySocket
from bcaf_stream.events.subscriptions import Connection, RateLimiter
from bcaf_stream.loops import faults, start_thread

MAX_REQUEST_BYTES = 65_536
REFRESH_S = 0.5  # how soon a revoked key, an erased call or a replay that is idle for too long is noticed


class ReplayConfig(Config):
    """`page` events travel in one message; `max_replays` run at the same time, `max_replays_each` for one client.

    A client is a connection, or a key where there are keys; it begins `per_second` replays and counts on average.
    Up to `high_water_mark` messages of a page wait for a client that asked for them and does not read. A replay
    whose client wants nothing for `idle_s` is given up. When all places are taken, one makes room: that which was
    quiet for longest, else one of a client that has more of them than the next would have, else the oldest, if it
    has run for `idle_s`; its client is told `busy`. With more than `max_connections` the one that has said least
    is ended.
    """

    bind: str = "tcp://127.0.0.1:5562"
    page: int = Field(default=200, ge=1, le=1000)
    max_replays: int = Field(default=256, ge=1)
    max_replays_each: int = Field(default=32, ge=1)
    per_second: float = Field(default=20.0, gt=0)
    high_water_mark: int = Field(default=50, ge=1)
    max_connections: int = Field(default=1000, ge=1)
    idle_s: float = Field(default=60.0, gt=0)


class ReplayServer:
    """Serves replays from a thread of its own, with its own view of the journal; it holds up no append.

    Raises:
        EventError: the address cannot be bound, or the journal or the keys cannot be read.
    """

    def __init__(self, config: ReplayConfig, bus: BusConfig, journal: JournalConfig) -> None:
        self._config = config
        self._limiter = RateLimiter(config.per_second)
        self._jobs = RunningReplays(config.max_replays, config.max_replays_each, config.idle_s)
        self.given_up = 0  # replays that were idle for too long, or made room
        self._journal = Journal(journal, read_only=True)
        self._erasures = self._journal.erasures
        self._context: zmq.Context[Any] = zmq.Context()
        self._gate: Gate | None = None
        try:
            self._gate = Gate(bus.keys, self._context) if bus.keys else None
            self._socket = ReplaySocket(
                self._context,
                config.bind,
                self._gate,
                self._journal,
                config.high_water_mark,
                config.max_connections,
            )
        except BaseException:
            self._free()
            raise
        self.endpoint = self._socket.endpoint
        self.thread = start_thread("event replay", self._run)

    @property
    def refused(self) -> int:
        """Requests that were malformed or not allowed, and connections of keys that are not let in."""
        return self._socket.refusals.count + (self._gate.refused if self._gate else 0)

    @property
    def running(self) -> int:
        return len(self._jobs)

    @property
    def held(self) -> int:
        """Replays whose clients have no room now."""
        return self._jobs.held

    @property
    def answers_missed(self) -> int:
        """Short answers that their clients never took."""
        return self._socket.missed

    @property
    def furthest_behind(self) -> int | None:
        """The next offset of the replay that has the most to get; None where none runs."""
        return self._jobs.furthest_behind

    def close(self) -> None:
        self.thread.end()

    def __enter__(self) -> "ReplayServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, ending: threading.Event) -> None:
        next_refresh = 0.0
        try:
            while not ending.is_set():
                now = time.monotonic()
                rest = min((job.due_in(now) for job in self._jobs.values()), default=1.0)
                if self._socket.wait(rest):
                    self._take()
                for key, job in list(self._jobs.items()):
                    if job.due_in(time.monotonic()) <= 0:
                        self._step(key, job)
                if time.monotonic() >= next_refresh:
                    next_refresh = time.monotonic() + REFRESH_S
                    self._refresh(time.monotonic())
        finally:
            self._socket.close()
            self._free()

    def _free(self) -> None:
        if self._gate:
            self._gate.close()
        self._context.term()
        self._journal.close()

    def _refresh(self, now: float) -> None:
        """Look at what others changed: rights, erased calls; and at who wants nothing any more."""
        with contextlib.suppress(EventError):
            if self._gate:
                self._gate.refresh()
            if self._erasures != self._journal.erasures:
                self._erasures = self._journal.erasures
                for job in self._jobs.values():
                    there = self._journal.existing([entry.offset for entry in job.waiting])
                    job.waiting = [entry for entry in job.waiting if entry.offset in there]
        self._jobs.forget_gone()
        for key in self._jobs.idle(now):
            self._give_up(key)

    def _take(self) -> None:
        """Answer one request; whatever is wrong with it is its own matter."""
        client, frames = self._socket.receive()
        key = (client, 0)
        try:
            if len(frames) != 1:
                raise EventError("request: must be one frame")
            if len(frames[0]) > MAX_REQUEST_BYTES:
                raise EventError(f"request: must not be longer than {MAX_REQUEST_BYTES} bytes")
            user = str(frames[0].get("User-Id")) if self._gate else ""
            values = unpacked(frames[0].bytes)
            key = (client, id_of(values))
            self._answer(key, user, connection_of(frames[0]), request_of(values))
        except EventError as error:
            self._socket.refusals.add(str(error))
            self._socket.tell(key, "error", reason=str(error))
        except Exception as error:  # a request that finds a fault of ours ends nobody else's
            faults.count("replay request", error)
            self._socket.tell(key, "error", reason=f"the hub could not answer this: {type(error).__name__}")

    def _answer(self, key: Key, user: str, connection: Connection | None, request: AnyRequest) -> None:
        owner = user.encode() or key[0]
        match request:
            case ReplayRequest() | CountRequest() if not self._limiter.allows(owner):
                self._socket.tell(key, "busy")
            case ReplayRequest():
                self._begin(key, owner, user, connection, request)
            case CreditRequest() if key in self._jobs:
                self._jobs[key].ask(request.n, MAX_CREDIT, time.monotonic())
            case CancelRequest():
                self._jobs.pop(key, None)
            case CountRequest():
                self._socket.tell(key, "count", n=self._count(user, request))

    def _begin(
        self, key: Key, owner: bytes, user: str, connection: Connection | None, request: ReplayRequest
    ) -> None:
        match request.start:
            case "new":
                self._socket.tell(key, "end", reached=self._journal.last_offset)
                return
            case FromOffset(offset=offset):
                first = offset
            case FromTime(time=when):
                first = self._journal.first_since(when)
            case _:
                first = 0
        self._jobs.pop(key, None)
        if not self._made_room(owner):
            self._socket.tell(key, "busy")
            return
        prefixes = tuple(topic.encode() for topic in request.topics)
        self._jobs[key] = ReplayJob(
            owner=owner,
            connection=connection,
            user=user,
            prefixes=prefixes,
            call=call_of_prefix(prefixes[0]) if len(prefixes) == 1 else None,
            next=first,
            latest=request.start == "last",
            speed=request.speed,
            credit=min(request.credit, MAX_CREDIT),
            begun=time.monotonic(),
        )

    def _made_room(self, owner: bytes) -> bool:
        """Whether one more may begin, for which another one leaves where it must."""
        if not self._jobs.has_room(owner):
            self._jobs.forget_gone()
        if self._jobs.has_room(owner):
            return True
        leaving = self._jobs.next_to_leave(owner, time.monotonic())
        if leaving is not None:
            self._give_up(leaving)
        return leaving is not None

    def _give_up(self, key: Key) -> None:
        del self._jobs[key]
        self.given_up += 1
        self._socket.tell(key, "busy")

    def _step(self, key: Key, job: ReplayJob) -> None:
        """Send the next page of one replay, or what the client had no room for before; and its end."""
        try:
            self._send_due(key, job, time.monotonic())
        except EventError as error:
            del self._jobs[key]
            self._socket.tell(key, "error", reason=str(error))
        except Exception as error:  # the others go on
            faults.count("replay", error)
            del self._jobs[key]
            self._socket.tell(key, "error", reason=f"the hub could not go on with this: {type(error).__name__}")

    def _send_due(self, key: Key, job: ReplayJob, now: float) -> None:
        allowed = self._allowed(job.user)
        if job.wants_page:
            self._read(job, allowed)
        else:
            job.narrow(allowed)  # rights may have changed since
        due = job.due(now)
        if due:
            sent = self._socket.send(key, "events", due, reached=due[-1].offset)
            if sent != "sent":
                self._not_sent(key, job, sent, now)
                return
            job.sent(len(due), now)
        if job.is_over:
            sent = self._socket.send(key, "end", reached=job.reached)
            if sent == "full":
                self._not_sent(key, job, sent, now)
                return
            del self._jobs[key]

    def _not_sent(self, key: Key, job: ReplayJob, why: Sent, now: float) -> None:
        if why == "gone" or not job.hold(now):
            del self._jobs[key]

    def _read(self, job: ReplayJob, allowed: tuple[bytes, ...]) -> None:
        last = self._journal.last_offset  # before the page: what is stored between the two is not promised
        page = self._journal.page(job.next, job.call, self._config.page, job.latest)
        if page:
            job.next = page[-1].offset + 1
        wanted = [e for e in page if e.topic.startswith(job.prefixes) and e.topic.startswith(allowed)]
        job.read(wanted, max(last, job.next - 1) if len(page) < self._config.page else None)

    def _allowed(self, user: str) -> tuple[bytes, ...]:
        return self._gate.prefixes(user) if self._gate else (b"",)

    def _count(self, user: str, request: CountRequest) -> int:
        """How many events of these topics lie after one offset, up to another."""
        prefixes, allowed = tuple(topic.encode() for topic in request.topics), self._allowed(user)
        topics = self._journal.topics(request.after, request.to)
        return sum(n for topic, n in topics if topic.startswith(prefixes) and topic.startswith(allowed))
