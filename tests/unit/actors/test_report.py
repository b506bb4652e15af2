"""What `status` and `down` see of a deployment: locks of living processes, and nothing that a dead one left."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.leftovers import begin_of, kill_session
from actors.policy import restart_s
from actors.process_locks import ProcessLock, Witness, is_alive, is_running, pid_of, state_folder
from actors.status import cancel_drain, drain, end, is_draining, read_status, write_status
from bcaf_stream.errors import DeploymentError

HOLD = """
import sys, time
from actors.process_locks import ProcessLock
held = ProcessLock(sys.argv[1], sys.argv[2])
print("held", flush=True)
while sys.stdin.readline():
    held.keep()
    print("kept", flush=True)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, "work", "driver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def keep(holder: "subprocess.Popen[str]") -> None:
    assert holder.stdin
    assert holder.stdout
    holder.stdin.write("keep\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "kept\n"


def test_a_folder_that_was_deleted_is_made_again_by_who_lives(holder: "subprocess.Popen[str]"):
    witness = Witness("work", "driver")
    shutil.rmtree(state_folder("work").parent)
    assert witness.is_alive()
    assert not is_running("work")
    keep(holder)
    assert is_running("work")
    assert pid_of("work", "driver") == holder.pid
    with pytest.raises(DeploymentError, match="a deployment named work is running"):
        ProcessLock("work", "driver")
    holder.kill()
    holder.wait()
    assert not is_running("work")
    assert not witness.is_alive()


def test_a_witness_sees_who_comes_later(tmp_path: Path):
    witness = Witness("work", "supervisor")
    assert not witness.is_alive()
    lock = ProcessLock("work", "supervisor")
    assert witness.is_alive()
    lock.release()
    assert not witness.is_alive()


def test_what_cannot_be_written_stops_no_deployment(
    holder: "subprocess.Popen[str]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    witness = Witness("work", "driver")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))  # as after a logout
    write_status("work", {"state": "up"})
    assert pid_of("work", "driver") is None
    assert witness.is_alive()


def test_a_part_is_alive_as_long_as_its_process(holder: "subprocess.Popen[str]"):
    assert is_alive("work", "driver")
    assert not is_alive("work", "supervisor")
    assert is_running("work")
    assert pid_of("work", "driver") == holder.pid
    with pytest.raises(DeploymentError, match="a deployment named work is running"):
        ProcessLock("work", "driver")
    holder.kill()
    holder.wait()
    assert not is_running("work")


def test_the_report_of_a_dead_deployment_is_none(holder: "subprocess.Popen[str]"):
    write_status("work", {"state": "up"})
    status = read_status("work")
    assert status is not None
    assert status["state"] == "up"
    holder.kill()
    holder.wait()
    assert read_status("work") is None
    with pytest.raises(DeploymentError, match="no deployment named work is running here"):
        end("work", 1)


def test_a_report_that_is_old_is_not_the_present_state(
    holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
):
    write_status("work", {"state": "up"})
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 30 * 10**9)
    status = read_status("work")
    assert status is not None
    assert (status["state"], status["reason"][:25]) == ("silent", "nothing has been reported")


def test_all_that_a_dead_process_started_is_ended_and_nothing_else():
    script = (
        "import subprocess, sys, os\n"
        "subprocess.Popen(['sleep', '60'])\n"
        "subprocess.Popen(['sleep', '60'], process_group=0)\n"
        "print('started', flush=True)\nsys.stdin.read()\n"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert leader.stdin
    assert leader.stdout
    assert leader.stdout.readline() == "started\n"
    began = begin_of(leader.pid)
    assert kill_session(leader.pid, (began or 0) + 1) == []  # another process has that number now
    assert leader.poll() is None
    os.kill(leader.pid, signal.SIGKILL)
    leader.wait()
    assert len(kill_session(leader.pid, began)) == 2
    assert kill_session(leader.pid, began) == []
    leader.stdin.close()
    leader.stdout.close()


def test_a_driver_is_started_again_at_once_and_then_ever_later():
    assert [restart_s(n) for n in range(1, 9)] == [0, 1, 2, 4, 8, 16, 30, 30]


def test_drain_waits_for_calls_and_says_how_many_are_left(holder: "subprocess.Popen[str]"):
    def report(calls: int, **ingest: object) -> None:
        write_status("work", {"state": "draining", "actors": {"ingest": {"calls": calls, **ingest}}})

    report(0)  # of before: that actor has not been told yet
    with pytest.raises(DeploymentError, match=r"still running after 0\.2 s: 0"):
        drain("work", 0.2)
    assert is_draining("work")
    report(3, draining=True)
    with pytest.raises(DeploymentError, match=r"still running after 0\.2 s: 3"):
        drain("work", 0.2)
    report(0, draining=True)  # of an earlier drain: a call may have begun since
    with pytest.raises(DeploymentError, match=r"still running after 0\.2 s: 0"):
        drain("work", 0.2)
    drained = threading.Thread(target=drain, args=("work", 10.0))
    drained.start()
    while drained.is_alive():
        report(0, draining=True)
        drained.join(0.05)
    cancel_drain("work")
    assert not is_draining("work")


def test_what_does_not_run_cannot_be_drained():
    with pytest.raises(DeploymentError, match="no deployment named work"):
        drain("work", 1)
    assert not is_draining("work")
