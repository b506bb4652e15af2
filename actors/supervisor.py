"""The process that keeps a deployment running: it starts the driver, and starts it again when it is gone.

It is small, so that little can happen to it. If it is killed all the same, the driver starts it again.
"""

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from actors.leftovers import begin_of, kill_session
from actors.policy import restart_s
from actors.status import Lives, is_alive, pid_of, read_status, remove_status, state_folder, write_status
from bcaf_stream.errors import DeploymentError

log = logging.getLogger(__name__)

LOOK_S = 0.2
STEADY_S = 60.0  # a driver that ran for so long did not fail at its start
DOWN_S = 25.0  # for the driver to go down in order


class Supervisor:
    """Runs until SIGTERM or SIGINT.

    Args:
        command: starts the driver; `--again` is added when the deployment has been up before.
        adopt: a driver is running, and has lost its supervisor.

    Raises:
        DeploymentError: one of that name runs already.
    """

    def __init__(self, name: str, command: Sequence[str], adopt: bool) -> None:
        self._name, self._command = name, list(command)
        self._lives = Lives(name, "supervisor")
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None  # None: adopted
        self._was_up = adopt
        if not adopt and is_alive(name, "driver"):
            raise DeploymentError(f"a deployment named {name} is running: bcaf-serve down --name {name}")

    def run(self) -> int:
        """Give the exit code: that of a first start that failed, else 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        failures = 0
        if not self._was_up:
            self._clear_up()  # what a crash of both has left
            self._start()
        while True:
            began = time.monotonic()
            code = self._wait_for_end()
            reason = self._reason(code)
            self._clear_up()
            if self._stopping:
                break
            if not self._was_up:
                remove_status(self._name)
                return code or 1
            failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
            log.critical("%s; it is started again", reason)
            self._rest(reason, restart_s(failures))
            if self._stopping:
                break
            self._start()
        remove_status(self._name)
        return 0

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._stopping = True

    def _start(self) -> None:
        command = [*self._command, *(["--again"] if self._was_up else [])]
        # A session of its own: all that the driver starts is found by it, and a Ctrl-C does not reach it.
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self._note_session(self._process.pid)

    def _wait_for_end(self) -> int | None:
        asked_at: float | None = None
        while self._is_driver_alive():
            if not self._was_up and (status := read_status(self._name)):
                self._was_up = status["state"] == "up" and status["driver"] == pid_of(self._name, "driver")
            if self._stopping and asked_at is None:
                asked_at = time.monotonic()
                self._signal(signal.SIGTERM)
            elif asked_at is not None and time.monotonic() - asked_at > DOWN_S:
                log.error("the driver did not go down in %g s", DOWN_S)
                self._signal(signal.SIGKILL)
            time.sleep(LOOK_S)
        return self._process.returncode if self._process else None

    def _is_driver_alive(self) -> bool:
        return self._process.poll() is None if self._process else is_alive(self._name, "driver")

    def _signal(self, number: int) -> None:
        pid = self._process.pid if self._process else pid_of(self._name, "driver")
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reason(self, code: int | None) -> str:
        status = read_status(self._name) or {}
        if status.get("state") == "restarting":
            return str(status["reason"])  # the driver's own last word
        if code is None:
            return "the driver is gone"
        return f"the driver was killed by signal {-code}" if code < 0 else f"the driver ended with code {code}"

    def _rest(self, reason: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping:
            write_status(self._name, {"state": "restarting", "reason": reason})
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(LOOK_S, left))

    def _note_session(self, leader: int) -> None:
        (self._session_file).write_text(json.dumps([leader, begin_of(leader)]), encoding="ascii")

    def _clear_up(self) -> None:
        with suppress(OSError, ValueError):
            leader, began = json.loads(self._session_file.read_text(encoding="ascii"))
            killed = kill_session(leader, began)
            if killed:
                log.warning("%d processes that a dead driver had left were ended", len(killed))

    @property
    def _session_file(self) -> Path:
        return state_folder(self._name) / "session.json"
