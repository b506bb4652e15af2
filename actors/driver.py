"""The process that holds Ray and the actors: Ray's driver. It reports every second; its supervisor restarts it."""

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from types import FrameType
from typing import Any, Protocol, TypeVar

from actors.config import ServeConfig
from actors.endpoints import write_endpoints
from actors.launch import Deployment, Endpoints
from actors.metrics_server import MetricsServer
from actors.monitor_page import MonitorPage
from actors.process_locks import Part, ProcessLock, Witness
from actors.reload import Reloads, loaded_checkpoint
from actors.status import cancel_drain, is_draining, write_status
from bcaf_stream.errors import BcafError, DeploymentError, LoopError
from bcaf_stream.loops import EXIT_CODE

log = logging.getLogger(__name__)

REPORT_S = 1.0
WATCHERS: tuple[Part, ...] = ("supervisor", "standby")  # the second one is the first as soon as that is gone
SUCCESSOR_S = 60.0  # for a new supervisor to take over, before a driver that is of no more use ends


class Loop(Protocol):
    """Something that a thread serves."""

    def check(self) -> None:
        """Raises LoopError when its thread has died."""

    def close(self) -> None: ...


S = TypeVar("S", bound=Loop)


def living(server: S | None) -> S | None:
    """The server; None where its thread has died: the address is free, and it is to be opened again."""
    try:
        if server is not None:
            server.check()
    except LoopError as error:
        log.critical("%s", error)
        assert server is not None
        server.close()
        return None
    return server


