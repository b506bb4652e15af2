"""How a test waits: for a condition with a deadline, or for a stretch of time that is itself what is tested.

Nothing else in the tests sleeps (test_architecture.py), so no test hopes that a pause was long enough.
"""

import asyncio
import time
from collections.abc import Callable

WAIT_S = 20.0  # only a failing test waits that long


def until(true: Callable[[], object], seconds: float = WAIT_S, *, what: str = "the condition") -> None:
    """Wait until a condition holds; AssertionError behind the deadline."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds:g} s"
        time.sleep(0.005)


async def eventually(true: Callable[[], object], seconds: float = WAIT_S, *, what: str = "the condition") -> None:
    """The same in an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds:g} s"
        await asyncio.sleep(0.002)


def elapse(seconds: float, because: str) -> None:
    """Let time pass that is part of what is tested: how long a fault lasts, a sender's pace, a stated limit."""
    assert because
    time.sleep(seconds)


async def elapsing(seconds: float, because: str) -> None:
    """The same in an event loop."""
    assert because
    await asyncio.sleep(seconds)
