"""The hub of events: takes them with acknowledgement, journals them, publishes them, and replays them.

One thread writes: what came while it was writing goes into its next transaction (group commit), and is
acknowledged when that is on disk and on the wire. The hub needs no Ray; actors/hub_actor.py lends it to Ray.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from bcaf_stream.addresses import is_local
from bcaf_stream.config import Config
from bcaf_stream.errors import EventError, FencedError, JournalError, SupersededError
from bcaf_stream.events.codec import draft
from bcaf_stream.events.event import Event
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import NOT_STORED, Journal
from bcaf_stream.events.journal.retention import expire
from bcaf_stream.events.journal.rows import Entry
from bcaf_stream.events.owners import LEASE_S, CallOwners, Claim
from bcaf_stream.events.progress import Progress, progress_of
from bcaf_stream.events.publisher import BusConfig, EventPublisher
from bcaf_stream.events.replay.server import ReplayConfig, ReplayServer
from bcaf_stream.loops import start_thread

log = logging.getLogger(__name__)

GROUP_EVENTS = 2000  # in one transaction at most: what comes in while the one before is written
POLL_S = 0.01  # how soon an idle hub takes up a subscription
KEEP_S = 2.0
UPKEEP_S = 10.0
TIDYING_S = 3600.0
WARNING_S = 10.0
SLICE_S = 0.2  # between two slices, while there is more to delete


class EventHubConfig(Config):
    """The journal is written before anything is published; a heartbeat goes out every `heartbeat_s`.

    `group_ms` is how long an event may wait for others to be written with it.
    """

    journal: JournalConfig = JournalConfig()
    bus: BusConfig = BusConfig()
    replay: ReplayConfig = ReplayConfig()
    heartbeat_s: float = Field(2.0, gt=0)
    group_ms: float = Field(1.0, ge=0, le=10)

    @model_validator(mode="after")
    def _replay_is_as_closed_as_the_bus(self) -> Self:
        if not is_local(self.replay.bind) and not self.bus.insecure and self.bus.keys is None:
            raise ValueError("replay.bind: only this machine's addresses, unless bus.keys or bus.insecure is set")
        return self


class _Handed(NamedTuple):
    events: Sequence[Event]
    drafts: list[bytes]
    done: "Future[list[int]]"
    epoch: int | None


class _Claimed(NamedTuple):
    call: str
    owner: str
    after: int | None
    silent_s: float
    done: "Future[Claim]"
    events: Sequence[Event] = ()


class EventHub:
    """Journal, public socket and replay socket as one.

    Raises:
        EventError: the journal cannot be opened, or an address cannot be bound.
    """

    def __init__(self, config: EventHubConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self._config = config
        self._clock = clock
        self._queue: queue.SimpleQueue[_Handed | _Claimed] = queue.SimpleQueue()
        self._next_warning = 0.0
        self.published = 0
        self.erased = 0  # events of calls that were erased, which were not stored
        self._trouble: str | None = None  # why events cannot be taken at the moment
        self._fenced: FencedError | None = None  # another hub has the journal: this one has ended
        self.failures = 0  # groups that could not be journalled
        with contextlib.ExitStack() as stack:
            self.journal = stack.enter_context(Journal(config.journal, clock=clock))
            self.owners = CallOwners(self.journal)
            self.offset = self.journal.last_offset  # of the last event that was journalled
            self.bus = stack.enter_context(EventPublisher(config.bus, self.journal.epoch, self.offset))
            self.replay = stack.enter_context(ReplayServer(config.replay, config.bus, config.journal))
            self._stack = stack.pop_all()
        self._thread = start_thread("event hub", self._run)

    def publish(self, events: Sequence[Event], epoch: int | None = None) -> "Future[list[int]]":
        """Hand events over; the offsets come when they are journalled and published. Known ids are stored once.

        An event of a call that was erased is neither stored nor published, and its offset is 0. With `epoch`, that
        of their owner, they are of one call, and taken only while it is that one's.

        The future raises EventError when one of them is no event v1, SupersededError when another owner has the
        call, and JournalError when they could not be journalled; nothing of them was published then.
        """
        done: Future[list[int]] = Future()
        try:
            self._thread.check()
            drafts = [draft(event) for event in events]  # here: the thread that writes has enough to do
        except Exception as error:  # whatever it is that was handed over: its owner is told
            done.set_exception(error)
            return done
        if self._thread.ending.is_set():
            done.set_exception(EventError("the hub is closed"))
        else:
            self._put(_Handed(events, drafts, done, epoch if events else None))
        return done

    def claim(self, call: str, owner: str, after: int | None = None, silent_s: float = LEASE_S) -> "Future[Claim]":
        """Give a call to an owner, as `CallOwners.claim`, after all that was handed over before is written."""
        done: Future[Claim] = Future()
        if self._thread.ending.is_set():
            done.set_exception(EventError("the hub is closed"))
        else:
            self._put(_Claimed(call, owner, after, silent_s, done))
        return done

    def _put(self, item: _Handed | _Claimed) -> None:
        self._queue.put(item)
        if self._fenced is not None:
            self._refuse_waiting(self._fenced)

    def progress(self, call: str) -> Progress | None:
        """How far this call has got in the journal, None where nothing of it is there; one erased has ended.

        Raises:
            JournalError: the journal cannot be read.
        """
        if self.journal.is_erased(call):
            return Progress(ended=True)
        return progress_of(self.journal.read(call=call))

    def close(self) -> None:
        """Write and publish what was handed over, then free everything."""
        if not self._thread.ending.is_set():
            self._thread.end()
            self._stack.close()

    def __enter__(self) -> "EventHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, end: threading.Event) -> None:
        try:
            self._write(end)
        except FencedError as error:
            self._fenced = error
            self._refuse_waiting(error)
            raise

    def _refuse_waiting(self, error: FencedError) -> None:
        """Whoever handed something over is told: there is nobody any more who takes it."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait().done.set_exception(error)

    def _write(self, end: threading.Event) -> None:
        next_beat = next_keep = next_upkeep = next_tidying = 0.0
        rest_s = 0.0
        while True:
            ending = end.is_set()
            group = self._gather(rest_s)
            if group:
                self._work_off(group)
            elif ending:
                return
            now = time.monotonic()
            rest_s = 0.0 if self._tried(self.bus.attend) else POLL_S
            if now >= next_keep:  # before the heartbeat: a hub that was fenced while it slept says nothing more
                next_keep = now + min(KEEP_S, self._config.heartbeat_s)
                self._tried(self._keep)
            if now >= next_beat:
                next_beat = now + self._config.heartbeat_s
                self._tried(self.bus.heartbeat)
            if now >= next_upkeep:
                more = self._tried(lambda: expire(self.journal, self._clock()))
                next_upkeep = now + (SLICE_S if more else UPKEEP_S)
            if now >= next_tidying:
                next_tidying = now + TIDYING_S
                self._tried(lambda: self.owners.tidy(self._clock()))

    def _keep(self) -> None:
        """Say that this writer lives; and whether the journal can be written, so that no event has to tell."""
        try:
            if self._trouble is None:
                self.journal.keep()
            else:
                self.journal.probe()
        except JournalError as error:
            self._trouble = str(error)
            raise
        self._trouble = None

    def _tried(self, work: Callable[[], object]) -> object:
        """What `work` gives; the hub goes on when it fails, and says so once in a while."""
        try:
            return work()
        except FencedError:
            raise  # the end of this hub: who starts it again waits for the other one's end
        except EventError as error:
            now = time.monotonic()
            if now >= self._next_warning:
                self._next_warning = now + WARNING_S
                log.warning("the hub goes on, but: %s", error)
            return None

    def _gather(self, rest_s: float) -> list[_Handed | _Claimed]:
        try:
            group = [self._queue.get(timeout=rest_s)]
        except queue.Empty:
            return []
        deadline = time.monotonic() + self._config.group_ms / 1000
        count = len(group[0].events)
        with contextlib.suppress(queue.Empty):
            while count < GROUP_EVENTS:
                if self._queue.empty():
                    group.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
                else:  # a sixth of the time, and this is the only thread that takes
                    group.append(self._queue.get_nowait())
                count += len(group[-1].events)
        return group

    def _work_off(self, group: list[_Handed | _Claimed]) -> None:
        """In the order in which it came: what an owner has written is there when the next one gets the call."""
        together: list[_Handed] = []
        try:
            for item in group:
                if isinstance(item, _Claimed):
                    self._commit(together)
                    together = []
                    self._answer(item)
                elif self._may_write(item):
                    together.append(item)
            self._commit(together)
        except FencedError as error:
            for item in group:
                if not item.done.done():
                    item.done.set_exception(error)
            raise

    def _may_write(self, item: _Handed) -> bool:
        """Whether its owner still has the call; if not, it is told."""
        try:
            if item.epoch is None or self.owners.holds(item.events[0].call, item.epoch):
                return True
            raise SupersededError("the call belongs to another process by now")
        except EventError as error:
            item.done.set_exception(error)
        return False

    def _answer(self, item: _Claimed) -> None:
        try:
            item.done.set_result(self.owners.claim(item.call, item.owner, item.after, item.silent_s))
        except FencedError:
            raise
        except Exception as error:  # whatever it is: its owner is told, and the hub goes on
            item.done.set_exception(error)

    def _commit(self, group: list[_Handed]) -> None:
        if not group:
            return
        try:
            events = [event for handed in group for event in handed.events]
            entries = self.journal.store(events, [data for handed in group for data in handed.drafts])
        except JournalError as error:
            self._fail(group, error)
            if isinstance(error, FencedError):
                raise
            return
        except Exception as error:  # whatever it is: its owner is told, and the hub goes on
            for handed in group:  # one of them is to blame: each by itself
                if len(group) > 1:
                    self._commit([handed])
                else:
                    handed.done.set_exception(error)
            return
        stored = [entry for entry in entries if entry is not NOT_STORED]
        try:
            self.bus.publish_stored(stored)
        except EventError as error:
            log.warning("journalled, but not published: %s", error)  # a subscriber sees the gap and asks
        self._trouble = None
        self.offset = max([self.offset, *(entry.offset for entry in stored)])
        self.published += len(stored)
        self.erased += len(entries) - len(stored)
        self._acknowledge(group, entries)

    def _acknowledge(self, group: list[_Handed], entries: list[Entry]) -> None:
        at = 0
        for handed in group:
            here = entries[at : at + len(handed.events)]
            at += len(here)
            if here and handed.events[-1].type == "call.end":
                self.owners.ended(handed.events[-1].call)
            handed.done.set_result([entry.offset for entry in here])

    def _fail(self, group: list[_Handed], error: JournalError) -> None:
        self.failures += 1
        self._trouble = str(error)
        if not isinstance(error, FencedError):
            with contextlib.suppress(EventError):
                self.bus.degraded(str(error))
        for handed in group:
            handed.done.set_exception(error)

    @property
    def waiting(self) -> int:
        """Handed-over groups of events that wait to be journalled."""
        return self._queue.qsize()

    def stats(self) -> dict[str, Any]:
        """What there is to know of it; with `not_ready`, a reason, while it cannot do its work."""
        trouble = self._trouble or self.bus.trouble
        return {
            **({"ready": False, "not_ready": trouble} if trouble else {}),
            "events": self.published,
            "offset": self.offset,
            "epoch": self.journal.epoch,
            "subscribers": self.bus.subscribers,
            "replays": self.replay.running,
            "replays_given_up": self.replay.given_up,
            "answers_missed": self.replay.answers_missed,
            "failures": self.failures,
            "erased": self.erased,
            "refused": self.replay.refused + self.bus.refused,
        }
