"""The examples of the documentation run as they stand, but for the addresses."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bcaf_stream.events import listener, subscriber
from bcaf_stream.events.bus import BusConfig
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal_file import JournalConfig
from bcaf_stream.events.messages import Event
from bcaf_stream.events.replay import ReplayConfig


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


def test_plain_pyzmq_and_msgpack_read_along(hub: EventHub):
    code = example_of(listener).replace("tcp://127.0.0.1:5561", hub.bus.endpoint)
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