class Driver:
    """Runs a deployment until SIGTERM, or until Ray breaks.

    Args:
        again: it ran before; then what is in the way (a port, the disk) is waited for instead of raised.
        ready: told where the deployment is reached, once.
        orphaned: called while there is neither supervisor nor standby; True: go on without them for now, False: go
            down.
    """

    def __init__(
        self,
        config: ServeConfig,
        again: bool,
        ready: Callable[[dict[str, Any]], None],
        orphaned: Callable[[], bool],
    ) -> None:
        self._config, self._again, self._ready, self._orphaned = config, again, ready, orphaned
        self._endpoints: Endpoints | None = None
        self._metrics: MetricsServer | None = None
        self._monitor: MonitorPage | None = None
        self._reloads: Reloads | None = None
        self._trouble: str | None = "starting"
        self._stopping = False
        self._lock = ProcessLock(config.name, "driver")
        if not again:
            cancel_drain(config.name)  # of a deployment that is gone
        elif checkpoint := loaded_checkpoint(config.name):
            self._config = _with_checkpoint(config, checkpoint)
        self._watchers = [Witness(config.name, part) for part in WATCHERS]

    def run(self) -> None:
        """Raises BcafError when the deployment cannot start; ends the process when Ray breaks later."""
        self._listen_to_signals()
        self._report("starting")
        with Deployment(self._config) as deployment:
            if self._again:
                deployment.create()
            else:
                self._endpoints = deployment.up()
            self._serve_metrics(deployment)
            self._serve_monitor()
            self._listen_to_signals()  # again: Ray puts its own handlers in place, which print a stack trace
            self._announce()
            self._reloads = Reloads(self._config.name, partial(self._reload, deployment), self._again)
            self._again = True  # from here on, what cannot be opened is tried again
            self._watch(deployment)
            self._trouble = "going down"
            self._report("going down")
            if self._monitor:
                self._monitor.close()
            if self._metrics:
                self._metrics.close()

    def _serve_metrics(self, deployment: Deployment) -> None:
        """Raises DeploymentError, at the first start: a port may be held by a driver that is dying."""
        self._metrics = living(self._metrics)
        if self._config.metrics.port is None or self._metrics is not None:
            return
        try:
            self._metrics = MetricsServer(self._config.metrics, deployment.metrics, lambda: self._trouble)
        except DeploymentError as error:
            if not self._again:
                raise
            log.warning("%s; tried again", error)

    def _serve_monitor(self) -> None:
        """Raises BcafError, at the first start, as `_serve_metrics`."""
        self._monitor = living(self._monitor)
        if self._config.monitor is None or self._monitor is not None or self._endpoints is None:
            return
        try:
            sound = self._config.hub.journal.sound_folder if self._config.ingest.record else None
            self._monitor = MonitorPage(
                self._config.monitor, self._endpoints.events, self._endpoints.replay, sound
            )
        except BcafError as error:
            if not self._again:
                raise
            log.warning("%s; tried again", error)

    def _watch(self, deployment: Deployment) -> None:
        while not self._stopping:
            draining = is_draining(self._config.name)
            deployment.take_new_calls(not draining, lambda actor: is_draining(self._config.name, actor))
            assert self._reloads
            self._reloads.look()
            deployment.follow_nodes()
            stats = deployment.stats()
            deployment.keep_model(stats)
            deployment.follow_load(stats)
            trouble = deployment.trouble(stats)
            self._trouble = trouble or ("draining" if draining else None if self._endpoints else "starting")
            self._serve_metrics(deployment)
            if self._endpoints is None and trouble is None:
                self._endpoints = deployment.ready()
                self._serve_monitor()
                self._announce()
            else:
                self._follow_endpoints(deployment, stats)
                self._serve_monitor()
            if trouble is None and self._endpoints:
                if draining:
                    calls = sum(its.get("calls", 0) for its in stats.values())
                    reason = f"calls still running: {calls}; none begins"
                    self._report("draining", actors=stats, reason=reason)
                else:
                    self._report("up", actors=stats)
            else:
                state = "degraded" if self._endpoints else "starting"
                self._report(state, actors=stats, reason=trouble or "not all actors have answered yet")
            try:
                deployment.keep_running(REPORT_S)
            except DeploymentError as error:
                self._break_off(error)
            if self._is_alone and not self._orphaned():
                return

    def _reload(self, deployment: Deployment, checkpoint: str) -> str:
        endpoints, found = deployment.reload(checkpoint)
        self._endpoints = endpoints
        judged = f"{found.judged} of {found.utterances} utterances of the demo call have an emotion"
        return f"{endpoints.model} judges from now on: {judged}, {found.agreed} the same as before"

    @property
    def _is_alone(self) -> bool:
        return not any(watcher.is_alive() for watcher in self._watchers)

    def _break_off(self, error: BcafError) -> None:
        """Ray is beyond help, and so is every orderly way out through it: the supervisor clears up."""
        log.critical("%s", error)
        self._report("restarting", reason=str(error))
        deadline = time.monotonic() + SUCCESSOR_S  # both may have been killed at once
        while self._is_alone and time.monotonic() < deadline and self._orphaned():
            time.sleep(0.1)
        os._exit(EXIT_CODE)

    def _announce(self) -> None:
        if self._endpoints:
            self._write_endpoints()
            self._ready(self._where())

    def _follow_endpoints(self, deployment: Deployment, stats: dict[str, dict[str, Any]]) -> None:
        """Replicas of ingest come and go with their nodes."""
        known = {endpoint.replica for endpoint in self._endpoints.endpoints} if self._endpoints else set()
        listening = {name for name, its in stats.items() if name.startswith("ingest") and its.get("ready")}
        if self._endpoints and known - {"hub"} != listening and (found := deployment.ready()):
            self._endpoints = found
            self._write_endpoints()

    def _write_endpoints(self) -> None:
        """Raises DeploymentError, at the first start."""
        path = self._config.endpoints_file
        if path is None or self._endpoints is None:
            return
        try:
            write_endpoints(path, self._config.name, self._endpoints.endpoints)
        except DeploymentError as error:
            if not self._again:
                raise
            log.warning("%s", error)

    def _report(self, state: str, **more: Any) -> None:
        self._lock.keep()
        write_status(self._config.name, {"state": state, "driver": os.getpid(), **self._where(), **more})

    def _where(self) -> dict[str, Any]:
        """What `up` and `status` print; a key of what is not switched on is left out."""
        where = asdict(self._endpoints) if self._endpoints else {}
        if self._metrics:
            where["metrics"] = self._metrics.endpoint
        if self._monitor:
            where["monitor"] = self._monitor.address
        if self._reloads and self._reloads.answer:
            where["reload"] = self._reloads.answer
        return where

    def _listen_to_signals(self) -> None:
        def stop(number: int, _: FrameType | None) -> None:
            self._stopping = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)


def _with_checkpoint(config: ServeConfig, checkpoint: str) -> ServeConfig:
    model = config.analyzer.model.model_copy(update={"checkpoint": checkpoint})
    return config.model_copy(update={"analyzer": config.analyzer.model_copy(update={"model": model})})
