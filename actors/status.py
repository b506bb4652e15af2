"""How `status` and `down` find a running deployment: files in a folder of its own, beside two locks.

Two processes keep a deployment running and start each other again: the supervisor, which is small, and the driver,
which holds Ray and the actors and rewrites the status every second. Each holds its lock as long as it lives, so
nobody is taken in by what a dead one left. Nothing here needs Ray, nor anything that loads slowly.
"""

import fcntl
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from bcaf_stream.errors import DeploymentError

Part = Literal["supervisor", "driver"]
SILENT_S = 5.0  # a status that is older is not the present one


def state_folder(name: str) -> Path:
    """Where a deployment's status and log lie: the user's own folder, readable by nobody else."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    mine = Path(base) / "bcaf-stream" if base else Path(tempfile.gettempdir()) / f"bcaf-stream-{os.getuid()}"
    try:
        mine.mkdir(exist_ok=True, mode=0o700)
        if mine.stat().st_uid != os.getuid():
            raise DeploymentError(f"{mine} belongs to somebody else: set XDG_RUNTIME_DIR to a folder of yours")
        (mine / name).mkdir(exist_ok=True)
    except OSError as error:
        raise DeploymentError(f"{mine / name}: cannot be made: {error.strerror}; set XDG_RUNTIME_DIR") from None
    return mine / name


class Lives:
    """The lock of one of the two processes: free when its process is gone, and then only.

    Raises:
        DeploymentError: another process holds it.
    """

    def __init__(self, name: str, part: Part) -> None:
        # A bare descriptor, never closed.
        lock = os.open(_lock_file(name, part), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            message = f"a deployment named {name} is running: bcaf-serve down --name {name}, or give another name"
            raise DeploymentError(message) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)


def is_alive(name: str, part: Part) -> bool:
    """Whether a process lives that is this part of the deployment."""
    try:
        with _lock_file(name, part).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def pid_of(name: str, part: Part) -> int | None:
    """The process that is, or was, this part of the deployment; None: there was none."""
    try:
        return int(_lock_file(name, part).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None


def is_running(name: str) -> bool:
    return is_alive(name, "supervisor") or is_alive(name, "driver")


def read_status(name: str) -> dict[str, Any] | None:
    """The last report of a deployment that is running; None where none is."""
    if not is_running(name):
        return None  # whatever report lies there is a dead one's
    try:
        status: dict[str, Any] = json.loads(_status_file(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None  # it took the lock a moment ago, or is about to end
    silent_s = (time.time_ns() - status["reported_at"]) / 1e9
    if status["state"] in ("up", "degraded") and silent_s > SILENT_S:
        status |= {"state": "silent", "reason": f"nothing has been reported for {silent_s:.0f} s"}
    return status


def write_status(name: str, status: dict[str, Any]) -> None:
    """Replace the report; `state` is one of starting, up, degraded, restarting, going down."""
    fixed = {"name": name, "pid": pid_of(name, "supervisor"), "reported_at": time.time_ns()}
    draft = _status_file(name).with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({**fixed, **status}), encoding="utf-8")
    draft.replace(_status_file(name))


def remove_status(name: str) -> None:
    _status_file(name).unlink(missing_ok=True)


def end(name: str, timeout_s: float) -> None:
    """Ask the deployment to go down and wait until it did.

    Raises:
        DeploymentError: there is none, or it does not end in time.
    """
    if not is_running(name):
        raise DeploymentError(f"no deployment named {name} is running here")
    deadline = time.monotonic() + timeout_s
    asked: set[int] = set()
    while is_running(name):
        pid = pid_of(name, "supervisor")
        if is_alive(name, "supervisor") and pid is not None and pid not in asked:
            asked.add(pid)  # one that was started again meanwhile is asked too
            os.kill(pid, signal.SIGTERM)
        if time.monotonic() > deadline:
            raise DeploymentError(f"the deployment {name} (process {pid}) did not end in {timeout_s:g} s")
        time.sleep(0.1)


def _lock_file(name: str, part: Part) -> Path:
    return state_folder(name) / f"{part}.lock"


def _status_file(name: str) -> Path:
    return state_folder(name) / "status.json"
