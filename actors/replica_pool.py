"""The caller's side of replicas: asks the least loaded one, and another one when it dies or hangs."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError

from actors.policy import Replica, choose, rest_s
from actors.readiness import NotReadyError
from bcaf_stream.errors import DeploymentError

PATIENCE_S = 5.0  # for an answer, before the replica is asked whether it is still at work
PONG_S = 2.0  # for its answer to that


class _HungError(Exception):
    """The replica is silent, or its engine is stuck."""


class ReplicaPool:
    """Asks whichever replica lives. A request carries all that its answer depends on, so asking twice is harmless.

    Args:
        name: what they are called in messages.
        handles: of actors of one kind (see ReplicaActor).
        retry_s: for how long a request looks for a replica; a batch that takes longer is a stuck one.
    """

    def __init__(self, name: str, handles: list[Any], retry_s: float) -> None:
        self._name = name
        self._handles = handles
        self._retry_s = retry_s
        self._replicas = [Replica(0) for _ in handles]
        self._failures = [0] * len(handles)
        self.failovers = 0

    async def describe(self) -> dict[str, Any]:
        """What the first replica that is ready says of its model."""
        asked = [asyncio.wrap_future(handle.ready.remote().future()) for handle in self._handles]
        try:
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            described: dict[str, Any] = done.pop().result()
            return described
        finally:
            for answer in asked:
                answer.cancel()

    async def ask(self, method: str, *args: Any) -> Any:
        """What the method of a replica gives. Raises as `ask_for`."""
        return await self.ask_for(method, lambda: args)

    async def ask_for(self, method: str, arguments: Callable[[], tuple[Any, ...]]) -> Any:
        """The same; `arguments` is called at each try, for what is wanted may change meanwhile.

        Raises:
            DeploymentError: no replica answered for `retry_s`.
            BcafError: as the method does.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._retry_s
        while True:
            i = choose(self._replicas, loop.time())
            await asyncio.sleep(max(0.0, self._replicas[i].resting_until - loop.time()))
            try:
                return await self._ask(i, method, arguments())
            except (RayActorError, NotReadyError, _HungError):
                self.failovers += 1
                self._failures[i] += 1
                rest = loop.time() + rest_s(self._failures[i])
                self._replicas[i] = replace(self._replicas[i], resting_until=rest)
                if loop.time() > give_up:
                    message = f"no {self._name} actor answered for {self._retry_s:g} s; see bcaf-serve status"
                    raise DeploymentError(message) from None

    async def _ask(self, i: int, method: str, args: tuple[Any, ...]) -> Any:
        self._replicas[i] = replace(self._replicas[i], outstanding=self._replicas[i].outstanding + 1)
        try:
            answer = await self._answer(i, getattr(self._handles[i], method).remote(*args))
        finally:
            self._replicas[i] = replace(self._replicas[i], outstanding=self._replicas[i].outstanding - 1)
        self._failures[i] = 0
        return answer

    async def _answer(self, i: int, asked: Any) -> Any:
        """The answer, however long it takes a replica that is at work; raises _HungError where it is not."""
        future = asyncio.wrap_future(asked.future())
        try:
            while True:
                done, _ = await asyncio.wait({future}, timeout=PATIENCE_S)
                if done:
                    return future.result()
                await self._check_at_work(i)
        finally:
            future.cancel()

    async def _check_at_work(self, i: int) -> None:
        try:
            async with asyncio.timeout(PONG_S):
                busy_s: float = await self._handles[i].busy_s.remote()
        except TimeoutError:
            raise _HungError from None
        if busy_s > self._retry_s:
            raise _HungError
