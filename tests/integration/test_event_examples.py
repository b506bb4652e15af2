"""The examples of the documentation run as they stand, but for the addresses."""

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bcaf_stream.events import publisher, subscriber
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from tests.components import require


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[EventHub]:
    journal = JournalConfig(path=tmp_path / "events.sqlite", durability="crash")
    bind = {"bus": BusConfig(bind="tcp://127.0.0.1:*"), "replay": ReplayConfig(bind="tcp://127.0.0.1:*")}
    with EventHub(EventHubConfig(journal=journal, **bind)) as running:
        yield running


def example_of(module: ModuleType) -> str:
    lines = str(module.__doc__).splitlines()
    return textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))


def call() -> list[Event]:
    felt = Event(type="emotion.final", id="1", call="a", channel="left", seq=0, emitted_at=1, emotion="joy")
    return [felt, Event(type="call.end", id="2", call="a", seq=1, emitted_at=2)]


def test_the_subscriber_of_ten_lines(hub: EventHub, tmp_path: Path):
    hub.publish(call()).result(10)
    addresses = f"EventSubscriber({hub.bus.endpoint!r}, {hub.replay.endpoint!r}, "
    code = example_of(subscriber).replace("EventSubscriber(", addresses)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("a left joy None\n", "")
    assert (tmp_path / "my-place.json").exists()


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_plain_pyzmq_and_msgpack_read_along(hub: EventHub):
    code = example_of(publisher).replace("tcp://127.0.0.1:5561", hub.bus.endpoint)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert hub.bus.wait_for_subscriber(30)
        hub.publish(call()).result(10)
        lines: list[str] = []
        while len(lines) < 2:
            line = process.stdout.readline()
            assert line
            lines += [] if line.startswith("heartbeat") else [line]
        process.kill()
    assert lines == ["emotion.final 0\n", "call.end 1\n"]


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("node")
    folder = tmp_path_factory.mktemp("javascript")
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "zeromq", "@msgpack/msgpack"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, timeout=100, check=False)
    if installed.returncode:
        require("node", "npm cannot install zeromq here")
    return folder


def test_javascript_reads_along(hub: EventHub, node_modules: Path):
    (code,) = re.findall(r"```js\n(.*?)```", README, re.DOTALL)
    code = code.replace("tcp://127.0.0.1:5561", hub.bus.endpoint)
    (node_modules / "example.js").write_text(code, encoding="utf-8")
    command = ["node", "example.js"]
    with subprocess.Popen(command, cwd=node_modules, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert hub.bus.wait_for_subscriber(30)
        hub.publish(call()).result(10)
        lines: list[str] = []
        while len(lines) < 2:
            line = process.stdout.readline()
            assert line
            lines += [] if "heartbeat" in line else [line]
        process.kill()
    assert lines == ["a left emotion.final joy {}\n", "a  call.end null {}\n"]


def test_the_replay_in_plain_pyzmq(hub: EventHub, tmp_path: Path):
    more = [Event(type="alert", id=f"b-{n}", call="b", seq=n, emitted_at=1) for n in range(1998)]
    hub.publish(call() + more).result(10)
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "zmq.DEALER" in block)
    for credit in (1000, 250, 2000):  # more is asked for on the way; the last one is used up exactly
        mine = code.replace("tcp://127.0.0.1:5562", hub.replay.endpoint).replace("1000}", f"{credit}}}")
        command = [sys.executable, "-c", mine]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[:2] == ["1 a emotion.final joy", "2 a call.end None"]
        assert [line.split()[0] for line in lines] == [str(n) for n in range(1, 2001)]


def test_the_subscriber_of_the_readme(hub: EventHub, tmp_path: Path):
    hub.publish(call()).result(10)
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "EventSubscriber" in block
    )
    code = code.replace("EventSubscriber(", f"EventSubscriber({hub.bus.endpoint!r}, {hub.replay.endpoint!r}, ")
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(
        command, cwd=tmp_path, env={"PYTHONPATH": root}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["a 0 emotion.final joy\n", "a 1 call.end None\n"]
        process.kill()
