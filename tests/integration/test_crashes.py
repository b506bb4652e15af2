"""A deployment that was started by its command comes back by itself, whichever of its processes is killed."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.process_locks import state_folder
from actors.status import read_status
from tests.deployment_processes import BIN, listening, members, processes
from tests.waiting import until

NAME = "crash"
BACK_S = 120.0


@pytest.fixture(scope="module")
def deployment(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("crash")
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    binds = [f"{part}.bind=tcp://127.0.0.1:*" for part in ("ingest.link", "hub.bus", "hub.replay")]
    settings = [
        f"name={NAME}",
        f"analyzer.model.checkpoint={tiny}",
        f"hub.journal.path={folder / 'events.sqlite'}",
    ]
    overrides = [part for value in [*binds, *settings, "ray.num_cpus=2"] for part in ("--set", value)]
    subprocess.run([BIN / "bcaf-serve", "up", *overrides], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    yield
    subprocess.run([BIN / "bcaf-serve", "down", "--name", NAME], check=True, stdout=subprocess.DEVNULL)
    os.environ.pop("XDG_RUNTIME_DIR") if before is None else os.environ.update(XDG_RUNTIME_DIR=before)


def when(true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    status: dict[str, Any] | None = None

    def so() -> bool:
        nonlocal status
        status = read_status(NAME)
        return status is not None and true(status)

    until(so, BACK_S)
    assert status is not None
    return status


def up(status: dict[str, Any]) -> bool:
    return bool(status["state"] == "up")


def test_ray_listens_on_this_machine_alone(deployment: None):
    addresses = listening(members(when(up)))
    assert len(addresses) >= 6
    assert {address.rpartition(":")[0] for address in addresses} <= {"127.0.0.1", "[::ffff:127.0.0.1]"}


def test_a_state_folder_that_was_deleted_is_there_again(deployment: None):
    before = when(lambda status: up(status) and status["standby"] is not None)
    shutil.rmtree(state_folder(NAME))
    after = when(up)
    assert [after[key] for key in ("pid", "standby", "driver")] == [
        before[key] for key in ("pid", "standby", "driver")
    ]


@pytest.mark.parametrize("pair", [("supervisor", "driver"), ("standby", "raylet")])
def test_a_killed_pair_of_processes_needs_nobody(deployment: None, pair: tuple[str, str]):
    before = when(lambda status: up(status) and status["standby"] is not None)
    found = processes(before)
    killed_at = time.monotonic()
    for part in pair:
        os.kill(found[part], signal.SIGKILL)
    when(lambda status: not up(status))
    assert time.monotonic() - killed_at < 5
    after = when(lambda status: up(status) and status["driver"] != before["driver"])
    assert (after["audio"], after["events"]) == (before["audio"], before["events"])
    assert members(before) == []  # nothing of the first one is left
    when(lambda status: processes(status)["standby"] not in (None, found["standby"], found["supervisor"]))
