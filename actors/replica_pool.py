"""The caller's side of replicas: asks the least loaded one, and another one when it dies or hangs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ray.exceptions import RayActorError

from actors.policy import Replica, choose, rest_s
from actors.readiness import NotReadyError
from bcaf_stream.errors import DeploymentError

PATIENCE_S = 5.0  # for an answer, before the replica is asked whether it is still at work
PONG_S = 2.0  # for its answer to that


class _HungError(Exception):
    """The replica is silent, or its engine is stuck."""


@dataclass(eq=False)
class _Member:
    handle: Any
    state: Replica = field(default_factory=lambda: Replica(0))
    failures: int = 0


class ReplicaPool:
    """Asks whichever replica lives. A request carries all that its answer depends on, so asking twice is harmless.

    Args:
        name: what they are called in messages.
        handles: of actors of one kind (see ReplicaActor), by name.
        retry_s: for how long a request looks for a replica; a batch that takes longer is a stuck one.
    """

    def __init__(self, name: str, handles: Mapping[str, Any], retry_s: float) -> None:
        self._name = name
        self._members = {each: _Member(handle) for each, handle in handles.items()}
        self._retry_s = retry_s
        self.failovers = 0

    @property
    def names(self) -> set[str]:
        return set(self._members)

    def use(self, names: Sequence[str], new: Mapping[str, Any]) -> None:
        """Ask these from now on, `new` ones among them; what the others were asked, they answer."""
        known = self._members | {name: _Member(handle) for name, handle in new.items()}
        self._members = {name: known[name] for name in names}

    async def describe(self) -> dict[str, Any]:
        """What the first replica that is ready says of its model."""
        handles = [member.handle for member in self._members.values()]
        asked = [asyncio.wrap_future(handle.ready.remote().future()) for handle in handles]
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
            members = list(self._members.values())
            member = members[choose([each.state for each in members], loop.time())]
            await asyncio.sleep(max(0.0, member.state.resting_until - loop.time()))
            try:
                return await self._ask(member, method, arguments())
            except (RayActorError, NotReadyError, _HungError):
                self.failovers += 1
                member.failures += 1
                rest = loop.time() + rest_s(member.failures)
                member.state = replace(member.state, resting_until=rest)
                if loop.time() > give_up:
                    message = f"no {self._name} actor answered for {self._retry_s:g} s; see bcaf-serve status"
                    raise DeploymentError(message) from None

    async def _ask(self, member: _Member, method: str, args: tuple[Any, ...]) -> Any:
        member.state = replace(member.state, outstanding=member.state.outstanding + 1)
        try:
            answer = await self._answer(member, getattr(member.handle, method).remote(*args))
        finally:
            member.state = replace(member.state, outstanding=member.state.outstanding - 1)
        member.failures = 0
        return answer

    async def _answer(self, member: _Member, asked: Any) -> Any:
        """The answer, however long it takes a replica that is at work; raises _HungError where it is not."""
        future = asyncio.wrap_future(asked.future())
        try:
            while True:
                done, _ = await asyncio.wait({future}, timeout=PATIENCE_S)
                if done:
                    return future.result()
                await self._check_at_work(member)
        finally:
            future.cancel()

    async def _check_at_work(self, member: _Member) -> None:
        try:
            async with asyncio.timeout(PONG_S):
                busy_s: float = await member.handle.busy_s.remote()
        except TimeoutError:
            raise _HungError from None
        if busy_s > self._retry_s:
            raise _HungError
