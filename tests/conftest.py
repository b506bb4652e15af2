"""What several rooms' tests share. Ray is started once for all of them: it takes its seconds."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[1]


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
