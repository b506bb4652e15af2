"""Other weights for a running deployment: a request in its folder, which the driver carries out and answers."""

import json
import logging
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from actors.process_locks import is_running, state_folder
from actors.status import read_status
from bcaf_stream.errors import BcafError, DeploymentError
from bcaf_stream.files import replacing
from bcaf_stream.loops import spawn_thread

log = logging.getLogger(__name__)


def reload(name: str, checkpoint: str, timeout_s: float) -> str:
    """Ask the deployment to judge by `checkpoint` from now on; what it says when it does.

    Raises:
        DeploymentError: there is none, it is not wholly up, or it cannot, and why: then nothing has changed.
    """
    status = read_status(name)
    if status is None:
        raise DeploymentError(f"no deployment named {name} is running here")
    if status["state"] not in ("up", "draining"):
        raise DeploymentError(f"{name} is {status['state']}: {status.get('reason', 'try again when it is up')}")
    if status.get("reload", {}).get("state") == "loading":
        raise DeploymentError(f"{name} loads {status['reload']['checkpoint']} at the moment: try again after that")
    request = {"id": uuid.uuid4().hex, "checkpoint": checkpoint}
    _write(_request_file(name), request)
    deadline = time.monotonic() + timeout_s
    while is_running(name):
        answer = (read_status(name) or {}).get("reload", {})
        if answer.get("id") == request["id"] and answer["state"] == "done":
            return str(answer["said"])
        if answer.get("id") == request["id"] and answer["state"] == "failed":
            raise DeploymentError(f"{answer['said']} (the deployment goes on as before)")
        if time.monotonic() > deadline:
            raise DeploymentError(f"no answer within {timeout_s:g} s: bcaf-serve status says what becomes of it")
        time.sleep(0.1)
    raise DeploymentError(f"the deployment {name} has ended meanwhile")


class Reloads:
    """The driver's side.

    Args:
        carry_out: loads a checkpoint, and says what came of it; raises BcafError.
        again: the driver ran before: what was loaded then is loaded still.
    """

    def __init__(self, name: str, carry_out: Callable[[str], str], again: bool) -> None:
        self._name, self._carry_out = name, carry_out
        self.answer: dict[str, Any] | None = None
        if not again:
            _request_file(name).unlink(missing_ok=True)
            _loaded_file(name).unlink(missing_ok=True)
        self._seen = (_read(_request_file(name)) or {}).get(
            "id"
        )  # of a driver that has died: its caller asks again

    def look(self) -> None:
        """Begin what is asked for, on a thread."""
        request = _read(_request_file(self._name))
        loading = self.answer is not None and self.answer["state"] == "loading"
        if request is None or request["id"] == self._seen or loading:
            return
        self._seen = request["id"]
        self.answer = {**request, "state": "loading"}
        spawn_thread("reload", partial(self._run, request))

    def _run(self, request: dict[str, str]) -> None:
        state, said = "failed", "it broke"
        try:
            said = self._carry_out(request["checkpoint"])
            state = "done"
            _write(_loaded_file(self._name), request)
        except BcafError as error:
            said = str(error).splitlines()[0]
            log.warning("reload of %s: %s", request["checkpoint"], said)
        finally:
            self.answer = {**request, "state": state, "said": said}


def loaded_checkpoint(name: str) -> str | None:
    """That of the last reload of this deployment, for a driver that is started again."""
    return (_read(_loaded_file(name)) or {}).get("checkpoint")


def _read(path: Path) -> dict[str, str] | None:
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def _write(path: Path, request: dict[str, str]) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(request), encoding="utf-8")


def _request_file(name: str) -> Path:
    return state_folder(name) / "reload.json"


def _loaded_file(name: str) -> Path:
    return state_folder(name) / "reloaded.json"
