"""A client that knows nothing but asyncapi.json: every event once and in order, live and by replay, over kills."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import zmq

from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.schema_files import FOLDER
from tests.deployed import free_address
from tests.hub_process import HubProcess
from tests.waiting import elapse

CREDIT = 150
WAIT_S = 60.0


class Client:
    """What the two channels of asyncapi.json ask of a client, in plain pyzmq and msgpack."""

    def __init__(self, live: str, replay: str) -> None:
        self.offsets: list[int] = []
        self.ids: list[str] = []
        self.replays = 0
        self._known: set[str] = set()
        self._place = 0
        self._replay, self._waiting = replay, 0.0
        self._context = zmq.Context()
        self._live = self._context.socket(zmq.SUB)
        self._live.connect(live)
        self._live.subscribe(b"emo.v1.")
        self._asked: zmq.Socket[bytes] | None = None
        self._later: list[dict[str, Any]] = []  # live events while a replay runs
        self._ask()

    def turn(self) -> None:
        """Take what has come; ask for what is missing."""
        for _, payload in self._received(self._live):
            event = msgpack.unpackb(payload)
            if event["type"] != "heartbeat":
                self._take(event)
            elif event["offset"] > self._place and self._asked is None:
                self._ask()
        if self._asked is None:
            self._live.poll(50)
            return
        for head, *frames in self._received(self._asked):
            answer = msgpack.unpackb(head)
            self._waiting = time.monotonic()
            for payload in frames[1::2]:
                self._add(msgpack.unpackb(payload))
            if answer["kind"] == "events":
                self._asked.send(msgpack.packb({"v": 1, "ask": "credit", "id": 1, "n": len(frames) // 2}))
            elif answer["kind"] == "end":
                self._end(answer["reached"])
                return
            else:
                assert answer["kind"] == "busy", answer
                elapse(1, "a busy hub is asked again a second later, as it says")
                self._ask()
                return
        if time.monotonic() - self._waiting > 5:
            self._ask()  # it was started again, and has forgotten what was asked
        self._asked.poll(20)

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _received(self, socket: "zmq.Socket[bytes]") -> Any:
        while socket.poll(0):
            yield socket.recv_multipart()

    def _ask(self) -> None:
        if self._asked is not None:
            self._asked.close(linger=0)
        self.replays += 1
        self._asked = self._context.socket(zmq.DEALER)
        self._asked.connect(self._replay)
        start = {"offset": self._place + 1} if self._place else "start"
        ask = {"v": 1, "ask": "replay", "id": 1, "from": start, "topics": ["emo.v1."], "credit": CREDIT}
        self._asked.send(msgpack.packb(ask))
        self._waiting = time.monotonic()

    def _end(self, reached: int) -> None:
        assert self._asked is not None
        self._asked.close(linger=0)
        self._asked = None
        self._place = max(self._place, reached)
        later, self._later = self._later, []
        for event in later:
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        """A live event: what comes before it and never came is asked for."""
        if self._asked is not None:
            self._later.append(event)
        elif event["offset"] == self._place + 1:
            self._add(event)
        elif event["offset"] > self._place:
            self._later.append(event)
            self._ask()

    def _add(self, event: dict[str, Any]) -> None:
        self._place = max(self._place, event["offset"])
        if event["id"] not in self._known:
            self._known.add(event["id"])
            self.ids.append(event["id"])
            self.offsets.append(event["offset"])


def test_the_client_does_as_the_document_says():
    document = json.loads((FOLDER / "asyncapi.json").read_text(encoding="utf-8"))
    channels = document["channels"]
    said = " ".join(" ".join(channels[name]["description"] for name in ("events", "replay")).split())
    for sentence in (
        "Subscribe by prefix",
        "`offset` is that of the last event published",
        "no empty frame before it",
        "`end` follows when all up to the end of the journal was given",
        "subscribe first, then ask, then drop what has an offset up to `reached`",
        "ask again a second later",
        "hears nothing for five seconds asks again, on a new connection",
    ):
        assert sentence in said


def test_every_event_once_and_in_order_over_kills_of_the_hub(tmp_path: Path):
    config = EventHubConfig(
        journal=JournalConfig(path=tmp_path / "events.sqlite", durability="crash"),
        bus=BusConfig(bind=free_address()),
        replay=ReplayConfig(bind=free_address(), page=40),
        heartbeat_s=0.2,
    )
    handed: list[str] = []
    process = HubProcess(config)
    assert process.wait_ready()
    client = Client(config.bus.bind, config.replay.bind)
    stop = threading.Event()
    broken: list[BaseException] = []

    def follow() -> None:
        try:
            while not stop.is_set():
                client.turn()
        except BaseException as error:
            broken.append(error)

    following = threading.Thread(target=follow)
    following.start()
    try:
        for batch in range(60):
            events = [
                Event(type="alert", id=f"a-{n}", call="a", seq=n, emitted_at=1, text="words")
                for n in range(batch * 20, batch * 20 + 20)
            ]
            if batch in (7, 25, 44):
                process.kill()
            while not process.publish(events):
                process.end()
                process = HubProcess(config)
                assert process.wait_ready()
            handed += [event.id for event in events]
            elapse(0.01, "the pace of the events: some of them come live")
        deadline = time.monotonic() + WAIT_S
        while len(client.ids) < len(handed) and time.monotonic() < deadline and not broken:
            stop.wait(0.05)
    finally:
        stop.set()
        following.join()
        client.close()
        process.kill()
        process.end()
    assert broken == []
    assert client.ids == handed
    assert client.offsets == sorted(client.offsets)
    assert client.replays >= 2, "what a kill has swallowed is asked for"
