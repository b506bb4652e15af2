"""Threads and tasks: none of them fails or ends unseen."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from bcaf_stream.errors import LoopError
from bcaf_stream.loops import (
    EXIT_CODE,
    FaultCounter,
    beside,
    faults,
    spawn_task,
    spawn_thread,
    start_task,
    start_thread,
    watch_event_loop,
    where_of,
)
from tests.waiting import eventually

WORDS = "my card number is"


class Deaths:
    """An `on_death` that can be waited for."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, BaseException | None]] = []
        self.event = threading.Event()

    def __call__(self, name: str, error: BaseException | None) -> None:
        self.seen.append((name, error))
        self.event.set()


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


def fail(*_: object) -> None:
    raise ValueError(WORDS)


def test_a_thread_that_is_asked_to_end_does_not_die(deaths: Deaths):
    thread = start_thread("some loop", lambda ending: ending.wait() and None, deaths)
    thread.check()
    assert thread.end(10)
    thread.check()
    assert deaths.seen == []


@pytest.mark.parametrize(("run", "error"), [(fail, ValueError), (lambda _: None, type(None))])
def test_a_thread_that_ends_by_itself_dies_and_its_owner_is_told(
    deaths: Deaths, run: Callable[[threading.Event], None], error: type
):
    thread = start_thread("some loop", run, deaths)
    assert deaths.event.wait(10)
    assert [(name, type(why)) for name, why in deaths.seen] == [("some loop", error)]
    with pytest.raises(LoopError, match="some loop has stopped") as caught:
        thread.check()
    assert WORDS not in str(caught.value)
    assert thread.end(10)
    thread.check()  # it is closed now


def test_a_thread_may_end_itself_through_its_owner(deaths: Deaths):
    ready = threading.Event()

    def run(ending: threading.Event) -> None:
        ready.wait(10)
        thread.end()

    thread = start_thread("some loop", run, deaths)
    ready.set()
    assert thread.end(10)
    assert deaths.seen == []


def test_a_failure_while_ending_is_counted(deaths: Deaths):
    def run(ending: threading.Event) -> None:
        ending.wait()
        fail()

    thread = start_thread("a loop that fails at its end", run, deaths)
    thread.end(10)
    assert deaths.seen == []
    assert faults.counts["a loop that fails at its end"] == 1


async def forever() -> None:
    await asyncio.Event().wait()


async def failing() -> None:
    fail()


async def returning() -> None: ...


async def cancelled_inside() -> None:
    """What it waits for is cancelled; nobody cancelled the task itself."""
    waited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(waited.cancel)
    await waited


def test_a_task_that_its_owner_cancels_does_not_die(deaths: Deaths):
    async def scene() -> None:
        task = start_task("some loop", forever(), deaths)
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    assert deaths.seen == []


@pytest.mark.parametrize(
    ("loop", "error"),
    [(failing, ValueError), (returning, type(None)), (cancelled_inside, asyncio.CancelledError)],
)
def test_a_task_that_ends_by_itself_dies(
    deaths: Deaths, loop: Callable[[], Coroutine[Any, Any, None]], error: type
):
    async def scene() -> None:
        task = start_task("some loop", loop(), deaths)
        await asyncio.wait({task})
        await asyncio.sleep(0)  # its callbacks run behind it

    asyncio.run(scene())
    assert [(name, type(why)) for name, why in deaths.seen] == [("some loop", error)]


def test_a_death_is_logged_without_content(caplog: pytest.LogCaptureFixture):
    thread = start_thread("some loop", fail)
    for _ in range(100):
        thread._thread.join(0.1)
        if not thread._thread.is_alive():
            break
    (record,) = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert "some loop" in record.getMessage()
    assert "ValueError at test_loops.py:" in record.getMessage()
    assert WORDS not in caplog.text


SCRIPT = """
import asyncio, threading, time
from bcaf_stream.loops import exit_on_death, start_task, start_thread
exit_on_death()
def fail(*_): raise ValueError({words!r})
async def fail_later(): fail()
async def scene():
    start_task("some loop", fail_later())
    await asyncio.sleep(60)
{begin}
time.sleep(60)
"""


@pytest.mark.parametrize("begin", ['start_thread("some loop", fail)', "asyncio.run(scene())"])
def test_a_death_takes_a_process_of_ours_down(begin: str):
    script = SCRIPT.format(words=WORDS, begin=begin)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == EXIT_CODE
    assert "its loop 'some loop' ended: ValueError" in done.stderr
    assert WORDS not in done.stderr


def test_spawned_work_that_fails_is_counted():
    async def scene() -> None:
        task = spawn_task("a spawned task", failing())
        fine = spawn_task("a fine task", returning())
        given_up = spawn_task("a task given up", forever())
        given_up.cancel()
        await asyncio.wait({task, fine, given_up})
        await asyncio.sleep(0)

    asyncio.run(scene())
    spawn_thread("a spawned thread", fail).join(10)
    assert faults.counts["a spawned task"] == faults.counts["a spawned thread"] == 1
    assert not {"a fine task", "a task given up"} & set(faults.counts)


def test_beside_is_over_with_its_block_and_keeps_no_secret():
    async def scene() -> None:
        async with beside("beside one", forever()) as task:
            pass
        assert task.cancelled()
        with pytest.raises(ValueError, match=WORDS):
            async with beside("beside two", failing()) as task:
                await task
        async with beside("beside three", failing()):
            await asyncio.sleep(0)
        with suppress(KeyError):
            async with beside("beside four", failing()):
                await asyncio.sleep(0)
                raise KeyError

    asyncio.run(scene())
    counted = {where for where in faults.counts if where.startswith("beside")}
    assert counted == {"beside three", "beside four"}


def test_the_event_loop_reports_without_content(caplog: pytest.LogCaptureFixture):
    before = faults.counts.get("event loop", 0)

    async def scene() -> None:
        watch_event_loop()
        asyncio.get_running_loop().call_soon(fail, WORDS)
        await eventually(lambda: faults.counts.get("event loop", 0) > before)

    asyncio.run(scene())
    assert faults.counts["event loop"] == before + 1
    assert WORDS not in caplog.text


def test_faults_are_logged_once_in_a_while_and_all_counted(caplog: pytest.LogCaptureFixture):
    now = [0.0]
    counter = FaultCounter(log_every_s=10, clock=lambda: now[0])
    for _ in range(1000):
        counter.count("request", KeyError(WORDS))
    counter.count("other", KeyError(WORDS))
    now[0] = 10.0
    counter.count("request", KeyError(WORDS))
    assert counter.counts == {"request": 1001, "other": 1}
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "request failed: KeyError",
        "other failed: KeyError",
        "request failed: KeyError (999 more since the last line)",
    ]


def test_an_error_is_named_by_type_and_line():
    with pytest.raises(ValueError, match=WORDS) as caught:
        fail()
    assert where_of(caught.value).startswith("ValueError at test_loops.py:")
    assert where_of(None) == "it returned"
