"""A deployment that was started by its command, a call on its way, and what can befall them: no final is lost,
doubled or changed, and nobody needs to help.

A few faults each time; all of them, alone and in pairs, with `pytest -m slow tests/integration/test_faults.py`:
that takes an hour, needs the right to mount for a disk of its own, and prints the table.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from actors.process_locks import state_folder
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.events.event import Event
from bcaf_stream.recording import Analysis, Recording
from tests.deployment_processes import BIN, listening, members
from tests.faults import HEAD, NAME, Fault, all_faults, kill, stop, suffer, wait_until_up

DISK_BYTES = 40_000_000  # SQLite keeps 16 MB beside its file
SHORT = (stop("ingest", 4), kill("supervisor", "driver"), kill("standby", "raylet"))
SHORT_NAMES = [fault.name for fault in SHORT]
SLOW = [fault for fault in all_faults() if fault.name not in SHORT_NAMES]
calls = count()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A small disk of its own for the journal; None where one cannot be had."""
    folder = tmp_path_factory.mktemp("disk")
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and not subprocess.call(mounting, stderr=subprocess.DEVNULL)
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def deployment(disk: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp(NAME)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    binds = [f"{part}.bind=tcp://127.0.0.1:*" for part in ("ingest.link", "hub.bus", "hub.replay")]
    settings = [f"name={NAME}", f"hub.journal.path={(disk or folder) / 'events.sqlite'}"]
    settings += ["ingest.live.interim_ms=0", "ray.num_cpus=2"]
    overrides = [part for value in [*binds, *settings] for part in ("--set", value)]
    subprocess.run([BIN / "bcaf-serve", "up", *overrides], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    yield
    subprocess.run([BIN / "bcaf-serve", "down", "--name", NAME], check=True, stdout=subprocess.DEVNULL)
    os.environ.pop("XDG_RUNTIME_DIR") if before is None else os.environ.update(XDG_RUNTIME_DIR=before)


@pytest.fixture(scope="module")
def undisturbed(pytestconfig: pytest.Config) -> list[Event]:
    recording = Recording.open(str(CALL))
    events = list(Analysis(recording, AnalyzerConfig(), "given", recording.transcript(SCRIPT)))
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(HEAD)
    return events


def test_ray_listens_on_this_machine_alone(deployment: None):
    addresses = listening(members(wait_until_up()))
    assert len(addresses) >= 6
    assert {address.rpartition(":")[0] for address in addresses} <= {"127.0.0.1", "[::ffff:127.0.0.1]"}


def test_a_state_folder_that_was_deleted_is_there_again(deployment: None):
    before = wait_until_up()
    shutil.rmtree(state_folder(NAME))
    after = wait_until_up()
    kept = ("pid", "standby", "driver")
    assert [after[key] for key in kept] == [before[key] for key in kept]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.name) for fault in SHORT]
    + [pytest.param(fault, id=fault.name, marks=pytest.mark.slow) for fault in SLOW],
)
def test_a_call_is_as_if_nothing_had_been(
    deployment: None,
    disk: Path | None,
    undisturbed: list[Event],
    fault: Fault,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    if fault.own_disk and disk is None:
        pytest.skip("no disk of its own can be mounted here")
    outcome = suffer(fault, f"call-{next(calls)}", disk or tmp_path, undisturbed)
    with capsys.disabled():
        print(outcome.row(fault.name), flush=True)
    assert (outcome.lost, outcome.doubled, outcome.changed) == (0, 0, [])
    assert outcome.end == "complete"
