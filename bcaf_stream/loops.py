"""Every thread and task of the product begins here, so that none of them can fail or end unseen.

    start_thread, start_task    a loop that its process exists for: it ends when its owner ends it, and only then
    spawn_thread, spawn_task    work that ends by itself and on which nothing else depends: one call, one request
    beside                      a task for as long as a block lasts
    faults.count                an error of one call or request, inside of a loop that goes on with the next one

A loop that ends by itself or by an exception is a death. What follows is the process's choice: a process of ours
(`exit_on_death()`) says so in one line and ends with code 70, for whoever watches it to start it again; in another
program, which is the default, the line is logged and `LoopThread.check` raises at the owner's next call.

Errors are logged by type and place in the code, never by their message, which may hold words of a call.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from bcaf_stream.errors import LoopError

log = logging.getLogger(__name__)

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
LOG_EVERY_S = 10.0

T = TypeVar("T")
OnDeath = Callable[[str, BaseException | None], None]  # the loop's name; None: it returned


def where_of(error: BaseException | None) -> str:
    """The type of an error and the line that raised it; nothing of its message."""
    if error is None:
        return "it returned"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


class FaultCounter:
    """Counts errors by where they happened, and logs the first of each place and then one line every while."""

    def __init__(self, log_every_s: float = LOG_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._log_every_s = log_every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, int] = defaultdict(int)
        self._logged: dict[str, tuple[float, int]] = {}  # when, and how many there were

    @property
    def counts(self) -> dict[str, int]:
        """A copy; `where` -> how many."""
        with self._lock:
            return dict(self._counts)

    def count(self, where: str, error: BaseException) -> None:
        """`where` is one of few fixed names ("replay request"), never a call's."""
        now = self._clock()
        with self._lock:
            self._counts[where] += 1
            number = self._counts[where]
            at, before = self._logged.get(where, (-float("inf"), 0))
            if now - at < self._log_every_s:
                return
            self._logged[where] = (now, number)
        more = f" ({number - before - 1} more since the last line)" if number - before > 1 else ""
        log.warning("%s failed: %s%s", where, where_of(error), more)


faults = FaultCounter()  # of this process; its actors show them in their stats


def _log_death(name: str, error: BaseException | None) -> None:
    log.critical("the loop %r ended and was not asked to: %s", name, where_of(error))


def _exit(name: str, error: BaseException | None) -> None:
    _log_death(name, error)
    line = f"process {os.getpid()} ends with code {EXIT_CODE}: its loop {name!r} ended: {where_of(error)}\n"
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    finally:
        os._exit(EXIT_CODE)  # at once: whatever else runs here would go on without its loop


_on_death: OnDeath = _log_death


def exit_on_death() -> None:
    """From now on a loop that dies takes this process with it."""
    global _on_death
    _on_death = _exit


class LoopThread:
    """A thread that runs until `end`; `run` gets an event that is set then, and returns soon after."""

    def __init__(self, name: str, run: Callable[[threading.Event], None], on_death: OnDeath | None = None) -> None:
        self.name = name
        self.ending = threading.Event()
        self._run = run
        self._on_death = on_death
        self._error: BaseException | None = None
        self._over = False
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LoopError when the loop is dead; for the calls of its owner that need it."""
        if self._over and not self.ending.is_set():
            raise LoopError(f"{self.name} has stopped: {where_of(self._error)}; close it and open it again")

    def end(self, timeout_s: float | None = None) -> bool:
        """Ask it to end and wait; whether it did. Its own thread may ask, and does not wait."""
        self.ending.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _guarded(self) -> None:
        try:
            self._run(self.ending)
        except BaseException as error:  # whatever it is, it must be seen
            self._error = error
        asked = self.ending.is_set()
        self._over = True
        if not asked:
            (self._on_death or _on_death)(self.name, self._error)
        elif self._error is not None:
            faults.count(self.name, self._error)


def start_thread(name: str, run: Callable[[threading.Event], None], on_death: OnDeath | None = None) -> LoopThread:
    """Start a loop that its process exists for. `on_death` takes the place of the process's choice."""
    return LoopThread(name, run, on_death)


_tasks: set[asyncio.Task[Any]] = set()  # the event loop itself keeps weak references only


def start_task(name: str, loop: Coroutine[Any, Any, None], on_death: OnDeath | None = None) -> asyncio.Task[None]:
    """Start a loop that its process exists for, on the running event loop; its owner ends it by `cancel`."""

    def over(task: asyncio.Task[None]) -> None:
        _tasks.discard(task)
        if task.cancelled():
            if not task.cancelling():  # something that it waited for was cancelled, not the task
                (on_death or _on_death)(name, asyncio.CancelledError())
        else:
            (on_death or _on_death)(name, task.exception())

    return _started(name, loop, over)


def spawn_task(where: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start work that ends by itself; an exception that leaves it is counted at `where`, whoever awaits it too."""

    def over(task: asyncio.Task[T]) -> None:
        _tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            faults.count(where, error)

    return _started(where, work, over)


def _started(name: str, work: Coroutine[Any, Any, T], over: Callable[[asyncio.Task[T]], None]) -> asyncio.Task[T]:
    task = asyncio.create_task(work, name=name)
    _tasks.add(task)
    task.add_done_callback(over)
    return task


def spawn_thread(where: str, work: Callable[[], None]) -> threading.Thread:
    """Start work that ends by itself on a thread; an exception that leaves it is counted at `where`."""

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            faults.count(where, error)

    thread = threading.Thread(target=guarded, name=where, daemon=True)
    thread.start()
    return thread


@asynccontextmanager
async def beside(where: str, work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` beside a block, which may await the task; it is cancelled, and over, when the block is.

    An exception of it that the block does not raise itself is counted at `where`.
    """
    task = asyncio.create_task(work, name=where)
    raised: BaseException | None = None
    try:
        yield task
    except BaseException as error:
        raised = error
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        failure = None if task.cancelled() else task.exception()
        if failure is not None and failure is not raised:
            faults.count(where, failure)


def watch_event_loop() -> None:
    """Count what the running event loop would report by itself: failed callbacks, exceptions that nobody saw."""

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        faults.count("event loop", context.get("exception") or RuntimeError())

    asyncio.get_running_loop().set_exception_handler(report)
