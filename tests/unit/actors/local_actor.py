"""An actor of this process in the place of one of Ray's."""

import asyncio
from collections.abc import Callable
from typing import Any


class Handle:
    """An actor of this process, asked as one of Ray's."""

    def __init__(self, actor: object) -> None:
        self.actor = actor

    def __getattr__(self, method: str) -> "Method":
        return Method(getattr(self.actor, method))


class Method:
    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def remote(self, *arguments: Any) -> "Asked":
        return Asked(self._call(*arguments))


class Asked:
    def __init__(self, work: Any) -> None:
        self._loop, self._work = asyncio.get_running_loop(), work

    def future(self) -> Any:
        return asyncio.run_coroutine_threadsafe(self._work, self._loop)

    def __await__(self) -> Any:
        return self._work.__await__()
