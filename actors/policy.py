"""Decisions of the deployment as pure functions; `pool.py`, `readiness.py` and `supervisor.py` carry them out."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replica:
    """What the caller knows of one of them: its unanswered requests, and until when to leave it alone."""

    outstanding: int
    resting_until: float = 0.0


def choose(replicas: Sequence[Replica], now: float) -> int:
    """The replica to ask: the least loaded that answers; if all rest, the one that rests the shortest."""
    awake = [i for i, replica in enumerate(replicas) if replica.resting_until <= now]
    if awake:
        return min(awake, key=lambda i: (replicas[i].outstanding, i))
    return min(range(len(replicas)), key=lambda i: (replicas[i].resting_until, i))


def rest_s(failures: int) -> float:
    """How long to leave a replica alone after its n-th failure in a row: 0.25 s doubling to 4 s."""
    return min(4.0, 0.25 * 2 ** max(0, failures - 1))


def restart_s(failures: int) -> float:
    """How long to wait before a driver is started again, at its n-th failure in a row: at once, 1 s, ... 30 s."""
    return 0.0 if failures <= 1 else min(30.0, 2.0 ** (failures - 2))
