"""Ray for training: a session of it, and independent runs of one function on many jobs."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import ray
from ray._private import worker
from ray.exceptions import RayError

from actors.cluster import Cluster, plain
from bcaf_stream.console import stderr_note
from training.config import RayConfig

J = TypeVar("J")
R = TypeVar("R")

LOST = ("Raylet is terminated", "has been marked dead")  # Ray tells of one lost node in both ways, and repeatedly
ONE_LOSS_S = 60.0


class ClusterNotes:
    """What Ray tells a driver of its nodes, in one line each: it would append the logs of a node that was lost."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._lost_at = -ONE_LOSS_S

    def __call__(self, data: dict[str, Any], ignore_prefix: bool = False) -> None:
        """In the place of ray's print_to_stdstream."""
        for line in (str(text).strip().partition("\n")[0] for text in data["lines"]):
            if not any(sign in line for sign in LOST):
                self._say(f"Ray: {line}")
            elif self._clock() - self._lost_at >= ONE_LOSS_S:
                self._lost_at = self._clock()
                self._say(
                    "Ray lost a node; its work is done again from what was last committed, on the nodes that are"
                    " left or come"
                )


@contextmanager
def ray_session(config: RayConfig) -> Iterator[Cluster]:
    """Ray, as the configuration wants it; one that runs in this process already is used and left running.

    Raises:
        DeploymentError: it cannot be started or reached.
    """
    cluster = Cluster(config.address, config.num_cpus)
    if not cluster.owned:
        yield cluster
        return
    theirs = worker.print_to_stdstream
    worker.print_to_stdstream = ClusterNotes(stderr_note)
    try:
        yield cluster
    finally:
        cluster.leave()
        worker.print_to_stdstream = theirs


def map_on_ray(
    function: Callable[[J], R], jobs: Sequence[J], config: RayConfig, parallel: int, on_result: Callable[[R], None]
) -> None:
    """Run `function` on every job, `parallel` at a time; results come as they are ready.

    Raises:
        BcafError: what `function` raised.
        DeploymentError: Ray cannot be started, or a worker was lost.
    """
    with ray_session(config):
        options = {"num_cpus": config.cpus_per_worker, "num_gpus": float(config.use_gpu), "max_retries": 1}
        task: Any = ray.remote(_call).options(**options)
        waiting = list(reversed(jobs))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < parallel:
                running.append(task.remote(function, waiting.pop()))
            ready, running = ray.wait(running, num_returns=1)
            try:
                on_result(ray.get(ready[0]))
            except RayError as error:
                raise plain(error, "a run was lost") from None


def _call(function: Callable[[J], R], job: J) -> R:
    return function(job)


def return_to(cwd: str) -> None:
    """Ray gives its workers a folder of their own; relative paths of the configuration belong to the user's.

    A machine of a cluster may not have that one: there, whatever is relative is missed by name.
    """
    with suppress(OSError):
        os.chdir(cwd)
