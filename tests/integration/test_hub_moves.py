"""A hub dies with its node, or is thought dead, and another one goes on elsewhere with the journal on PostgreSQL.

Two hubs are processes of their own. Their subscribers, with keys, know one stable address: a proxy that leads to
the one or the other.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from bcaf_stream.events.auth import KeyRing
from bcaf_stream.events.event import Event, topic
from bcaf_stream.events.hub import EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from tests.components import needs
from tests.deployed import free_address
from tests.hub_process import HubProcess
from tests.postgres import PostgresServer
from tests.tcp_proxy import TcpProxy
from tests.waiting import until

pytestmark = needs("postgresql")
WAIT_S = 40.0  # only a failing test waits that long
TOPICS = {"boss": "emo.v1.", "anna": "emo.v1.a."}


def batch(n: int, note: str = "") -> list[Event]:
    """The nth events of two calls."""
    return [
        Event(type="alert", id=f"{call}-{n}{note}", call=call, seq=n, emitted_at=n + 1, text=f"{call} {n} {note}")
        for call in ("a", "b")
    ]


class Reader:
    """A subscriber in a thread of its own."""

    def __init__(self, stack: ExitStack, live: str, replay: str | None, name: str, key: Path) -> None:
        self.got: list[Event] = []
        self.topic = TOPICS[name]
        self.subscriber = EventSubscriber(live, replay, [self.topic], "start" if replay else "new", key=key)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        stack.callback(self._end)

    def wait_for(self, count: int) -> list[Event]:
        until(lambda: len(self.got) >= count, WAIT_S, what=f"{count} events")
        return self.got

    def _run(self) -> None:
        with self.subscriber:
            while not self._ending.is_set():
                self.got += [event for event in self.subscriber.receive_many(100, 0.05) if event.call]

    def _end(self) -> None:
        self._ending.set()
        self._thread.join(WAIT_S)


class Nodes:
    """Two places where the hub may run, the stable address, and the subscribers at it."""

    def __init__(self, stack: ExitStack, journal: JournalConfig, keys: Path) -> None:
        self.stack, self.keys, self.journal = stack, keys, journal
        self._configs = [self._config() for _ in range(2)]
        self.live, self.replay = (stack.enter_context(TcpProxy(free_address())) for _ in range(2))
        self.readers: list[Reader] = []

    def start(self, n: int) -> HubProcess:
        """The hub on this node, as whoever watches it starts it: again, until it has the journal."""
        deadline = time.monotonic() + WAIT_S
        while True:
            hub = HubProcess(self._configs[n], quiet=True)
            self.stack.callback(hub.end)
            self.stack.callback(hub.process.kill)
            if hub.wait_ready():
                return hub
            assert time.monotonic() < deadline

    def lead_to(self, n: int) -> None:
        for proxy, bound in ((self.live, self._configs[n].bus), (self.replay, self._configs[n].replay)):
            proxy.lead_to(bound.bind)
            proxy.cut()

    def read(self, name: str) -> None:
        key = self.keys / f"{name}.json"
        self.readers.append(Reader(self.stack, self.live.endpoint, self.replay.endpoint, name, key))

    def witness(self, n: int) -> Reader:
        """Somebody who stays with the hub of this node, and believes what it says."""
        return Reader(self.stack, self._configs[n].bus.bind, None, "boss", self.keys / "boss.json")

    def _config(self) -> EventHubConfig:
        return EventHubConfig(
            journal=self.journal,
            bus=BusConfig(bind=free_address(), keys=self.keys),
            replay=ReplayConfig(bind=free_address()),
            heartbeat_s=0.2,
        )


@pytest.fixture
def nodes(postgres: PostgresServer, tmp_path: Path) -> Iterator[Nodes]:
    ring = KeyRing(tmp_path / "keys")
    for name, prefix in TOPICS.items():
        ring.new(name)
        ring.allow(name, [prefix])
    with ExitStack() as stack:
        yield Nodes(stack, postgres.config(lease_s=5.0), tmp_path / "keys")


def check(nodes: Nodes, sent: Sequence[Event]) -> None:
    """Every reader has, and the journal holds, exactly what was sent, once, in order, with dense offsets."""
    for reader in nodes.readers:
        wanted = [event for event in sent if topic(event).startswith(reader.topic)]
        got = reader.wait_for(len(wanted))
        assert [replace(event, offset=None) for event in got] == wanted, reader.topic
        assert reader.subscriber.missed == 0
    with Journal(nodes.journal, read_only=True) as journal:
        stored = list(journal.read())
    assert [event.offset for event in stored] == list(range(1, len(sent) + 1))
    assert [replace(event, offset=None) for event in stored] == sent


def test_a_hub_that_dies_with_its_node_is_followed_by_another_elsewhere(nodes: Nodes):
    first = nodes.start(0)
    nodes.lead_to(0)
    nodes.read("boss")
    nodes.read("anna")
    assert all(first.publish(batch(n)) for n in range(20))
    assert first.hand_over(batch(20))  # whether this is stored, nobody is told
    first.kill()
    second = nodes.start(1)
    assert second.publish(batch(20)), "whoever was not told sends it again"
    nodes.lead_to(1)
    nodes.read("boss")
    assert all(second.publish(batch(n)) for n in range(21, 40))
    check(nodes, [event for n in range(40) for event in batch(n)])


def test_a_hub_that_was_thought_dead_wakes_and_publishes_nothing_more(nodes: Nodes):
    """Its process is stopped with events in hand, for longer than its lease, and gets more when it wakes."""
    first = nodes.start(0)
    nodes.lead_to(0)
    nodes.read("boss")
    nodes.read("anna")
    witness, published = nodes.witness(0), count()
    until(lambda: first.publish(batch(next(published))) and witness.got, WAIT_S, what="its subscription")
    last = next(published)
    for reader in nodes.readers:
        reader.wait_for(last)
    until(lambda: witness.got[-1].id == f"b-{last - 1}", WAIT_S)
    os.kill(first.process.pid, signal.SIGSTOP)
    assert first.hand_over(batch(last))
    assert first.hand_over(batch(last + 1, "nobody else's"))
    second = nodes.start(1)
    nodes.lead_to(1)
    assert all(second.publish(batch(n)) for n in range(last, last + 20))
    heard = len(witness.got)
    os.kill(first.process.pid, signal.SIGCONT)
    assert not first.is_acknowledged(), "it is no writer any more"
    assert first.process.wait(WAIT_S) != 0
    assert second.publish(batch(last + 20))
    check(nodes, [event for n in range(last + 21) for event in batch(n)])
    assert len(witness.got) == heard, "not one more event"
