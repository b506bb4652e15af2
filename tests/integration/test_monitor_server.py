"""The monitor's server: its stream, what it forgets, whom it lets in; a real hub, real sockets, no browser."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest

from actors.monitor_page import MonitorPage
from bcaf_stream.errors import ConfigError, EventError, LinkError, UsageError
from bcaf_stream.events.auth import KeyRing
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.inventory import Inventory
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.journal.retention import erase
from bcaf_stream.evidence import CallRecorder
from bcaf_stream.monitor import access, follower
from bcaf_stream.monitor.config import HubAddress, MonitorConfig
from bcaf_stream.monitor.server import Monitor
from bcaf_stream.monitor.stream import Changes
from bcaf_stream.types import AudioChunk, Call, Channel
from tests.deployed import free_address
from tests.hub_process import HubProcess
from tests.monitor_calls import MadeCall
from tests.monitor_site import Answer, MonitorProcess, Stream, ask, hub_address, hub_config, serving
from tests.waiting import until


@pytest.fixture
def config(tmp_path: Path) -> EventHubConfig:
    return hub_config(tmp_path)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "LOOK_S", 0.1)
    monkeypatch.setattr(follower, "CHECK_S", 0.2)


def test_a_page_gets_rows_and_the_call_that_it_looks_at(config: EventHubConfig, tmp_path: Path):
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        made = MadeCall("a <b>.call")
        before = [made.start(), made.say(words="hello there")]
        hub.publish([*before, *MadeCall("other").whole()]).result()
        with Stream(monitor.address, "a <b>.call") as stream:
            assert [event["id"] for event in stream.events(2)] == [event.id for event in before]
            after = made.say(words="and then")
            hub.publish([after]).result()
            (message,) = [m for m in stream.until(lambda m: m.get("events")) if m.get("events")]
            assert message["events"][0]["text"] == "and then"
            assert message["events"][0]["emitted_at"] == str(after.emitted_at)
            assert stream.id == str(message["events"][0]["offset"])
        rows: dict[str, dict] = {}

        def is_told() -> bool:
            return rows.keys() == {"a <b>.call", "other"} and rows["a <b>.call"]["words"] == "and then"

        with Stream(monitor.address) as stream:
            stream.until(lambda m: rows.update({row["call"]: row for row in m.get("rows", ())}) or is_told())
        assert rows["a <b>.call"]["words"] == "and then"
        assert rows["a <b>.call"]["live"] is True
        assert rows["other"]["ended"] == "complete"


def test_who_comes_back_gets_what_he_missed_even_of_a_server_that_was_killed(
    config: EventHubConfig, tmp_path: Path
):
    with EventHub(config) as hub:
        monitor = MonitorProcess(tmp_path, config)
        made = MadeCall("a")
        events = [made.start(), *(made.say() for _ in range(5))]
        hub.publish(events).result()
        with Stream(monitor.address, "a") as stream:
            first = stream.events(6)
            last = stream.id
        monitor.kill()
        hub.publish([made.say() for _ in range(4)]).result()
        monitor.start()
        with Stream(monitor.address, "a", last) as stream:
            second = stream.events(4)
        offsets = [event["offset"] for event in first + second]
        assert offsets == list(range(1, 11))
        code, said = monitor.end()
        assert (code, said) == (0, "")


def test_a_long_call_comes_in_pages_and_in_order(config: EventHubConfig, tmp_path: Path):
    made = MadeCall("long")
    events = [made.start(), *(made.say() for _ in range(1700))]
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        hub.publish(events).result()
        with Stream(monitor.address, "long") as stream:
            assert [event["id"] for event in stream.events(len(events))] == [event.id for event in events]


def test_an_erased_call_is_gone_from_pages_index_and_exports(config: EventHubConfig, tmp_path: Path):
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        secret, kept = MadeCall("secret"), MadeCall("kept")
        hub.publish([*kept.whole(), secret.start(), secret.say(words="xylophone")]).result()
        with Stream(monitor.address, "secret") as stream:
            stream.events(2)
            assert "xylophone" in ask(monitor.address, "/search?words=xylo").text
            with Journal(config.journal, maintenance=True) as journal:
                erase(journal, "secret", time.time_ns())
            (gone,) = [m["gone"] for m in stream.until(lambda m: "gone" in m) if "gone" in m]
        assert gone == ["secret"]
        assert json.loads(ask(monitor.address, "/search?words=xylo").text) == {"hits": [], "more": False}
        assert ask(monitor.address, "/export?call=secret&format=json").status == 404
        assert ask(monitor.address, "/export?call=kept&format=json").status == 200
        with Stream(monitor.address, "secret") as stream:
            message = next(iter(stream))
            assert [row["call"] for row in message["rows"]] == ["kept"]
            assert "events" not in message


def test_what_the_journal_keeps_no_longer_goes(config: EventHubConfig, tmp_path: Path):
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        hub.publish(MadeCall("old").whole()).result()
        hub.publish([call.start() for call in (MadeCall("a"), MadeCall("b"))]).result()
        with Stream(monitor.address) as stream:
            stream.until(lambda m: any(row["call"] == "b" for row in m.get("rows", ())))
            with Journal(config.journal, maintenance=True) as journal, journal.transaction() as db:
                db.execute("DELETE FROM events WHERE call = 'old' OR offset < 10")
            gone = stream.until(lambda m: "gone" in m)[-1]["gone"]
        assert gone == ["old"]
        assert monitor.site.store.counts.keys() == {"a", "b"}


def test_a_hub_that_goes_away_is_said_and_waited_for(config: EventHubConfig, tmp_path: Path):
    made = MadeCall("a")
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        hub.publish([made.start()]).result()
        monitor.site.follower._inventory._patience_s = 0.5
        with Stream(monitor.address, "a") as stream:
            stream.events(1)
            hub.close()
            stream.until(lambda m: (m.get("status") or {}).get("trouble"))
            with EventHub(config) as again:
                stream.until(lambda m: "status" in m and not m["status"]["trouble"])
                again.publish([made.say()]).result()
                assert stream.events(1)[0]["utterance"] == 0


def test_another_journal_begins_everything_anew(config: EventHubConfig, tmp_path: Path):
    with serving(tmp_path, hub_address(config)) as monitor:
        monitor.site.follower._inventory._patience_s = 0.5
        with EventHub(config) as hub:
            hub.publish(MadeCall("first").whole()).result()
            stream = Stream(monitor.address)
            stream.until(lambda m: m.get("rows"))
        for file in tmp_path.glob("events.sqlite*"):
            file.unlink()
        with EventHub(config) as hub, stream:
            hub.publish(MadeCall("second").whole()).result()
            begun = stream.until(lambda m: m.get("reset"))[-1]  # which may have the row already
            rows = begun.get("rows") or stream.until(lambda m: m.get("rows"))[-1]["rows"]
            assert [row["call"] for row in rows] == ["second"]


def test_a_key_limits_what_is_shown_and_one_without_rights_is_told_so(tmp_path: Path):
    keys = KeyRing(tmp_path / "keys")
    config = hub_config(tmp_path, keys=tmp_path / "keys")
    limited, stranger = keys.new("limited"), keys.new("stranger")
    keys.allow("limited", ["emo.v1.alice"])
    with EventHub(config) as hub:
        alice = MadeCall("alice")
        hub.publish([alice.start(), alice.say(), *MadeCall("bob").whole()]).result()
        for topics in (("emo.v1.alice.",), ()):
            with serving(tmp_path, hub_address(config, key=limited, topics=topics)) as monitor:
                with Stream(monitor.address) as stream:
                    stream.until(lambda m: any(row["call"] == "alice" for row in m.get("rows", ())))
                    late = MadeCall(f"carol{len(topics)}")
                    hub.publish([late.start(), alice.say(words=str(topics))]).result()
                    messages = stream.until(
                        lambda m, topics=topics: any(row["words"] == str(topics) for row in m.get("rows", ()))
                    )
                assert {row["call"] for m in messages for row in m.get("rows", ())} == {"alice"}
                assert monitor.site.store.counts.keys() == {"alice"}
        for key, way_out in ((stranger, "bcaf-stream keys allow"), (None, "asks for a key: give --key")):
            with serving(tmp_path, hub_address(config, key=key)) as monitor:
                monitor.site.follower._inventory._patience_s = 0.5
                with Stream(monitor.address) as stream:
                    stream.until(lambda m, said=way_out: said in ((m.get("status") or {}).get("trouble") or ""))


def test_nobody_listens_is_said_before_there_is_a_hub():
    with Inventory(free_address(), patience_s=0.5) as inventory, pytest.raises(EventError, match="nobody listens"):
        inventory.extent()


def test_a_browser_that_takes_nothing_is_given_up(config: EventHubConfig, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("bcaf_stream.monitor.stream.SEND_S", 0.5)
    made = MadeCall("long")
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        for _ in range(10):
            hub.publish([made.say(words="many words " * 300) for _ in range(500)]).result()
        with Stream(monitor.address) as stream:
            stream.until(lambda m: m.get("status", {}).get("reached") == 5000)
        with socket.create_connection(urlsplit(monitor.address).netloc.split(":")) as frozen:
            host = urlsplit(monitor.address).netloc
            frozen.sendall(f"GET /stream?call=long HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            until(lambda: monitor.site.streams == 1)
            until(lambda: monitor.site.streams == 0)


def test_who_may_ask(config: EventHubConfig, tmp_path: Path):
    with EventHub(config), serving(tmp_path, hub_address(config)) as monitor:
        site, port = monitor.address, urlsplit(monitor.address).port
        page = ask(site, "/")
        assert page.status == 200
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["server"] is None
        assert ask(site, "/", Host="evil.example").status == 403
        assert ask(site, "/", Host=f"localhost:{port}").status == 200
        assert ask(site, "/stream", Origin="https://evil.example").status == 403
        assert ask(site, "/search", Sec_Fetch_Site="cross-site").status == 403
        assert ask(site, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
        assert (
            ask(site, "/alerts", "POST", {"mute": "x", "minutes": 1}, Origin="http://evil.example").status == 403
        )
        for path in (
            "/static/../web.py",
            "/static/%2e%2e%2fweb.py",
            "/static/login.html",
            "/static/",
            "/openapi.json",
        ):
            assert ask(site, path).status == 404, path
        assert ask(site, "/alerts").status == 405
        assert ask(site, "/", "POST").status == 405


def test_tokens_cookies_and_their_end(config: EventHubConfig, tmp_path: Path):
    tokens = tmp_path / "tokens"
    tokens.write_text("first-secret\nsecond-secret\n")
    tokens.chmod(0o600)
    with EventHub(config), serving(tmp_path, hub_address(config), tokens=tokens) as monitor:
        site = monitor.address
        assert ask(site, "/stream").status == 401
        assert ask(site, "/static/main.js").status == 401
        assert ask(site, "/").headers["Location"] == "/login"
        assert "Sign in" in ask(site, "/login").text
        assert ask(site, "/search", Authorization="Bearer second-secret").status == 200
        assert ask(site, "/search", Authorization="Bearer wrong").status == 401
        assert ask(site, "/?token=wrong").headers["Location"] == "/login?wrong"
        shown = ask(site, "/?token=first-secret")
        assert (shown.status, shown.headers["Location"]) == (303, "/")
        cookie = shown.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert "first-secret" not in cookie
        value = cookie.partition(";")[0]
        assert ask(site, "/search", Cookie=value).status == 200
        name, _, (number, until, signature) = (*value.partition("=")[:2], value.partition("=")[2].split("."))
        for forged in (
            f"1.{until}.{signature}",
            f"{number}.{int(until) + 9}.{signature}",
            f"7.{until}.x",
            "",
            "..",
            "9",
        ):
            assert ask(site, "/search", Cookie=f"{name}={forged}").status == 401, forged
        form = ask(site, "/login", "POST", b"token=second-secret")
        assert "Set-Cookie" in form.headers
        assert ask(site, "/login", "POST", b"token=" + b"x" * 10_000).headers["Location"] == "/login?wrong"
    tokens.write_text("other\n")
    with EventHub(config), serving(tmp_path, hub_address(config), tokens=tokens) as monitor:
        assert ask(monitor.address, "/search", Cookie=value).status == 401


def test_tokens_cannot_be_guessed_and_who_is_signed_in_stays_so(
    config: EventHubConfig, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(access, "FORGIVEN_S", 3600.0)
    tokens = tmp_path / "tokens"
    tokens.write_text("first-secret\n")
    tokens.chmod(0o600)
    with EventHub(config), serving(tmp_path, hub_address(config), tokens=tokens) as monitor:
        site = monitor.address
        cookie = ask(site, "/?token=first-secret").headers["Set-Cookie"].partition(";")[0]
        for n in range(access.MOST_WRONG):
            way = n % 3
            if way == 0:
                assert ask(site, f"/?token=guess{n}").headers["Location"] == "/login?wrong"
            elif way == 1:
                assert ask(site, "/login", "POST", f"token=guess{n}".encode()).status == 303
            else:
                assert ask(site, "/search", Authorization=f"Bearer guess{n}").status == 401
        refused = ask(site, "/?token=first-secret")
        assert (refused.status, refused.headers["Retry-After"]) == (429, "3600")
        assert ask(site, "/login", "POST", b"token=first-secret").status == 429
        assert ask(site, "/search", Authorization="Bearer first-secret").status == 429
        assert ask(site, "/search", Cookie=cookie).status == 200
        assert ask(site, "/login").status == 200


def test_wrong_tokens_are_forgiven_one_by_one():
    wrong = access.WrongTokens()
    for n in range(access.MOST_WRONG):
        assert not wrong.are_too_many("a", n * 1e-3)
        wrong.add("a", n * 1e-3)
    assert wrong.are_too_many("a", 1.0)
    assert not wrong.are_too_many("b", 1.0)
    assert not wrong.are_too_many("a", 1.0 + access.FORGIVEN_S)
    wrong.add("a", 1.0 + access.FORGIVEN_S)
    assert wrong.are_too_many("a", 1.1 + access.FORGIVEN_S)


def test_a_call_too_long_to_export_says_how_it_is_done(config: EventHubConfig, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("bcaf_stream.monitor.web.MOST_EXPORTED", 5)
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        hub.publish(MadeCall("long").whole(9)).result()
        with Stream(monitor.address, "long") as stream:
            stream.events(13)
        answer = ask(monitor.address, "/export?call=long&format=csv")
        assert answer.status == 413
        assert "bcaf-stream export" in answer.text


def test_a_deployment_serves_the_page_of_its_own_hub(config: EventHubConfig, tmp_path: Path):
    said = MonitorConfig(port=0, audit=tmp_path / "audit.jsonl", hub=HubAddress(events="tcp://127.0.0.1:1"))
    with EventHub(config) as hub:
        hub.publish(MadeCall("a").whole()).result()
        page = MonitorPage(said, config.bus.bind, config.replay.bind)
        with Stream(page.address, "a") as stream:
            assert len(stream.events(12)) == 12
        page.close()
        with pytest.raises(OSError, match="refused"):
            ask(page.address, "/")


def test_connections_that_ask_for_nothing_keep_nobody_out(config: EventHubConfig, tmp_path: Path):
    with EventHub(config) as hub, serving(tmp_path, hub_address(config), max_connections=4) as monitor:
        hub.publish(MadeCall("a").whole()).result()
        where = ("127.0.0.1", int(monitor.address.rstrip("/").rpartition(":")[2]))
        with contextlib.ExitStack() as stack, Stream(monitor.address, "a") as looking:
            looking.events(12)
            for number in range(40):
                stranger = stack.enter_context(socket.create_connection(where, timeout=10))
                stranger.sendall(b"GET / HT" if number % 2 else b"")
            assert ask(monitor.address, "/").status == 200
            hub.publish(MadeCall("b").whole()).result()
            assert ask(monitor.address, "/search").status == 200
            assert next(iter(looking)), "who looks is told of it"


def test_a_proxy_says_who_looks(config: EventHubConfig, tmp_path: Path):
    options = {"behind_proxy": True, "user_header": "X-User", "allow": ("127.0.0.0/8",)}
    options = MonitorConfig.model_validate_json(json.dumps(options)).model_dump(include=set(options))
    with EventHub(config), serving(tmp_path, hub_address(config), **options) as monitor:
        assert ask(monitor.address, "/search").status == 401
        assert ask(monitor.address, "/search", X_User="Ada").status == 200
    assert json.loads((tmp_path / "audit.jsonl").read_text())["user"] == "Ada"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"host": "0.0.0.0"}, "say who may come"),
        ({"host": "0.0.0.0", "allow": ["10.0.0.0/8"]}, "the page shows what was said"),
        ({"host": "0.0.0.0", "tokens": "t"}, "certificate"),
        ({"user_header": "X-User"}, "behind_proxy"),
        ({"user_header": "X User"}, "user_header"),
        ({"porte": 1}, "unknown key; did you mean port"),
        ({"hub": {"event": "x"}}, "hub.event: unknown key"),
    ],
)
def test_what_is_not_safe_or_not_known_is_refused(options: dict, what: str, tmp_path: Path):
    from bcaf_stream.config import load_config

    file = tmp_path / "monitor.yaml"
    file.write_text(json.dumps(options))
    with pytest.raises(ConfigError, match=what):
        load_config(MonitorConfig, file)


def test_what_cannot_be_had_is_one_line(config: EventHubConfig, tmp_path: Path):
    def fails(kind: type[Exception], what: str, **options: object) -> None:
        with pytest.raises(kind, match=what):
            Monitor(MonitorConfig(**{"port": 0, "audit": tmp_path / "audit.jsonl", **options}))

    with socket.create_server(("127.0.0.1", 0)) as taken:
        fails(LinkError, "cannot be bound", port=taken.getsockname()[1])
    fails(UsageError, "audit .* cannot be written", audit=tmp_path / "none" / "audit.jsonl")
    fails(LinkError, "file of tokens cannot be read", tokens=tmp_path / "none")
    fails(EventError, "cannot be read", hub=HubAddress(key=tmp_path / "none.json"))
    fails(EventError, "not an address", hub=HubAddress(replay="127.0.0.1:5562"))


def test_every_look_is_an_audit_line_and_words_are_in_none(config: EventHubConfig, tmp_path: Path):
    audit = tmp_path / "audit.jsonl"
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        made = MadeCall("a\n{call}")
        hub.publish([made.start(), made.say(words="xylophone")]).result()
        asked = urlencode({"call": made.name, "format": "srt"})
        with Stream(monitor.address, made.name) as stream:
            stream.events(2)
        with Stream(monitor.address, made.name, "0") as stream:  # comes back: the same look
            stream.events(2)
        assert ask(monitor.address, f"/export?{asked}").status == 200
        ask(monitor.address, "/search?words=xylophone")
        ask(monitor.address, "/alerts", "POST", {"acknowledge": "id-1", "call": made.name})
        ask(monitor.address, "/alerts", "POST", {"mute": "Rule", "minutes": 5})
        for bad in ({"mute": "Rule", "minutes": 10**9}, {"mute": "Rule"}, {"mute": 1, "minutes": 1}, [], {}):
            assert ask(monitor.address, "/alerts", "POST", bad).status == 400
        assert ask(monitor.address, "/alerts", "POST", b"{" * 9000).status == 400
        assert ask(monitor.address, "/alerts", "POST", b"1" * 20_000).status == 413
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["action"] for line in lines] == ["view", "export", "search", "acknowledge", "mute"]
    assert lines[0]["call"] == made.name
    assert "xylophone" not in audit.read_text()
    assert audit.stat().st_mode & 0o077 == 0
    audit.write_text(audit.read_text() + "half a li")
    with EventHub(config), serving(tmp_path, hub_address(config)) as monitor, Stream(monitor.address) as stream:
        first = next(iter(stream))
        assert first["acknowledged"]["id-1"]["user"] == "local"
        assert first["muted"].keys() == {"Rule"}


def recorded(folder: Path, made: MadeCall, seconds: int = 10) -> Path:
    """Sound of the customer of a call, as a deployment keeps it."""
    folder.mkdir(exist_ok=True)
    channels = (Channel("left", "customer"), Channel("right", "agent"))
    recorder = CallRecorder(folder, Call(made.name, channels), ("customer",), lambda job: job(), pytest.fail)
    noise = np.random.default_rng(0).integers(-9000, 9000, seconds * 8000).astype(np.int16)
    recorder.push(AudioChunk("left", 0, 8000, noise))
    recorder.close()
    return folder


def test_an_utterance_is_played_once_it_is_in_the_audit(config: EventHubConfig, tmp_path: Path):
    sound, made = config.journal.sound_folder, MadeCall("a\n{call}")
    recorded(sound, made)
    said = [made.start(), made.say("left", "hello"), made.say("right", "hi"), made.say("left", "the {card}")]
    said[-1] = replace(said[-1], redacted=1)
    late = made.say("left", ms=60_000)

    def asked(monitor: Monitor, channel: str, utterance: object, call: str = made.name) -> Answer:
        query = urlencode({"call": call, "channel": channel, "utterance": utterance})
        return ask(monitor.address, f"/sound?{query}")

    with EventHub(config) as hub:
        with serving(tmp_path, hub_address(config), sound=sound) as monitor:
            hub.publish([*said, late]).result()
            with Stream(monitor.address, made.name) as stream:
                stream.events(5)
            with Stream(monitor.address) as stream:
                assert next(iter(stream))["status"]["sound"] is True
            clip = asked(monitor, "left", 0)
            assert (clip.status, clip.headers["content-type"]) == (200, "audio/wav")
            assert len(clip.body) == 44 + 1500 * 16 * 2
            assert asked(monitor, "right", 0).text == "no sound of this utterance is kept"
            assert (asked(monitor, "left", 1).status, "redacted" in asked(monitor, "left", 1).text) == (403, True)
            for channel, utterance in (("left", 7), ("left", "-1"), ("left", "x"), ("../left", 0), ("", "")):
                assert asked(monitor, channel, utterance).status == 404
            assert asked(monitor, "left", 0, "another").status == 404
            played = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
            assert [
                (one["call"], one["channel"], one["utterance"]) for one in played if one["action"] == "play"
            ] == [(made.name, "left", 0)]
            with Journal(config.journal, maintenance=True) as journal:
                erase(journal, made.name, time.time_ns())
            assert list(sound.iterdir()) == []
            assert asked(monitor, "left", 0).status == 404
        with serving(tmp_path, hub_address(config)) as monitor:
            assert "ingest.record is off" in asked(monitor, "left", 0).text
    with pytest.raises(UsageError, match="there is no such folder"):
        Monitor(MonitorConfig(port=0, hub=hub_address(config), audit=tmp_path / "a", sound=tmp_path / "none"))


def test_a_key_that_may_not_read_a_call_cannot_hear_it_either(tmp_path: Path):
    keys = KeyRing(tmp_path / "keys")
    config = hub_config(tmp_path, keys=tmp_path / "keys")
    limited = keys.new("limited")
    keys.allow("limited", ["emo.v1.alice"])
    with EventHub(config) as hub:
        for name in ("alice", "bob"):
            made = MadeCall(name)
            hub.publish([made.start(), made.say("left")]).result()
            recorded(config.journal.sound_folder, made)
        address = hub_address(config, key=limited, topics=("emo.v1.alice.",))
        with serving(tmp_path, address, sound=config.journal.sound_folder) as monitor:
            with Stream(monitor.address, "alice") as stream:
                stream.events(2)
            answers = [
                ask(monitor.address, f"/sound?call={call}&channel=left&utterance=0") for call in ("alice", "bob")
            ]
    assert [answer.status for answer in answers] == [200, 404]


def all_are_over(monitor: Monitor, calls: int) -> bool:
    with monitor.site.follower.lock:
        rows = monitor.site.board.rows.values()
        return len(rows) == calls and all('"live":false' in row.text for row in rows)


def test_a_thousand_calls_are_there_within_a_second(config: EventHubConfig, tmp_path: Path):
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        for n in range(1000):
            hub.publish(MadeCall(f"call-{n}", seed=n).whole(3))
        until(lambda: all_are_over(monitor, 1000))
        began = time.monotonic()
        with Stream(monitor.address) as stream:
            assert len(next(iter(stream))["rows"]) == 200
        assert time.monotonic() - began < 1.0


def test_its_process_has_neither_ray_nor_torch(config: EventHubConfig, tmp_path: Path):
    code = """
