"""What a door must not leave behind: tasks of the loop, and sockets of the process."""

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

WAIT_S = 10.0  # only a failing test waits that long
Held = tuple[set[asyncio.Task[Any]], int]


def held_now() -> Held:
    """The tasks and sockets that there are."""
    return asyncio.all_tasks(), open_sockets()


def assert_nothing_left(before: Held) -> None:
    """Nothing that was not there before is there now."""
    assert asyncio.all_tasks() == before[0], "close must leave no task"
    assert open_sockets() <= before[1], "close must leave no socket"  # one of another test may go meanwhile


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
