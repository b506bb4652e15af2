"""Random schedules over real sockets: whatever is lost on the way, each subscriber ends with each event once.

Queues of a few events, readers that pause, wires that are cut, a hub that is started again, and topics of all, of
one call and of one channel. A schedule is its seed: BCAF_SEEDS=1000-1100 runs others.
"""

import os
import random
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from bcaf_stream.events.event import Event, topic
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from tests.deployed import free_address
from tests.tcp_proxy import TcpProxy
from tests.waiting import elapse, until

WAIT_S = 40.0  # only a failing test waits that long
STEPS = 40
TOPICS = (["emo.v1."], ["emo.v1.a."], ["emo.v1.a.left."], ["emo.v1.a", "emo.v1.b.right.alert"])
FIRST, _, LAST = os.environ.get("BCAF_SEEDS", "1-6").partition("-")
SEEDS = range(int(FIRST), int(LAST or FIRST) + 1)


class Reader:
    """A subscriber in a thread of its own that can be paused."""

    def __init__(self, stack: ExitStack, topics: list[str], hwm: int, live: str, replay: str) -> None:
        self.topics = topics
        self.got: list[Event] = []
        self.going = threading.Event()
        self.going.set()
        self.ended = False
        self.failure: Exception | None = None
        self.subscriber = stack.enter_context(
            EventSubscriber(live, replay, topics, "start", high_water_mark=hwm, max_age_s=60)
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def expected(self, log: list[Event]) -> list[Event]:
        return [event for event in log if topic(event).startswith(tuple(self.topics))]

    def end(self) -> None:
        self.ended = True
        self.going.set()
        self.thread.join(WAIT_S)

    def _run(self) -> None:
        try:
            while not self.ended:
                self.going.wait()
                event = self.subscriber.receive(0.02)
                self.got += [event] if event and event.call else []
        except Exception as error:  # told by the test's own thread
            self.failure = error


class Schedule:
    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.config = EventHubConfig(
            journal=JournalConfig(path=folder / "events.sqlite", durability="crash"),
            bus=BusConfig(bind=free_address(), high_water_mark=self.rng.choice([1, 5, 1000]), linger_s=0.0),
            replay=ReplayConfig(bind=free_address(), page=self.rng.choice([1, 7, 200])),
            heartbeat_s=0.1,
        )
        self.log: list[Event] = []
        self.seqs = dict.fromkeys("abc", 0)

    def events(self, count: int) -> list[Event]:
        made = []
        for _ in range(count):
            call, channel = self.rng.choice("abc"), self.rng.choice(["left", "right", ""])
            text = "x" * self.rng.choice([10, 10, 100_000])
            seq = self.seqs[call]
            self.seqs[call] += 1
            id = f"{call}-{seq}"
            made.append(Event(type="alert", id=id, call=call, channel=channel, seq=seq, emitted_at=1, text=text))
        return made

    def run(self) -> list[Reader]:
        rng = self.rng
        with ExitStack() as stack:
            wires = [
                stack.enter_context(TcpProxy(bind)) for bind in (self.config.bus.bind, self.config.replay.bind)
            ]
            readers = [
                Reader(stack, topics, rng.choice([1, 10, 1000]), *(wire.endpoint for wire in wires))
                for topics in TOPICS
            ]
            hub = EventHub(self.config)
            for _ in range(STEPS):
                match rng.choices(["publish", "pause", "go", "cut", "restart", "rest"], [12, 2, 3, 2, 1, 4])[0]:
                    case "publish":
                        batch = self.events(rng.randint(1, 30))
                        hub.publish(batch).result(WAIT_S)
                        self.log += batch
                    case "pause":
                        rng.choice(readers).going.clear()
                    case "go":
                        rng.choice(readers).going.set()
                    case "cut":
                        rng.choice(wires).cut()
                    case "restart":
                        hub.close()
                        hub = EventHub(self.config)
                    case "rest":
                        elapse(rng.uniform(0, 0.05), "the schedule says so")
            self._settle(readers)
            hub.close()
        return readers

    def _settle(self, readers: list[Reader]) -> None:
        for reader in readers:
            reader.going.set()

        def is_settled() -> bool:
            missing = any(len(reader.got) < len(reader.expected(self.log)) for reader in readers)
            return not missing or any(reader.failure for reader in readers)

        until(is_settled)
        elapse(0.2, "for what comes twice")
        for reader in readers:
            reader.end()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_subscriber_ends_with_every_event_once_and_in_order(seed: int, tmp_path: Path):
    schedule = Schedule(seed, tmp_path)
    for reader in schedule.run():
        expected = reader.expected(schedule.log)
        assert reader.failure is None
        assert sorted(e.id for e in reader.got) == sorted(e.id for e in expected), f"seed {seed} {reader.topics}"
        for call in "abc":
            wanted = [e.id for e in expected if e.call == call]
            assert [e.id for e in reader.got if e.call == call] == wanted, f"seed {seed} {reader.topics}"
        if reader.topics == ["emo.v1."]:
            assert [e.offset for e in reader.got] == list(range(1, len(expected) + 1))