import sys
from http.client import HTTPConnection
from pathlib import Path
import bcaf_stream.cli.main
from bcaf_stream.monitor.config import HubAddress, MonitorConfig
from bcaf_stream.monitor.server import Monitor
from bcaf_stream.monitor.stream import Changes
from bcaf_stream.types import AudioChunk, Call, Channel
from bcaf_stream.loops import start_thread
hub = HubAddress(events=sys.argv[1], replay=sys.argv[2])
monitor = Monitor(MonitorConfig(port=0, hub=hub, audit=Path(sys.argv[3])))
thread = start_thread("monitor", lambda _: monitor.run(print))
page = HTTPConnection(monitor.address.split("/")[2], timeout=20)
status = 0
while status != 200:
    page.request("GET", "/export?call=a&format=html")
    answer = page.getresponse()
    status = answer.status
    answer.read()
page.close()
thread.ending.set()
monitor.stop()
thread.end()
print([name for name in ("ray", "torch", "transformers", "onnxruntime", "av") if name in sys.modules])
"""
    with EventHub(config) as hub:
        hub.publish(MadeCall("a").whole()).result()
        command = [sys.executable, "-c", code, config.bus.bind, config.replay.bind, str(tmp_path / "audit.jsonl")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_a_hub_that_is_killed_loses_nothing_on_the_page(config: EventHubConfig, tmp_path: Path):
    made = MadeCall("a")
    hub = HubProcess(config)
    assert hub.wait_ready()
    with serving(tmp_path, hub_address(config)) as monitor, Stream(monitor.address, "a") as stream:
        hub.publish([made.start(), made.say()])
        found = stream.events(2)
        hub.kill()
        hub.end()
        hub = HubProcess(config)
        assert hub.wait_ready()
        hub.publish([made.say(), made.end()])
        found += stream.events(2)
    assert [event["seq"] for event in found] == [0, 1, 2, 3]
    hub.end()


def test_a_page_that_missed_more_forgotten_calls_than_are_remembered_begins_anew(
    config: EventHubConfig, tmp_path: Path
):
    with EventHub(config) as hub, serving(tmp_path, hub_address(config)) as monitor:
        hub.publish(MadeCall("a").whole()).result()
        site = monitor.site
        with Stream(monitor.address) as stream:
            stream.until(lambda m: m.get("rows"))
        changes = Changes(site.follower, site.store, site.board, site.audit, "")
        changes.take()
        with site.follower.lock:
            site.follower._note([f"call-{n}" for n in range(follower.MOST_FORGOTTEN + 1)])
        assert len(site.follower.forgotten) == follower.MOST_FORGOTTEN
        message = json.loads((changes.take() or "").partition("data: ")[2])
        assert message["reset"] is True
        assert [row["call"] for row in message["rows"]] == ["a"]
        assert "gone" not in message
