"""Keys: who may read what, on real encrypted sockets."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, EventError
from bcaf_stream.events.bus import BusConfig
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal_file import JournalConfig
from bcaf_stream.events.keys import KeyRing, load_client_key
from bcaf_stream.events.messages import Event
from bcaf_stream.events.replay import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from tests.deployed import free_address

WAIT_S = 20.0


def event(seq: int, call: str) -> Event:
    return Event(type="alert", id=f"{call}-{seq}", call=call, channel="left", seq=seq, emitted_at=1)


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path / "keys")
    for name in ("anna", "boss", "nobody"):
        ring.new(name)
    ring.allow("anna", ["emo.v1.callA."])
    ring.allow("boss", ["emo.v1."])
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
        time.sleep(1.0)  # the promise of the documentation
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
