"""The processes of a deployment that `bcaf-serve up` started, for tests and benchmarks that kill them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
MARKS = {
    "raylet": "/raylet/raylet ",
    "gcs": "/gcs_server ",
    "hub": "ray::HubActor",
    "emotion": "ray::EmotionActor",
    "ingest": "ray::IngestActor",
}


def members(status: dict[str, Any]) -> list[tuple[int, str]]:
    """Process ids and command lines of what the driver of this status has started, itself included."""
    shown = subprocess.run(["ps", "-wweo", "pid,sid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in shown.splitlines()[1:]]
    return [(int(pid), args) for pid, sid, stat, args in rows if int(sid) == status["driver"] and stat[0] != "Z"]


def processes(status: dict[str, Any]) -> dict[str, int]:
    """Process ids by part."""
    found = {part: pid for pid, args in members(status) for part, mark in MARKS.items() if mark in args + " "}
    return {**found, "driver": status["driver"], "supervisor": status["pid"], "standby": status["standby"]}


def listening(of: Sequence[tuple[int, str]]) -> set[str]:
    """Addresses of the TCP sockets on which these processes listen."""
    shown = subprocess.run(["ss", "-Htlnp"], capture_output=True, text=True, check=True).stdout
    pids = {f"pid={pid}," for pid, _ in of}
    return {line.split()[3] for line in shown.splitlines() if any(pid in line for pid in pids)}
