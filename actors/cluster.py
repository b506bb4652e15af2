"""Ray itself: it is started or joined here, watched, and left; and its errors become one line."""

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray._private import ray_constants, worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import RayError

from bcaf_stream.errors import BcafError, DeploymentError
from bcaf_stream.folders import ray_folder, why_ray_cannot_use
from bcaf_stream.loops import spawn_thread

TOKEN = Path(".ray") / "auth_token"  # in the home folder
NEVER_RAN = "The actor never ran"  # so ends a token that meets a cluster without tokens
ANSWER_S = 5.0  # for a cluster's head to take a connection
PROBE_S = 1.0
SLOW_S = 4.0  # without an answer of the cluster's head: said
LOST_S = 45.0  # before Ray's own processes give up, one after another (60 s)
SYSTEM = {"health_check_failure_threshold": 20}  # a node that stood still for half a minute is no dead node


class Node(NamedTuple):
    """A living node: its id in Ray, its address, its labels, and what it has in all."""

    id: str
    host: str
    labels: Mapping[str, str]
    resources: Mapping[str, float]


class Cluster:
    """The Ray of this process: its own, that of the program around it, or a cluster's.

    Args:
        address: a cluster's; None starts a local Ray, which ends with this process.
        num_cpus: of a local one; None: the machine's.
        runtime_env: handed to Ray as it is, for a cluster whose nodes do not have this package installed.

    Raises:
        DeploymentError: Ray cannot be started or reached.
    """

    def __init__(
        self, address: str | None = None, num_cpus: int | None = None, runtime_env: dict[str, Any] | None = None
    ) -> None:
        self.owned = not ray.is_initialized()
        if self.owned:
            _connect(address, num_cpus, runtime_env)
        self._asked_at: float | None = None  # a question that has no answer yet
        self._next_probe = 0.0
        self._node_lost = False
        self._nodes: list[Node] | None = None

    def has(self, kind: str) -> float:
        """How much of a resource (CPU, GPU) there is in all, taken or free."""
        return float(ray.cluster_resources().get(kind, 0.0))

    def require(self, needed: Mapping[str, float], who: str, remedy: str) -> None:
        """Raises DeploymentError where Ray has less in all: it would wait for ever for what nobody brings."""
        for kind, amount in needed.items():
            if amount > self.has(kind):
                raise DeploymentError(f"{who} needs {amount:g} {kind}s and Ray has {self.has(kind):g}: {remedy}")

    def nodes(self) -> list[Node]:
        """Those that live, as the head said when it was asked last, in an order that stays."""
        if self._nodes is None:
            self._nodes = _living(ray.nodes())
        return self._nodes

    def trouble(self) -> str | None:
        """What is wrong with Ray and may pass: its head gives no answer."""
        silent_s = self._probe()
        return f"Ray's head has not answered for {silent_s:.0f} s" if silent_s > SLOW_S else None

    def check(self) -> None:
        """Raises DeploymentError when this Ray will not come back: a process of it died, or its head is gone."""
        node = worker._global_node
        dead: list[str] = [kind for kind, _ in node.dead_processes()] if node is not None else []
        died = [kind for kind in dead if kind in ("raylet", "gcs_server")]
        if died:
            raise DeploymentError(f"Ray is broken: its {died[0]} died")
        silent_s = self._probe()
        if self._node_lost:
            raise DeploymentError("Ray is broken: the cluster has given up this node")
        if silent_s > LOST_S:
            raise DeploymentError(f"Ray is broken: its head has not answered for {LOST_S:g} s")

    def leave(self) -> None:
        if self.owned:
            ray.shutdown()

    def _probe(self) -> float:
        """Ask the head once in a while, on a thread, for it may be that no answer comes; since when none has."""
        now, asked_at = time.monotonic(), self._asked_at
        if asked_at is not None:
            return now - asked_at
        if now >= self._next_probe:
            self._asked_at, self._next_probe = now, now + PROBE_S
            spawn_thread("question to Ray's head", self._ask_head)
        return 0.0

    def _ask_head(self) -> None:
        try:
            nodes = ray.nodes()
            self._nodes = _living(nodes)
            mine = ray.get_runtime_context().get_node_id()
            self._node_lost = any(node["NodeID"] == mine and not node["Alive"] for node in nodes)
        finally:
            self._asked_at = None


def _living(nodes: list[dict[str, Any]]) -> list[Node]:
    alive = [node for node in nodes if node["Alive"]]
    found = [Node(n["NodeID"], n["NodeManagerAddress"], n["Labels"], n["Resources"]) for n in alive]
    return sorted(found, key=lambda node: (node.host, node.id))


def plain(error: BaseException, what: str) -> BcafError:
    """The reason in one line: the BcafError that was raised, however deep Ray has wrapped it, or Ray's own words.

    Args:
        what: what has happened, as the sentence that ends in the reason begins.
    """
    own = _own(error)
    if own is not None:
        return own
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    told = [text for text in lines if text.startswith("bcaf_stream.errors.")]  # of an actor that could not be made
    if told:
        return DeploymentError(told[-1].partition(": ")[2])
    hint = (
        ": has the cluster no authentication? then set RAY_AUTH_MODE=disabled" if NEVER_RAN in str(error) else ""
    )
    return DeploymentError(f"{what}: {lines[-1] if lines else type(error).__name__}{hint}")


def _own(error: BaseException | None) -> BcafError | None:
    """A RayTaskError is of its cause's class too, and as long as a traceback: its cause is what was raised."""
    while error is not None:
        within = getattr(error, "cause", None) or getattr(error, "_base_exc", None) or error.__cause__
        if isinstance(error, BcafError) and not isinstance(error, RayError):
            return error
        error = within
    return None


def _connect(address: str | None, num_cpus: int | None, runtime_env: dict[str, Any] | None) -> None:
    if address:
        _require_listener(address)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # Ray does it for address="auto" alone
    else:
        if problem := why_ray_cannot_use(*ray_folder()):
            raise DeploymentError(problem)
        _stay_on_loopback()
        _close_token()
    options: dict[str, Any] = {} if address else {"num_cpus": num_cpus, "_system_config": SYSTEM}
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            runtime_env=runtime_env or None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:  # OSError: ConnectionError and TimeoutError too
        where = f"the Ray cluster at {address} cannot be reached" if address else "a local Ray cannot be started"
        raise DeploymentError(f"{where}: {_reason(error)}") from None


def _require_listener(address: str) -> None:
    """Ray itself goes on for minutes where nobody answers; `auto` and the like are left to it."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DeploymentError(f"the Ray cluster at {address} cannot be reached: {reason}") from None


def _stay_on_loopback() -> None:
    """Ray's own switch, meant for other systems: no port is open beyond this machine. It is read at import."""
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _close_token() -> None:
    """The token that lets into a local Ray: readable by its owner alone; kept in memory where there is no home."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / TOKEN
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), open(path, "x", opener=_private) as file:
            file.write(secrets.token_hex(32))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        if not path.read_text(encoding="utf-8").strip():
            raise OSError
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _reason(error: BaseException) -> str:
    """Ray's own words for it, or what they mean."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    if "InvalidAuthToken" in text or "couldn't find an authentication token" in text:
        return "it asks for a token, and there is none here or another: ~/.ray/auth_token or RAY_AUTH_TOKEN_PATH"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
