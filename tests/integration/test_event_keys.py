"""Keys: who may read what, on real encrypted sockets."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from actors.cli import INSECURE
from actors.cli import main as serve
from actors.config import ServeConfig
from bcaf_stream.cli.main import main as stream
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, EventError
from bcaf_stream.events.auth import KeyRing, load_client_key
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from tests.commands import run_command
from tests.deployed import free_address
from tests.waiting import elapse

WAIT_S = 20.0
NOTICED_S = 1.0  # how soon a change of the keys counts, as documented
GRANTS = {  # name -> what it is allowed, from before the hub begins
    "carl": ["emo.v1.callA.", "emo.v1.callA.left.", "emo.v1.callB.", "emo.v1.callB.right."],
    "lefty": ["emo.v1.callA.left."],
    "alice": ["emo.v1.alice", "emo.v1.c.left.emotion.final"],
    "dora": ["emo.v1.callA.", "emo.v1.callB."],
}
GRANTED = {"alice": ["emo.v1.alice.", "emo.v1.c.left.emotion.final"]}  # where it is not the same


def event(seq: int, call: str) -> Event:
    return Event(type="alert", id=f"{call}-{seq}", call=call, channel="left", seq=seq, emitted_at=1)


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path / "keys")
    for name in ("anna", "boss", "nobody"):
        ring.new(name)
    ring.allow("anna", ["emo.v1.callA."])
    ring.allow("boss", ["emo.v1."])
    for name, topics in GRANTS.items():
        ring.new(name)
        assert ring.allow(name, topics) == GRANTED.get(name, topics)
    return ring


@pytest.fixture
def hub(ring: KeyRing, tmp_path: Path) -> Iterator[EventHub]:
    config = EventHubConfig(
        journal=JournalConfig(path=tmp_path / "events.sqlite", durability="crash"),
        bus=BusConfig(bind=free_address(), keys=tmp_path / "keys"),
        replay=ReplayConfig(bind=free_address()),
        heartbeat_s=0.2,
    )
    with EventHub(config) as running:
        yield running


def subscriber(
    hub: EventHub, tmp_path: Path, name: str, topics: tuple[str, ...] = ("emo.v1.",)
) -> EventSubscriber:
    key = tmp_path / "keys" / f"{name}.json"
    return EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, topics, "start", key=key)


def ids_within(reader: EventSubscriber, seconds: float) -> list[str]:
    return [e.id for e in reader.events(seconds)]


@pytest.mark.parametrize("topics", [("emo.v1.",), ("emo.v1.callA.", "emo.v1.callB."), ("emo.v1.call",), ("",)])
def test_a_key_for_one_call_never_gets_another(hub: EventHub, tmp_path: Path, topics: tuple[str, ...]):
    hub.publish([event(0, "callA"), event(0, "callB")]).result(WAIT_S)
    with subscriber(hub, tmp_path, "anna", topics) as anna, subscriber(hub, tmp_path, "boss") as boss:
        assert anna.receive(WAIT_S).id == "callA-0"
        hub.publish([event(1, "callB"), event(1, "callA")]).result(WAIT_S)
        assert anna.receive(WAIT_S).id == "callA-1"
        assert ids_within(anna, 0.5) == []
        assert ids_within(boss, 1.0) == ["callA-0", "callB-0", "callB-1", "callA-1"]


def test_unknown_wrong_and_missing_keys_get_nothing_and_are_counted(hub: EventHub, tmp_path: Path):
    hub.publish([event(0, "callA")]).result(WAIT_S)
    stranger = KeyRing(tmp_path / "other").new("stranger")
    forged = json.loads((tmp_path / "keys" / "boss.json").read_text()) | {
        "secret": zmq.curve_keypair()[1].decode()
    }
    (tmp_path / "keys" / "forged.json").write_text(json.dumps(forged))
    (tmp_path / "keys" / "forged.json").chmod(0o600)
    for key in (tmp_path / "keys" / "nobody.json", stranger, tmp_path / "keys" / "forged.json", None):
        with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start", key=key) as reader:
            assert reader.receive(0.5) is None
    assert hub.stats()["refused"] > 0


def test_a_revoked_key_is_shut_out_while_it_listens(hub: EventHub, ring: KeyRing, tmp_path: Path):
    with subscriber(hub, tmp_path, "anna") as anna, subscriber(hub, tmp_path, "boss") as boss:
        hub.publish([event(0, "callA")]).result(WAIT_S)
        assert anna.receive(WAIT_S).id == boss.receive(WAIT_S).id == "callA-0"
        ring.revoke("anna")
        elapse(NOTICED_S, "the key was let in until now")
        hub.publish([event(1, "callA")]).result(WAIT_S)
        assert boss.receive(WAIT_S).id == "callA-1"
        assert ids_within(anna, 0.5) == []


def test_a_key_that_others_may_read_is_refused(ring: KeyRing, tmp_path: Path):
    path = tmp_path / "keys" / "anna.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(EventError, match="chmod 600"):
        load_client_key(path)


@pytest.mark.parametrize("name", ["", "../x", "server", "allowed", "a b", "x" * 65])
def test_names_that_are_none(ring: KeyRing, name: str):
    with pytest.raises(EventError, match="a name has"):
        ring.new(name)


def test_what_cannot_be_allowed_or_revoked(ring: KeyRing):
    with pytest.raises(EventError, match=r"must begin with emo\.v1\."):
        ring.allow("anna", ["callA"])
    with pytest.raises(EventError, match="no such key"):
        ring.allow("zoe", ["emo.v1."])
    with pytest.raises(EventError, match="was allowed nothing"):
        ring.revoke("nobody")
    with pytest.raises(EventError, match="there is a key of that name"):
        ring.new("anna")


def test_off_this_machine_there_are_keys_or_nothing(tmp_path: Path):
    off = ["bus.bind='tcp://0.0.0.0:5561'", "replay.bind='tcp://0.0.0.0:5562'"]
    with pytest.raises(ConfigError, match="keys: FOLDER"):
        load_config(EventHubConfig, None, off)
    with pytest.raises(ConfigError, match=r"replay\.bind: only this machine"):
        load_config(EventHubConfig, None, off[1:])
    config = load_config(EventHubConfig, None, [*off, f"bus.keys={tmp_path}", f"journal.path={tmp_path / 'j'}"])
    with pytest.raises(EventError, match="no key of the server: make one with bcaf-stream keys new"):
        EventHub(config)


def test_serving_off_this_machine_needs_keys_or_the_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    off = ["hub.bus.bind='tcp://0.0.0.0:0'", "hub.replay.bind='tcp://0.0.0.0:0'"]
    options = [word for setting in off for word in ("--set", setting)]
    refused = run_command(serve, ["up", "--foreground", *options], monkeypatch, capsys)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "hub.bus.bind" in refused.err
    assert "--insecure" in refused.err
    config = load_config(ServeConfig, None, [*INSECURE, *off, f"hub.journal.path={tmp_path / 'j'}"])
    with EventHub(config.hub) as hub:
        assert hub.bus.endpoint.startswith("tcp://0.0.0.0:")
    config = load_config(ServeConfig, None, [*INSECURE, "ingest.link.bind='tcp://0.0.0.0:0'"])
    assert config.ingest.link.bind == "tcp://0.0.0.0:0"


def test_publishing_a_call_again_off_this_machine_needs_the_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    with Journal(JournalConfig(path=tmp_path / "j")) as journal:
        journal.append([event(0, "callA")])
    command = ["replay", "callA", "--bind", "tcp://0.0.0.0:*", "--wait", "0", "--journal", str(tmp_path / "j")]
    refused = run_command(stream, command, monkeypatch, capsys)
    assert (refused.code, "--insecure" in refused.err) == (2, True)
    waited = run_command(stream, [*command, "--insecure"], monkeypatch, capsys)
    assert (waited.code, "nobody listened" in waited.err) == (1, True)


def test_overlapping_prefixes_give_their_union_and_no_event_twice(hub: EventHub, ring: KeyRing, tmp_path: Path):
    hub.publish([event(0, "callA"), event(0, "callB"), event(0, "other")]).result(WAIT_S)
    asked = ("emo.v1.callA.", "emo.v1.ca", "emo.v1.callA.left.alert", "emo.v1.other.")
    with subscriber(hub, tmp_path, "carl", asked) as carl:
        assert [carl.receive(WAIT_S).id for _ in range(2)] == ["callA-0", "callB-0"]
        for n in range(1, 20):  # until it is followed live: what is published meanwhile comes by replay as well
            before = carl.duplicates
            hub.publish([event(n, "other"), event(n, "callB"), event(n, "callA")]).result(WAIT_S)
            assert {carl.receive(WAIT_S).id for _ in range(2)} == {f"callA-{n}", f"callB-{n}"}
            assert ids_within(carl, 0.2) == []
            if carl.duplicates == before:
                return
        pytest.fail("each event is sent twice")


@pytest.mark.parametrize(
    "name", ["callA.left", "callA", "emo.v1.callA", "callA.\x00", "call%41", "callA%2E", "callA\n", "*", ""]
)
def test_a_call_with_a_forged_name_does_not_reach_the_topic_of_another(hub: EventHub, tmp_path: Path, name: str):
    hub.publish([event(0, "callA")]).result(WAIT_S)
    with subscriber(hub, tmp_path, "anna") as anna, subscriber(hub, tmp_path, "boss") as boss:
        assert [anna.receive(WAIT_S).id, boss.receive(WAIT_S).id] == ["callA-0", "callA-0"]
        forged = replace(event(1, name), id="forged")
        hub.publish([forged, event(2, "callA")]).result(WAIT_S)
        assert [boss.receive(WAIT_S).id for _ in range(2)] == ["forged", "callA-2"]
        found = [anna.receive(WAIT_S).id, *ids_within(anna, 0.3)]
        assert found == (["forged", "callA-2"] if name == "callA" else ["callA-2"])


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("nobody", "a connection with a key that is not let in"),
        ("stranger", "a connection without the right key"),
        ("no key", "a connection without the right key"),
        ("browser", "or of another protocol"),
    ],
)
def test_who_is_not_let_in_is_counted_and_logged_once_in_a_while_without_its_key(
    hub: EventHub, tmp_path: Path, caplog: pytest.LogCaptureFixture, who: str, why: str
):
    stranger = KeyRing(tmp_path / "other").new("stranger")  # which knows another server
    key = {"nobody": tmp_path / "keys" / "nobody.json", "stranger": stranger}.get(who)
    if who == "browser":
        with socket.create_connection(("127.0.0.1", int(hub.bus.endpoint.rpartition(":")[2]))) as browser:
            browser.sendall(b"GET /secret HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 100)
            browser.settimeout(WAIT_S)
            with suppress(ConnectionError):
                while browser.recv(1000):
                    pass
    with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, key=key) as reader:
        deadline = time.monotonic() + WAIT_S
        while hub.stats()["refused"] < 2 or why not in caplog.text:
            assert reader.receive(0.05) is None
            assert time.monotonic() < deadline
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) <= 4
    secrets = json.loads((key or stranger).read_text())
    hidden = [secrets[part] for part in ("public", "secret", "server")]
    assert not any(word in caplog.text for word in [*hidden, "GET"])


def test_a_key_for_one_channel_gets_it_without_loss_though_seq_counts_the_whole_call(
    hub: EventHub, ring: KeyRing, tmp_path: Path
):
    both = [replace(event(n, "callA"), channel=("left", "right")[n % 2]) for n in range(20)]
    hub.publish(both[:10]).result(WAIT_S)
    with subscriber(hub, tmp_path, "lefty", ("emo.v1.callA.left.",)) as lefty:
        assert [lefty.receive(WAIT_S).seq for _ in range(5)] == [0, 2, 4, 6, 8]
        hub.publish(both[10:]).result(WAIT_S)
        assert [lefty.receive(WAIT_S).seq for _ in range(5)] == [10, 12, 14, 16, 18]
        assert ids_within(lefty, 0.6) == []
        assert lefty.gaps == 0


def test_a_key_for_a_call_is_not_one_for_calls_whose_names_begin_with_its_name(
    hub: EventHub, ring: KeyRing, tmp_path: Path
):
    allowed = json.loads((tmp_path / "keys" / "allowed.json").read_text())
    allowed["anna"]["topics"] = ["emo.v1.callA"]  # as it could be written before
    (tmp_path / "keys" / "allowed.json").write_text(json.dumps(allowed))
    elapse(NOTICED_S, "a rule that was written by hand is read")
    names = ("alicebob", "callAB", "alice", "callA")
    hub.publish([event(0, call) for call in names]).result(WAIT_S)
    with subscriber(hub, tmp_path, "alice") as alice, subscriber(hub, tmp_path, "anna") as anna:
        assert [alice.receive(WAIT_S).id, anna.receive(WAIT_S).id] == ["alice-0", "callA-0"]
        whole = Event(type="emotion.final", id="f", call="c", channel="left", seq=0, emitted_at=1)
        hub.publish([*(event(1, call) for call in names), whole, replace(whole, id="g", channel="left2")]).result(
            WAIT_S
        )
        assert [alice.receive(WAIT_S).id for _ in range(2)] == ["alice-1", "f"]
        assert anna.receive(WAIT_S).id == "callA-1"
        assert ids_within(alice, 0.3) == ids_within(anna, 0.3) == []


def test_a_reader_who_drops_its_wide_prefix_still_gets_the_narrow_one(
    hub: EventHub, ring: KeyRing, tmp_path: Path
):
    with zmq.Context() as context, context.socket(zmq.SUB) as reader:
        load_client_key(tmp_path / "keys" / "dora.json").use(reader)
        reader.connect(hub.bus.endpoint)
        for topic in (b"emo.v1.", b"emo.v1.callA.", b"emo.v1...heartbeat"):
            reader.subscribe(topic)
        assert reader.poll(WAIT_S * 1000), "a heartbeat: both are taken up"
        reader.unsubscribe(b"emo.v1.")
        got, deadline, n = [], time.monotonic() + WAIT_S, 0
        while len(got) < 20 and time.monotonic() < deadline:
            hub.publish([event(n, "callB"), event(n, "callA")]).result(WAIT_S)
            n += 1
            while reader.poll(10):
                topic, _ = reader.recv_multipart()
                got += [topic] if b"heartbeat" not in topic else []
        assert got[-10:] == [b"emo.v1.callA.left.alert"] * 10
