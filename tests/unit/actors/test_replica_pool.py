"""A replica that hangs holds nobody: it is asked whether it is at work, and another one is asked instead."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from actors import replica_pool
from actors.replica_pool import ReplicaPool
from bcaf_stream.errors import DeploymentError
from tests.unit.actors.local_actor import Handle
from tests.waiting import elapsing


class Replica:
    """`hung`: nothing of it answers; `stuck`: its engine does not; `works_s`: how long it takes to answer."""

    def __init__(self, name: str, hung: bool = False, stuck: bool = False, works_s: float = 0.0) -> None:
        self.name, self.hung, self.stuck, self.works_s = name, hung, stuck, works_s

    async def judge(self) -> str:
        if self.hung or self.stuck:
            await asyncio.Event().wait()
        await elapsing(self.works_s, "how long the engine works")
        return self.name

    async def busy_s(self) -> float:
        if self.hung:
            await asyncio.Event().wait()
        return 3600.0 if self.stuck else 0.1


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_pool, "PATIENCE_S", 0.05)
    monkeypatch.setattr(replica_pool, "PONG_S", 0.05)


def pool_of(*replicas: Replica, retry_s: float = 10.0) -> ReplicaPool:
    return ReplicaPool("emotion", {replica.name: Handle(replica) for replica in replicas}, retry_s)


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await script()

    asyncio.run(in_time())


@pytest.mark.parametrize("fault", [{"hung": True}, {"stuck": True}])
def test_another_one_answers_for_a_replica_that_hangs(fault: dict[str, bool]):
    async def script() -> None:
        pool = pool_of(Replica("first", **fault), Replica("second"))
        answers = await asyncio.gather(*(pool.ask("judge") for _ in range(8)))
        assert set(answers) == {"second"}
        assert pool.failovers >= 1

    run(script)


def test_a_replica_that_is_at_work_is_waited_for():
    async def script() -> None:
        pool = pool_of(Replica("slow", works_s=0.5))  # ten times the patience
        assert await pool.ask("judge") == "slow"
        assert pool.failovers == 0

    run(script)


def test_where_all_hang_the_caller_is_told_and_goes_on():
    async def script() -> None:
        pool = pool_of(Replica("first", hung=True), Replica("second", stuck=True), retry_s=0.3)
        with pytest.raises(DeploymentError, match=r"no emotion actor answered for 0\.3 s"):
            await pool.ask("judge")

    run(script)
