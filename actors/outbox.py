"""The events of one call on their way to the hub: in order, and all of them, whatever becomes of the call."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from actors import tracing
from bcaf_stream.events.event import Event
from bcaf_stream.loops import spawn_task


class Mark(NamedTuple):
    """How far a call has got when events were written; see `Conversation` for both."""

    analysed_ms: int
    unsettled_ms: int


class Outbox:
    """`safe` is how far the call has got with all of its events journalled.

    Args:
        publish: hands events over; returns when they are journalled.
        changed: is called when `safe` or `error` has changed.
    """

    def __init__(
        self, publish: Callable[[Sequence[Event]], Awaitable[object]], changed: Callable[[], None]
    ) -> None:
        self._publish = publish
        self._changed = changed
        self._events: list[Event] = []
        self._mark = self.safe = Mark(0, 0)
        self._task: asyncio.Task[None] | None = None
        self.error: Exception | None = None  # what kept the hub from taking events
        self.since_s: float | None = None  # when what is under way was handed over

    def __len__(self) -> int:
        return len(self._events)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits or is under way."""
        return not self._events and self._task is None

    def put(self, events: Sequence[Event], mark: Mark) -> None:
        """Take what comes next. After an error nothing is handed over until `flush`."""
        self._events += events
        self._mark = mark
        if self._events:
            self._start()
        elif self._task is None:
            self._note(mark)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all is handed over, and try once more what failed; whether it succeeded in that time."""
        if self.error is not None:
            self.error = None
            self._start()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout_s)
        return self._task is None and self.error is None

    def _start(self) -> None:
        if self._task is None and self.error is None:
            self._task = spawn_task("events of a call", self._hand_over())

    async def _hand_over(self) -> None:
        try:
            while self._events:
                events, self._events, mark = self._events, [], self._mark
                handed_ns = time.time_ns()
                self.since_s = asyncio.get_running_loop().time()
                try:
                    await self._publish(events)
                except BaseException:
                    self._events = [*events, *self._events]
                    raise
                tracing.journalled(events, handed_ns)
                self._note(mark)
        except Exception as error:
            self.error = error
        finally:
            self.since_s = None
            self._task = None
            self._note(self.safe if self._events else self._mark)

    def _note(self, safe: Mark) -> None:
        self.safe = safe
        self._changed()
