"""Strangers who only hold connections to a ZeroMQ socket: bounded, and nobody is kept out by them."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.ingest.transports.zmq_router import LinkConfig, LinkSocket
from tests.waiting import WAIT_S, eventually, until
from tests.zmtp_flood import connected

MOST = 20


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while data := connection.recv(4096):
            assert data
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def open_ones(connections: list[socket.socket]) -> int:
    return sum(map(is_open, connections))


def wait_until_at_most(connections: list[socket.socket], most: int) -> None:
    until(lambda: open_ones(connections) <= most, what="that strangers leave")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[EventHub]:
    config = EventHubConfig(
        journal=JournalConfig(path=tmp_path / "events.sqlite", durability="crash"),
        bus=BusConfig(bind="tcp://127.0.0.1:*", max_connections=MOST),
        replay=ReplayConfig(bind="tcp://127.0.0.1:*", max_connections=MOST),
    )
    with EventHub(config) as running:
        yield running


def event(seq: int) -> Event:
    return Event(type="alert", id=f"a-{seq}", call="a", seq=seq, emitted_at=1)


def test_connections_that_say_nothing_leave_for_those_that_do(hub: EventHub):
    with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as early:
        hub.publish([event(0)]).result(WAIT_S)
        assert early.receive(WAIT_S).seq == 0
        strangers = [
            connected(address, kind)
            for address, kind in ((hub.bus.endpoint, b"SUB"), (hub.replay.endpoint, b"DEALER"))
            for _ in range(3 * MOST)
        ]
        try:
            wait_until_at_most(strangers, 2 * MOST)
            with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as late:
                assert late.receive(WAIT_S).seq == 0
                hub.publish([event(1)]).result(WAIT_S)
                assert [reader.receive(WAIT_S).seq for reader in (early, late)] == [1, 1]
        finally:
            for stranger in strangers:
                stranger.close()


def test_the_link_has_room_for_a_sender_beside_silent_connections():
    async def receiving() -> None:
        link = LinkSocket(LinkConfig(bind="tcp://127.0.0.1:*", max_connections=MOST))
        strangers = [connected(link.endpoint, b"DEALER") for _ in range(3 * MOST)]
        try:
            await asyncio.to_thread(wait_until_at_most, strangers, MOST)
            ended = link.refused
            assert ended >= 2 * MOST
            with zmq.Context() as context, context.socket(zmq.DEALER) as sender:
                sender.setsockopt(zmq.LINGER, 0)
                sender.connect(link.endpoint)
                sender.send(b"nonsense")
                taking = asyncio.create_task(link.receive())
                await eventually(lambda: sender.poll(0), what="an answer")
                taking.cancel()
        finally:
            for stranger in strangers:
                stranger.close()
            link.close()

    asyncio.run(receiving())
