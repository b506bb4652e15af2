"""The processes that keep a deployment running: the supervisor, and the standby that is the next one.

The supervisor starts the driver and the standby, and starts each again when it is gone. It is small, so that
little can happen to it. If it is killed all the same, the standby takes its place at once; if both are, the driver
starts another one. See `process_locks` for who watches whom.
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
from actors.process_locks import ProcessLock, Witness, is_alive, pid_of, state_folder
from actors.status import read_status, remove_status, write_status
from bcaf_stream.errors import DeploymentError

log = logging.getLogger(__name__)

LOOK_S = 0.2
STEADY_S = 60.0  # a driver that ran for so long did not fail at its start
DOWN_S = 25.0  # for the driver to go down in order
STANDBY_REST_S = 2.0  # between two starts of a standby


class Supervisor:
    """Runs until SIGTERM or SIGINT.

    Args:
        drive: starts the driver; `--again` is added when the deployment has been up before.
        stand_by: starts the standby; None: there is none, for somebody else starts this process again.
        adopt: the deployment has been up, and has lost its supervisor; the driver may be running.

    Raises:
        DeploymentError: one of that name runs already.
    """

    def __init__(self, name: str, drive: Sequence[str], stand_by: Sequence[str] | None, adopt: bool) -> None:
        self._name, self._drive, self._stand_by = name, list(drive), stand_by
        self._lock = ProcessLock(name, "supervisor")
        self._driver = Witness(name, "driver")
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None  # None: adopted
        self._session: tuple[int, int | None] | None = self._known_session()
        self._standby: subprocess.Popen[bytes] | None = None
        self._standby_at = -STANDBY_REST_S
        self._was_up = adopt
        if not adopt and self._driver.is_alive():
            raise DeploymentError(f"a deployment named {name} is running: bcaf-serve down --name {name}")

    def run(self) -> int:
        """Give the exit code: that of a first start that failed, else 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            return self._keep_running()
        finally:
            self._end_standby()
            remove_status(self._name)

    def _keep_running(self) -> int:
        failures = 0
        if not self._was_up:
            self._clear_up()  # what a crash of all has left
            self._start()
        while True:
            began = time.monotonic()
            code = self._wait_for_end()
            reason = self._reason(code)
            self._clear_up()
            if self._stopping:
                return 0
            if not self._was_up:
                return code or 1
            failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
            log.critical("%s; it is started again", reason)
            self._rest(reason, restart_s(failures))
            if self._stopping:
                return 0
            self._start()

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._stopping = True

    def _start(self) -> None:
        command = [*self._drive, *(["--again"] if self._was_up else [])]
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
                self._end_standby()
                self._signal(signal.SIGTERM)
            elif asked_at is not None and time.monotonic() - asked_at > DOWN_S:
                log.error("the driver did not go down in %g s", DOWN_S)
                self._signal(signal.SIGKILL)
            self._look_around()
            time.sleep(LOOK_S)
        return self._process.returncode if self._process else None

    def _is_driver_alive(self) -> bool:
        return self._process.poll() is None if self._process else self._driver.is_alive()

    def _signal(self, number: int) -> None:
        pid = self._process.pid if self._process else self._session[0] if self._session else None
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _look_around(self) -> None:
        """Keep the lock's file and the standby."""
        self._lock.keep()
        now = time.monotonic()
        if self._stand_by is None or not self._was_up or self._stopping:
            return
        gone = self._standby is None or self._standby.poll() is not None
        if gone and now - self._standby_at >= STANDBY_REST_S and not is_alive(self._name, "standby"):
            self._standby_at = now
            self._standby = subprocess.Popen(self._stand_by, stdin=subprocess.DEVNULL, start_new_session=True)

    def _end_standby(self) -> None:
        """So that nobody takes the place of a supervisor that goes down."""
        if self._standby is not None:
            self._standby.kill()
            self._standby.wait()
        pid = pid_of(self._name, "standby")
        if is_alive(self._name, "standby") and pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

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
            self._look_around()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(LOOK_S, left))

    def _known_session(self) -> tuple[int, int | None] | None:
        """What the last driver leads, as its supervisor has noted it; or as its lock says, where that is lost."""
        try:
            leader, began = json.loads(self._session_file.read_text(encoding="ascii"))
            return int(leader), None if began is None else int(began)
        except (OSError, ValueError):
            leader = pid_of(self._name, "driver")
            if leader is None:
                return None
            return leader, begin_of(leader) if self._driver.is_alive() else None

    def _note_session(self, leader: int) -> None:
        self._session = leader, begin_of(leader)
        with suppress(OSError, DeploymentError):  # it is for the next supervisor; this one knows
            self._session_file.write_text(json.dumps(self._session), encoding="ascii")

    def _clear_up(self) -> None:
        killed = kill_session(*self._session) if self._session else []
        if killed:
            log.warning("%d processes that a dead driver had left were ended", len(killed))

    @property
    def _session_file(self) -> Path:
        return state_folder(self._name) / "session.json"


def wait_for_vacancy(name: str) -> ProcessLock:
    """Be the standby of a deployment, until it has no supervisor any more; give the standby's lock.

    Raises:
        DeploymentError: it has a standby already.
    """
    lock = ProcessLock(name, "standby")
    supervisor = Witness(name, "supervisor")
    while supervisor.is_alive():
        lock.keep()
        time.sleep(LOOK_S)
    return lock
