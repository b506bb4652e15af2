"""How `status` and `down` find a running deployment: its report, which the driver rewrites every second."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from actors.process_locks import is_alive, is_running, pid_of, state_folder
from bcaf_stream.errors import DeploymentError
from bcaf_stream.files import replacing

SILENT_S = 5.0  # a status that is older is not the present one


def read_status(name: str) -> dict[str, Any] | None:
    """The last report of a deployment that is running; None where none is, or it has not reported yet."""
    if not is_running(name):
        return None  # whatever report lies there is a dead one's
    try:
        status: dict[str, Any] = json.loads(_status_file(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None  # it took the lock a moment ago, is about to end, or somebody has deleted the file
    silent_s = (time.time_ns() - status["reported_at"]) / 1e9
    if status["state"] in ("up", "degraded", "draining") and silent_s > SILENT_S:
        reason = f"nothing has been reported for {silent_s:.0f} s: it hangs, or cannot write {_status_file(name)}"
        status |= {"state": "silent", "reason": reason}
    return status


def write_status(name: str, status: dict[str, Any]) -> None:
    """Replace the report; `state` is one of starting, up, draining, degraded, restarting, going down.

    A disk that is full stops no deployment: where the report cannot be written, it grows old, and that is seen.
    """
    fixed = {"name": name, "pid": pid_of(name, "supervisor"), "standby": pid_of(name, "standby")}
    with suppress(OSError, DeploymentError):
        report = json.dumps({**fixed, "reported_at": time.time_ns(), **status})
        with replacing(_status_file(name), shared=True) as draft:
            draft.write_text(report, encoding="utf-8")


def remove_status(name: str) -> None:
    with suppress(OSError, DeploymentError):
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


def drain(name: str, timeout_s: float, actor: str | None = None) -> None:
    """Let no new call begin, and wait until those that run have ended; it stays so until `cancel_drain`.

    With `actor`, one of several replicas of ingest, it is about that one: the calls whose senders can send their
    sound again are given up there, and go on at another one.

    Raises:
        DeploymentError: there is none, it ends meanwhile, or calls are running still after `timeout_s`.
    """
    _check_drained(name, actor)
    deadline, asked_at = time.monotonic() + timeout_s, time.time_ns()
    _drain_file(name, actor).touch()
    while True:
        status = read_status(name) or {}
        ingests = [its for who, its in status.get("actors", {}).items() if _is_meant(who, actor)]
        told = status.get("reported_at", 0) > asked_at  # not what an earlier drain left
        told = told and bool(ingests) and all(its.get("draining") for its in ingests)
        if told and not any(its["calls"] for its in ingests):
            return
        if not is_running(name):
            raise DeploymentError(f"the deployment {name} has ended meanwhile")
        if time.monotonic() > deadline:
            known = [its["calls"] for its in ingests if "calls" in its]
            calls = sum(known) if known else "nobody knows how many"
            raise DeploymentError(
                f"calls still running after {timeout_s:g} s: {calls}; none begins (drain --cancel)"
            )
        time.sleep(0.1)


def cancel_drain(name: str, actor: str | None = None) -> None:
    """Without `actor` that of the whole deployment, and of each replica."""
    for file in [_drain_file(name, actor)] if actor else state_folder(name).glob("draining*"):
        file.unlink(missing_ok=True)


def is_draining(name: str, actor: str | None = None) -> bool:
    return _drain_file(name, actor).exists()


def _check_drained(name: str, actor: str | None) -> None:
    if not is_running(name):
        raise DeploymentError(f"no deployment named {name} is running here")
    replicas = [who for who in (read_status(name) or {}).get("actors", {}) if _is_meant(who, None)]
    if actor is not None and (actor not in replicas or len(replicas) < 2):
        raise DeploymentError(f"drain {actor}: one of several replicas of ingest: {', '.join(replicas)}")


def _is_meant(who: str, actor: str | None) -> bool:
    return who == actor if actor else who == "ingest" or who.startswith("ingest-")


def _drain_file(name: str, actor: str | None) -> Path:
    """It is there while the deployment, or that replica, drains: so one that starts again knows it."""
    return state_folder(name) / (f"draining.{actor}" if actor else "draining")


def _status_file(name: str) -> Path:
    return state_folder(name) / "status.json"
