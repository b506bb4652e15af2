"""What a server must not leave behind: tasks of the loop, and sockets of the process."""

import asyncio
import gc
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

WAIT_S = 10.0  # only a failing test waits that long
Held = tuple[set[asyncio.Task[Any]], int]


def held_before() -> Held:
    """What there is before a test, without what one before it forgot to close, which could go meanwhile."""
    gc.collect()
    return held_now()


def held_now() -> Held:
    """The tasks and sockets that there are."""
    return asyncio.all_tasks(), open_sockets()


def assert_nothing_left(before: Held) -> None:
    """What is there now is what was there before."""
    assert held_now() == before, "close must leave no task and no socket"


def open_sockets() -> int:
    count = 0
    for descriptor in range(1000):
        with suppress(OSError):
            count += stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return count


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(3 * WAIT_S):
            await scene()

    asyncio.run(in_time())
