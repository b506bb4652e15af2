"""How `status` and `down` find a running deployment: a small file that its supervisor rewrites every second.

Neither needs Ray, nor anything that loads slowly. The lock beside the file is held as long as the supervisor
lives: a report without its lock is a dead one's.
"""

import fcntl
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from bcaf_stream.errors import DeploymentError


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


def is_alive(name: str) -> bool:
    """Whether a supervisor of that name lives: it holds the lock until its process is gone."""
    with (state_folder(name) / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_status(name: str) -> dict[str, Any] | None:
    """The last report of a deployment that is alive; None where there is none."""
    if not is_alive(name):
        return None  # whatever report lies there is a dead one's
    try:
        status: dict[str, Any] = json.loads((state_folder(name) / "status.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None  # it took the lock a moment ago, or is about to end
    return status


def end(name: str, timeout_s: float) -> None:
    """Ask the deployment to go down and wait until it did.

    Raises:
        DeploymentError: there is none, or it does not end in time.
    """
    status = read_status(name)
    if status is None:
        raise DeploymentError(f"no deployment named {name} is running here")
    os.kill(status["pid"], signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while is_alive(name):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"the deployment {name} (process {status['pid']}) did not end in {timeout_s:g} s"
            )
        time.sleep(0.1)


class Report:
    """The supervisor's side: the status file, replaced as a whole, and the lock."""

    def __init__(self, name: str) -> None:
        self._folder = state_folder(name)
        self._fixed = {"name": name, "pid": os.getpid()}

    def __enter__(self) -> Self:
        # A bare descriptor, never closed: the lock is free when the process is gone, and "down" has waited for it.
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            name = self._fixed["name"]
            message = f"a deployment named {name} is running: bcaf-serve down --name {name}, or give another name"
            raise DeploymentError(message) from None
        return self

    def __exit__(self, *_: object) -> None:
        (self._folder / "status.json").unlink(missing_ok=True)

    def write(self, status: dict[str, Any]) -> None:
        draft = self._folder / "status.tmp"
        draft.write_text(json.dumps({**self._fixed, "reported_at": time.time_ns(), **status}), encoding="utf-8")
        draft.replace(self._folder / "status.json")
