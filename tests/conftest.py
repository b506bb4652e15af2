"""What several rooms' tests share. Ray is started once for all of them: it takes its seconds."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.components import COMPONENTS, missing, require
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[1]

# Nothing is asserted about time: a busy machine must not fail an example for being slow.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(component): runs against a real part of tests/components.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        require(mark.args[0])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, tests in sorted(missing.items()):
        component = COMPONENTS[name]
        terminalreporter.write_line(
            f"not tested, for want of {name} ({len(tests)} tests): {component.way}", yellow=True
        )


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
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with small random weights."""
    torch.set_num_threads(1)
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")
