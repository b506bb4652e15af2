"""How an actor starts: each step is tried until it succeeds, and meanwhile the actor says what it waits for.

What a start needs may be missing for a moment (a port, room on the disk, a checkpoint on a network drive). A
constructor that raises is the end of an actor, whatever `max_restarts` says; so constructors here do not raise.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypeVar

from ray.exceptions import RayError

from actors.policy import rest_s
from bcaf_stream.errors import BcafError, DeploymentError
from bcaf_stream.loops import where_of

log = logging.getLogger(__name__)

T = TypeVar("T")


class NotReadyError(DeploymentError):
    """The actor lives and cannot work yet: ask again later, or another one."""


class Readiness:
    """Why an actor cannot work yet (`reason`; None: it can)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._error: BcafError | None = None
        self._news = asyncio.Event()
        self.reason: str | None = "starting"

    @property
    def stats(self) -> dict[str, Any]:
        state = {"ready": True} if self.reason is None else {"ready": False, "not_ready": self.reason}
        return {**state, "pid": os.getpid()}

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, after as many attempts as it takes."""
        for failures in count(1):
            try:
                return await work()
            except Exception as error:  # whatever it is: the next attempt may succeed, and it is said meanwhile
                self._failed(error)
            await asyncio.sleep(rest_s(failures))
        raise AssertionError

    def done(self) -> None:
        """Take note that the actor can work."""
        if self._error is not None:
            log.warning("%s: ready after all", self._name)
        self.reason = self._error = None
        self._news.set()

    def check(self) -> None:
        """Raises NotReadyError."""
        if self.reason is not None:
            raise NotReadyError(f"{self._name} is not ready: {self.reason}")

    async def wait(self, first: bool) -> None:
        """Wait until the actor can work; with `first`, raise what is in the way, as a wrong configuration is."""
        while self.reason is not None:
            if first and self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, RayError):
            reason = f"waits for another actor ({type(error).__name__})"  # which says by itself what is wrong
        else:
            reason = str(error).splitlines()[0] if isinstance(error, BcafError) else _place(error)
            self._error = error if isinstance(error, BcafError) else DeploymentError(f"{self._name}: {reason}")
        if reason != self.reason:
            log.warning("%s is not ready: %s", self._name, reason)
        self.reason = reason
        self._news.set()


def _place(error: Exception) -> str:
    system = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    return where_of(error) + system
