"""Keeps store and board up to date with a hub: two threads, one that follows the stream, one that looks after it.

The second one asks the hub what its journal still holds. What was erased there, or is not kept any longer, is
forgotten here too; a journal that is another one than before begins everything anew. A hub that goes away is
waited for, and the page is told since when.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bcaf_stream.errors import EventError
from bcaf_stream.events.event import EVERYTHING, topic_prefix
from bcaf_stream.events.inventory import Inventory
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.loops import start_thread
from bcaf_stream.monitor.board import Board
from bcaf_stream.monitor.config import HubAddress
from bcaf_stream.monitor.store import Store

TAKE = 1000  # events in one transaction
WAIT_S = 0.1
LOOK_S = 2.0
CHECK_S, CHECK_SHARE = (
    5.0,
    50,
)  # how often the journal is counted: so that it costs the hub 2 % of a thread at most
TOPICS_AT_ONCE = 500
MOST_FORGOTTEN = 10_000  # names that are kept for pages that have not been told; a page beyond begins anew


class Follower:
    """Runs from its construction until `close`.

    `generation` grows when everything begins anew, `reached` is the offset up to which everything is in the store.

    Raises:
        EventError: an address or the key is none.
    """

    def __init__(self, hub: HubAddress, store: Store, board: Board) -> None:
        self._hub, self._store, self._board = hub, store, board
        self.lock = threading.RLock()
        """Held while store and board change together."""
        self.generation = 0
        self.reached = 0
        self.last = 0  # of the journal, when it was last asked
        self.journal: str | None = None
        self.trouble: str | None = None
        self.trouble_since: float | None = None
        self.refusal: str | None = None  # why the hub gives no events, although it answers
        self.hub_trouble: str | None = None  # what the hub itself says
        self.forgotten: deque[str] = deque(maxlen=MOST_FORGOTTEN)
        """The last calls that were forgotten, in their order; `forgotten_count` counts all of them."""
        self.forgotten_count = 0
        self._begin_anew, self._looked = threading.Event(), threading.Event()
        self._topics = list(hub.topics or (EVERYTHING,))
        self._inventory = Inventory(hub.replay, hub.key)  # here: what is wrong with it is said at once
        self._threads = [
            start_thread("monitor events", self._follow),
            start_thread("monitor inventory", self._look_after),
        ]

    def check(self) -> None:
        """Raises LoopError when it follows no more."""
        for thread in self._threads:
            thread.check()

    def close(self) -> None:
        for thread in self._threads:
            thread.ending.set()
        for thread in self._threads:
            thread.end()

    def status(self) -> dict[str, Any]:
        """What the page says of the connection to the hub."""
        away = self.trouble_since and int(time.time() - self.trouble_since)
        return {
            "reached": self.reached,
            "last": max(self.last, self.reached),
            "trouble": self.trouble or self.refusal,
            "away_s": away,
            "hub": self.hub_trouble,
        }

    def _follow(self, ending: threading.Event) -> None:
        while not ending.is_set():
            since_s = max(0.0, time.time() - self._hub.history_days * 86_400)
            since = datetime.fromtimestamp(since_s, UTC).isoformat()
            try:
                with EventSubscriber(
                    self._hub.events, self._hub.replay, self._topics, since, key=self._hub.key
                ) as subscriber:
                    while not ending.is_set() and not self._begin_anew.is_set():
                        self._take(subscriber)
            except EventError as error:  # another journal, or a hub that refuses; it may be right again later
                self.refusal = str(error)
                self._looked.clear()
                while not ending.is_set() and not self._looked.wait(WAIT_S):
                    pass
            if self._begin_anew.is_set():
                self._begin_anew.clear()
                self._clear()

    def _take(self, subscriber: EventSubscriber) -> None:
        events = subscriber.receive_many(TAKE, WAIT_S)
        self.refusal = None
        with self.lock:
            new = self._store.add(events)
            self._board.apply(new)
            if new:
                self.hub_trouble = None
            for event in events:
                if not event.call and event.type == "degraded":
                    self.hub_trouble = event.reason
            if len(events) < TAKE:
                self.reached = max(self.reached, subscriber.offset)
            elif events[-1].offset is not None and self._topics == [EVERYTHING] and self._hub.key is None:
                self.reached = max(self.reached, events[-1].offset)
            self._board.refresh(time.time_ns(), time.monotonic())

    def _clear(self) -> None:
        with self.lock:
            self._store.clear()
            self._board.forget(list(self._board.rows))
            self.generation += 1
            self.reached = 0

    def _look_after(self, ending: threading.Event) -> None:
        next_check = 0.0
        with self._inventory as inventory:
            while not ending.wait(LOOK_S if self.journal else WAIT_S):
                try:
                    extent = inventory.extent()
                    if self.journal not in (None, extent.journal):
                        self._begin_anew.set()
                    self.journal, self.last = extent
                    self._looked.set()
                    self.trouble = self.trouble_since = None
                    began = time.monotonic()
                    if began >= next_check:
                        self._compare(inventory)
                        now = time.monotonic()
                        next_check = now + max(CHECK_S, CHECK_SHARE * (now - began))
                except EventError as error:
                    self._in_trouble(str(error))

    def _in_trouble(self, what: str) -> None:
        self.trouble = what
        self.trouble_since = self.trouble_since or time.time()

    def _compare(self, inventory: Inventory) -> None:
        """Forget what the journal has not any more."""
        with self.lock:
            to, generation = self.reached, self.generation
            here, first = self._store.count_to(to), self._store.first_offset
        if not here or inventory.count(self._topics, to, first - 1) == here:
            return
        kept = self._first_kept(inventory, first, to)
        with self.lock:
            if generation != self.generation:
                return
            gone = self._store.forget_before(kept) if kept > first else []
            self._board.forget(gone)
            self._note(gone)
            calls = list(self._store.counts)
        for at in range(0, len(calls), TOPICS_AT_ONCE):
            self._drop_erased(inventory, calls[at : at + TOPICS_AT_ONCE], to)

    def _first_kept(self, inventory: Inventory, first: int, to: int) -> int:
        """The offset of the first event of ours that the journal still has: retention takes the oldest."""
        low, high = first, to + 1
        while low < high:
            middle = (low + high) // 2
            if inventory.count(self._topics, middle, first - 1):
                high = middle
            else:
                low = middle + 1
        return low

    def _drop_erased(self, inventory: Inventory, calls: Sequence[str], to: int) -> None:
        """Forget those of these calls that the journal has nothing of, which halving the list finds."""
        with self.lock:
            here = self._store.counts_to(to, calls)
        if not here:
            return
        there = inventory.count([topic_prefix(call) for call in calls], to)
        if not there:
            with self.lock:
                self._store.forget(calls)
                self._board.forget(calls)
                self._note(calls)
        elif there < here and len(calls) > 1:
            middle = len(calls) // 2
            self._drop_erased(inventory, calls[:middle], to)
            self._drop_erased(inventory, calls[middle:], to)

    def _note(self, calls: Sequence[str]) -> None:
        self.forgotten.extend(calls)
        self.forgotten_count += len(calls)
