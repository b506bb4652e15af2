"""What several rooms' tests share. Ray is started once for all of them: it takes its seconds."""

import gc
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from bcaf_stream import loops
from tests.components import COMPONENTS, require
from tests.postgres import PostgresServer, running_server
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[1]

# Test files that start Ray or a whole deployment: one after the other, in this order, in one of pytest's
# processes. The other processes take the rest by files.
WHOLE_MACHINE = (
    "integration/test_node_labels.py",  # a Ray of two nodes, in this process: before the one that all others share
    "unit/actors/test_cluster.py",  # looks for a Ray where none is: not in a process that has one
    "e2e/test_commands.py",  # the Rays of processes of their own
    "integration/test_faults.py",
    "integration/test_ray_train.py",  # from here on `ray_session`; training needs all its CPUs
    "integration/test_recognition_pool.py",
    "integration/test_ingest_replicas.py",
    "parity/test_actors_equal_one_process.py",
    "integration/test_deployment.py",
    "integration/test_fuzz_deployment.py",
)

# Nothing is asserted about time: a busy machine must not fail an example for being slow.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    # An actor that a test makes in this process must not end it, with all tests, when a loop of some test dies.
    loops._exit = loops._log_death
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # torch's threads of two processes on two cores wait for each other
    config.addinivalue_line("markers", "needs(component): runs against a real part of tests/components.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        require(mark.args[0])


class ByFile(LoadScopeScheduling):
    """A file goes to one process, for its tests share fixtures; those of WHOLE_MACHINE all to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].removeprefix("tests/")
        return "machine" if file in WHOLE_MACHINE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    order = {name: number for number, name in enumerate(WHOLE_MACHINE)}
    here = ROOT / "tests"
    items.sort(key=lambda item: order.get(item.path.relative_to(here).as_posix(), len(order)))


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage need look through torch again (0.3 s each)."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = (str(report.longrepr) for report in terminalreporter.stats.get("skipped", ()))
    needed = Counter(found[1] for reason in reasons if (found := re.search(r"Skipped: needs ([^:]+):", reason)))
    for name, tests in sorted(needed.items()):
        way = COMPONENTS[name].way
        terminalreporter.write_line(f"not tested, for want of {name} ({tests} tests): {way}", yellow=True)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},  # the workers unpickle classes of the tests
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of this process; each takes a namespace of its own."""
    require("postgresql")
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with small random weights."""
    torch.set_num_threads(1)
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")
