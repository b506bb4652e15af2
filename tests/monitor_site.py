"""A monitor for tests: in this process, or one of its own that can be killed; a client that reads its stream."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.loops import start_thread
from bcaf_stream.monitor.config import HubAddress, MonitorConfig
from bcaf_stream.monitor.server import Monitor
from tests.deployed import free_address

WAIT_S = 30.0  # only a failing test waits that long


def hub_config(folder: Path, **bus: object) -> EventHubConfig:
    return EventHubConfig(
        journal=JournalConfig(path=folder / "events.sqlite", durability="crash"),
        bus=BusConfig(bind=free_address(), **bus),
        replay=ReplayConfig(bind=free_address()),
        heartbeat_s=0.2,
    )


def hub_address(hub: EventHubConfig, **more: Any) -> HubAddress:
    return HubAddress(events=hub.bus.bind, replay=hub.replay.bind, history_days=36_500, **more)


@contextmanager
def serving(folder: Path, hub: HubAddress, **options: Any) -> Iterator[Monitor]:
    """A monitor in this process."""
    monitor = Monitor(MonitorConfig(port=0, hub=hub, audit=folder / "audit.jsonl", **options))
    thread = start_thread("test monitor", lambda ending: monitor.run(lambda _: None))
    try:
        yield monitor
    finally:
        thread.ending.set()
        monitor.stop()
        assert thread.end(10)


class MonitorProcess:
    """`bcaf-stream monitor` as a user starts it, always on the same port; `kill` is SIGKILL."""

    def __init__(self, folder: Path, hub: EventHubConfig) -> None:
        port = free_address().rpartition(":")[2]
        self._command = [sys.executable, "-m", "bcaf_stream.cli.main", "monitor", "--connect", hub.bus.bind]
        self._command += ["--replay", hub.replay.bind, "--port", port, "--audit", str(folder / "audit.jsonl")]
        self.address = f"http://127.0.0.1:{port}/"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"monitor: {self.address}\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self) -> tuple[int, str]:
        """SIGTERM; the exit code and what it has said."""
        self._process.terminate()
        said, _ = self._process.communicate(timeout=20)
        return self._process.returncode, said


class Answer:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.text = body.decode("utf-8", "replace")


def ask(address: str, path: str, method: str = "GET", body: object = None, **headers: str) -> Answer:
    """One request; names of headers with _ for -."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=WAIT_S)
    data = json.dumps(body).encode() if body is not None and not isinstance(body, bytes) else body
    connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
    with connection.getresponse() as answer:
        found = Answer(answer.status, answer.headers, answer.read())
    connection.close()
    return found


class Stream:
    """The page's stream as a browser reads it; `id` is the last one that came."""

    def __init__(self, address: str, call: str = "", last: str | None = None, **headers: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=WAIT_S)
        asked = {"Last-Event-ID": last} if last is not None else {}
        self._connection.request("GET", f"/stream?{urlencode({'call': call})}", headers={**asked, **headers})
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self.id = last

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while line := self._answer.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                self.id = value
            elif name == "data":
                yield json.loads(value)

    def until(self, right: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The messages up to the first one that is right."""
        deadline, seen = time.monotonic() + WAIT_S, []
        for message in self:
            seen.append(message)
            if right(message):
                return seen
            assert time.monotonic() < deadline, "nothing like that came"
        raise AssertionError("the stream ended")

    def events(self, count: int) -> list[dict[str, Any]]:
        """The call's events, until there are so many, and the message behind the last of them has its id."""
        found: list[dict[str, Any]] = []
        self.until(lambda message: len(found.extend(message.get("events", ())) or found) >= count)
        return found

    def close(self) -> None:
        self._answer.close()
        self._connection.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def hub_of(config: EventHubConfig) -> Iterator[EventHub]:
    with EventHub(config) as hub:
        yield hub
