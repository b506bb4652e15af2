"""Who of a deployment's own processes lives: each holds a lock in the deployment's folder, and its id lies in it.

    supervisor   starts the driver, and starts it again when it is gone; so it does with the standby
    standby      waits until there is no supervisor, and is it then
    driver       holds Ray and the actors; starts a supervisor where both others are gone

So no two of them can die and leave nobody. A lock is free when its process is gone, and then only: nobody is taken
in by what a dead one left. Where somebody tidies the folder away, its owners make it and their locks again.
Nothing here needs Ray, nor anything that loads slowly.
"""

import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import Literal, get_args

from bcaf_stream.errors import DeploymentError

Part = Literal["supervisor", "standby", "driver"]
PROBED_S = 0.2  # for somebody who only looks whether a lock is free


def state_folder(name: str) -> Path:
    """Where a deployment's locks, status and log lie: the user's own folder, readable by nobody else.

    Raises:
        DeploymentError: it cannot be made.
    """
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


class ProcessLock:
    """The lock of this process, as a part of the deployment.

    Raises:
        DeploymentError: another process holds it, or its file cannot be written.
    """

    def __init__(self, name: str, part: Part) -> None:
        self._name, self._part = name, part
        self._locks = [_taken(name, part)]  # bare descriptors: those of deleted files too, which others may watch

    def keep(self) -> None:
        """Make its file again where that was deleted; where it cannot be made now, a later call will."""
        try:
            if not _is_open_file(self._locks[-1], _lock_file(self._name, self._part)):
                self._locks.append(_taken(self._name, self._part))
        except DeploymentError:
            pass

    def release(self) -> None:
        while self._locks:
            os.close(self._locks.pop())


class Witness:
    """Sees whether another part lives, even when the file of its lock has been deleted meanwhile."""

    def __init__(self, name: str, part: Part) -> None:
        self._name, self._part = name, part
        self._lock: int | None = None
        self.is_alive()

    def is_alive(self) -> bool:
        if self._lock is not None:
            if not _is_free(self._lock):
                return True
            os.close(self._lock)
        self._lock = _open(self._name, self._part)
        return self._lock is not None and not _is_free(self._lock)


def is_alive(name: str, part: Part) -> bool:
    """Whether a process lives that is this part of the deployment."""
    lock = _open(name, part)
    if lock is None:
        return False
    try:
        return not _is_free(lock)
    finally:
        os.close(lock)


def is_running(name: str) -> bool:
    return any(is_alive(name, part) for part in get_args(Part))


def pid_of(name: str, part: Part) -> int | None:
    """The process that is, or was, this part of the deployment; None: there was none."""
    try:
        return int(_lock_file(name, part).read_text(encoding="ascii"))
    except (OSError, ValueError, DeploymentError):
        return None


def _taken(name: str, part: Part) -> int:
    file = _lock_file(name, part)
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DeploymentError(f"{file}: cannot be written: {error.strerror}") from None
    try:
        deadline = time.monotonic() + PROBED_S
        while not _try(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise DeploymentError(
                    f"a deployment named {name} is running: bcaf-serve down --name {name}, or give another name"
                )
            time.sleep(PROBED_S / 20)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, OSError):
            raise DeploymentError(f"{file}: cannot be written: {error.strerror}") from None
        raise
    return lock


def _open(name: str, part: Part) -> int | None:
    try:
        return os.open(_lock_file(name, part), os.O_RDONLY)
    except (OSError, DeploymentError):
        return None


def _is_free(lock: int) -> bool:
    if not _try(lock, fcntl.LOCK_SH):
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _try(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_open_file(lock: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except OSError:
        return False


def _lock_file(name: str, part: Part) -> Path:
    return state_folder(name) / f"{part}.lock"
