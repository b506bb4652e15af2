"""What a dead driver may leave behind: every process that it started, Ray's among them, is of its session."""

import contextlib
import os
import signal
import time
from pathlib import Path

PROC = Path("/proc")
KILLED_S = 5.0


def kill_session(leader: int, began: int | None) -> list[int]:
    """End every process of the session that `leader`, which is dead, had begun; give their ids.

    A number stays taken while its session has a member, so a living leader is either ours or another's, whose
    session is left alone; `began` (see `begin_of`) tells which. Does nothing on systems without /proc.
    """
    found = _members(leader)
    if leader in found and begin_of(leader) != began:
        return []
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + KILLED_S
    while _members(leader) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def begin_of(pid: int) -> int | None:
    """When the process began, in the system's clock ticks since its start; None: there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _members(leader: int) -> list[int]:
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()] if PROC.is_dir() else []
    alive = {pid: fields for pid in pids if (fields := _stat(pid)) and fields[0] not in ("Z", "X")}
    return [pid for pid, fields in alive.items() if int(fields[3]) == leader and pid != os.getpid()]


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s stat from the state on: state, ppid, pgrp, session, ..."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
