"""The event commands of bcaf-stream, as a user runs them, on a real journal and a real hub."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from bcaf_stream.cli.main import app
from bcaf_stream.events.codec import to_map
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance
from tests.deployed import free_address

LABELS = ("anger", "joy")


def call_events(name: str, joys: int, angers: int) -> list[Event]:
    call = Call(name, (Channel("left", "customer"),))
    writer = EventWriter(call, "test-model")
    events = [writer.start()]
    for n in range(joys + angers):
        probs = (0.2, 0.8) if n < joys else (0.8, 0.2)
        utterance = Utterance(name, "left", "customer", n, n * 1000, n * 1000 + 500, None, "so, well", "given")
        events.append(writer.final(utterance, EmotionPrediction(LABELS, probs, None, None, ("text",))))
    return [*events, writer.end("complete")]


@pytest.fixture
def journal(tmp_path: Path) -> JournalConfig:
    config = JournalConfig(path=tmp_path / "events.sqlite", durability="crash")
    with Journal(config) as opened:
        opened.append(call_events("first", 2, 1))
        opened.append(call_events("second", 1, 3))
    return config


@pytest.fixture
def hub(journal: JournalConfig) -> Iterator[EventHub]:
    bus, replay = BusConfig(bind="tcp://127.0.0.1:*"), ReplayConfig(bind="tcp://127.0.0.1:*")
    with EventHub(EventHubConfig(journal=journal, bus=bus, replay=replay)) as running:
        yield running


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_calls_are_listed_with_their_dominant_emotion(journal: JournalConfig):
    rows = [line.split() for line in run("calls", "--journal", journal.path).splitlines()]
    found = {row[1]: [cell for cell in row if cell not in "│"] for row in rows if len(row) > 2}
    assert found["first"] == ["first", "5", "3", "joy", "yes"]
    assert found["second"] == ["second", "6", "4", "anger", "yes"]


def test_export_gives_the_same_events_in_each_format(journal: JournalConfig, tmp_path: Path):
    with Journal(journal, read_only=True) as opened:
        expected = [to_map(event) for event in opened.read(from_offset=4)]
    options = ("--since", 4, "--journal", journal.path)
    assert [json.loads(line) for line in run("export", *options).splitlines()] == expected
    rows = list(csv.DictReader(io.StringIO(run("export", "--format", "csv", *options))))
    assert [row["text"] or None for row in rows] == [event["text"] for event in expected]
    run("export", "--format", "parquet", "--output", tmp_path / "out.parquet", *options)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in table] == [event["id"] for event in expected]
    assert [dict(row["probs"]) for row in table] == [event["probs"] for event in expected]


def test_a_call_is_erased_while_the_hub_runs(hub: EventHub, journal: JournalConfig):
    assert "5 events erased" in run("erase", "first", "--yes", "--journal", journal.path)
    assert {event.call for event in hub.journal.read()} == {"second"}
    last = hub.publish(call_events("third", 1, 0)).result(10)[-1]
    assert last == 14
    assert "had been erased before" in run("erase", "first", "--yes", "--journal", journal.path)
    result = CliRunner().invoke(app, ["erase", "nobody", "--yes", "--journal", str(journal.path)])
    assert "no such call" in str(result.exception)


@pytest.mark.parametrize("format", ["table", "jsonl", "csv"])
def test_listen_from_the_start_keeps_its_place(hub: EventHub, tmp_path: Path, format: str):
    where = ("--connect", hub.bus.endpoint, "--replay", hub.replay.endpoint, "--format", format)
    place = ("--position", tmp_path / "place.json", "--from", "start", "--until-end")
    first, second = run("listen", *where, *place), run("listen", *where, *place)
    header = 1 if format == "csv" else 0
    assert len(first.splitlines()) == 5 + header
    assert len(second.splitlines()) == 6 + header


def test_a_call_is_published_again(journal: JournalConfig):
    bind = free_address()
    command = ["-m", "bcaf_stream.cli.main", "replay", "second", "--speed", "0", "--bind", bind]
    arguments = [sys.executable, *command, "--journal", str(journal.path)]
    with EventSubscriber(bind, None) as listener:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        found = [listener.receive(30) for _ in range(6)]
        out, _ = process.communicate(timeout=30)
    with Journal(journal, read_only=True) as opened:
        assert found == list(opened.read(call="second"))
    assert out == "call second: 6 events published again\n"


def test_keys_are_made_allowed_and_revoked(tmp_path: Path):
    folder = ("--folder", tmp_path / "keys")
    assert run("keys", "new", "anna", *folder).strip() == str(tmp_path / "keys" / "anna.json")
    run("keys", "allow", "anna", "--topics", "emo.v1.callA.", *folder)
    allowed = json.loads((tmp_path / "keys" / "allowed.json").read_text())
    assert allowed["anna"]["topics"] == ["emo.v1.callA."]
    run("keys", "revoke", "anna", *folder)
    assert json.loads((tmp_path / "keys" / "allowed.json").read_text()) == {}
