"""The process that owns a deployment: it starts it, keeps it running, reports on it, and ends it."""

import signal
from collections.abc import Callable
from dataclasses import asdict
from types import FrameType
from typing import Any

from actors.config import ServeConfig
from actors.launch import Deployment
from actors.report import Report

REPORT_S = 1.0


def supervise(config: ServeConfig, ready: Callable[[dict[str, Any]], None]) -> None:
    """Run the deployment until SIGTERM or SIGINT.

    Raises:
        DeploymentError: one of that name runs already, or it cannot start.
    """
    stopping: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)

    def watch() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    watch()
    with Report(config.name) as report, Deployment(config) as deployment:
        report.write({"state": "starting"})
        endpoints = asdict(deployment.up())
        watch()  # again: Ray puts its own handlers in place, which print a stack trace
        report.write({"state": "up", **endpoints, "actors": deployment.stats()})
        ready(endpoints)
        while not stopping:
            deployment.keep_running(REPORT_S)
            report.write({"state": "up", **endpoints, "actors": deployment.stats()})
        report.write({"state": "going down", **endpoints})
