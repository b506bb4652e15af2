"""The server of our own link, real sockets: credit, a sender lost and found, words beside a call, hanging up."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import zmq
import zmq.asyncio

from bcaf_stream.ingest.media import TextUpdate
from bcaf_stream.ingest.protocols.link import (
    Accepted,
    Audio,
    Close,
    Closed,
    Credit,
    Open,
    Refused,
    pack,
    parse_server,
)
from bcaf_stream.ingest.transports.zmq_link import LinkServer
from bcaf_stream.ingest.transports.zmq_router import LinkConfig
from bcaf_stream.loops import faults
from bcaf_stream.types import Channel, Words
from tests.collecting_sink import CollectingSink
from tests.waiting import elapse

CONFIG = LinkConfig(bind="tcp://127.0.0.1:*", heartbeat_s=0.1, linger_s=0.5)
SIDES = (Channel("customer", "customer"), Channel("agent", "agent"))
SOUND_NC = np.arange(2 * 1600, dtype=np.int16).reshape(-1, 2)


class Client:
    """A sender written from the protocol's page alone."""

    def __init__(self, endpoint: str) -> None:
        self.socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    async def say(self, message: object) -> None:
        await self.socket.send(pack(message))  # type: ignore[arg-type]

    async def hear(self, kind: type) -> object:
        """The next message of that kind."""
        async with asyncio.timeout(10):
            while not isinstance(message := parse_server(await self.socket.recv()), kind):
                pass
        return message

    async def begin(self, call: str = "c1", text: str = "asr") -> None:
        await self.say(Open(call, SIDES, 8000, text))  # type: ignore[arg-type]
        await self.hear(Accepted)


Script = Callable[[LinkServer, CollectingSink, Callable[[], Client]], Awaitable[None]]


def run(script: Script, capacity: int = 10, config: LinkConfig = CONFIG) -> CollectingSink:
    async def whole() -> CollectingSink:
        sink, server, clients = CollectingSink(capacity), LinkServer(config), []
        await server.start(sink)

        def connect() -> Client:
            clients.append(Client(server.endpoint))
            return clients[-1]

        try:
            await script(server, sink, connect)
        finally:
            for client in clients:
                client.socket.close()
            await server.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []
        return sink

    return asyncio.run(whole())


def test_a_call_comes_through_whole():
    async def script(server: LinkServer, sink: CollectingSink, connect: Callable[[], Client]) -> None:
        client = connect()
        await client.begin()
        for number in range(3):
            await client.say(Audio(number, number * 1600, SOUND_NC))
        await client.say(Close())
        await sink.until("c1", "ended")
        assert await client.hear(Closed) == Closed(0, "complete")
        await client.begin("c2")  # the same connection may send another one
        assert server.refused == 0

    sink = run(script)
    np.testing.assert_array_equal(sink.calls["c1"].sound("agent"), np.tile(SOUND_NC[:, 1], 3))


def test_one_address_has_so_many_calls_at_a_time():
    async def script(server: LinkServer, sink: CollectingSink, connect: Callable[[], Client]) -> None:
        first, second, third = connect(), connect(), connect()
        await first.begin("c1")
        await second.begin("c2")
        await third.say(Open("c3", SIDES, 8000, "asr"))
        refused = await third.hear(Refused)
        assert isinstance(refused, Refused)
        assert "busy: 2 calls from this address (link.max_calls_per_client)" in refused.message
        assert server.counters() == {"refused": 1, "busy": 1}
        assert "c3" not in sink.calls
        await third.say(Open("c1", SIDES, 8000, "asr"))  # a call that may have lost its connection is no third one
        assert "busy" not in (await third.hear(Refused)).message  # type: ignore[attr-defined]
        await first.say(Close())
        await first.hear(Closed)
        await third.begin("c3")
        second.socket.close()  # noticed, not told
        await sink.until("c2", "lost")
        await first.begin("c4")

    run(script, config=CONFIG.model_copy(update={"max_calls_per_client": 2}))


def test_a_sender_that_vanishes_loses_its_call_and_may_come_back():
    async def script(server: LinkServer, sink: CollectingSink, connect: Callable[[], Client]) -> None:
        first = connect()
        await first.begin()
        await first.say(Audio(0, 0, SOUND_NC))
        await first.hear(Credit)
        first.socket.close()
        await sink.until("c1", "lost")
        second = connect()
        await second.begin()
        await second.say(Audio(0, 0, SOUND_NC))
        await second.say(Close())
        await sink.until("c1", "ended")

    sink = run(script)
    assert len(sink.calls["c1"].begins) == 2
    assert len(sink.calls["c1"].sound("customer")) == 3200


def test_words_may_come_from_somebody_else():
    async def script(server: LinkServer, sink: CollectingSink, connect: Callable[[], Client]) -> None:
        sender, scribe = connect(), connect()
        words = (Words(0, 500, "hello", "agent", "w1", False),)
        await scribe.say(TextUpdate(words, call="c1"))
        assert "no such call" in (await scribe.hear(Refused)).message
        await sender.begin(text="given")
        await scribe.say(TextUpdate(words, call="c1"))
        await sender.say(TextUpdate((), last=True))
        await sender.say(Close())
        await sink.until("c1", "ended")

    sink = run(script)
    assert sink.calls["c1"].words == [Words(0, 500, "hello", "agent", "w1", False)]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Audio(1, 1600, SOUND_NC), "not contiguous"),
        (Audio(0, 0, np.zeros((8000 * 25, 2), np.int16)), "beyond the credit"),
    ],
)
def test_one_that_breaks_the_rules_ends_its_own_call(message: Audio, says: str):
    async def script(server: LinkServer, sink: CollectingSink, connect: Callable[[], Client]) -> None:
        good, bad = connect(), connect()
        await good.begin("good")
        await bad.begin("bad")
        await bad.say(message)
        assert says in (await bad.hear(Refused)).message
        assert says in (await sink.until("bad", "ended")).reason
        assert sink.calls["good"].state == "running"
        assert server.refused == 1

    run(script)


@pytest.mark.parametrize("early", [False, True], ids=["accepted", "opening"])
def test_a_refusal_ends_what_the_connection_opened_and_it_may_open_another(early: bool):
    async def script(server: LinkServer, sink: CollectingSink, connect: Callable[[], Client]) -> None:
        client = connect()
        if early:  # nonsense comes before the call is accepted
            await client.say(Open("c1", SIDES, 8000, "asr"))
        else:
            await client.begin("c1")
        await client.socket.send(b"nonsense")
        await client.hear(Refused)
        await sink.until("c1", "ended")
        await client.begin("c2")
        await client.say(Audio(0, 0, SOUND_NC))
        await client.say(Close())
        assert await client.hear(Closed) == Closed(0, "complete")
        assert sink.calls["c1"].sound("agent").size == 0

    before = faults.counts
    run(script)
    assert faults.counts == before


def test_busy_is_said_and_leaving_is_said():
    async def script(server: LinkServer, sink: CollectingSink, connect: Callable[[], Client]) -> None:
        first, second = connect(), connect()
        await first.begin()
        await second.say(Open("c2", SIDES, 8000, "asr"))
        assert "no more calls" in (await second.hear(Refused)).message
        sink.finish("c1", "the deployment is going down")
        assert (await first.hear(Refused)).message == "the deployment is going down"
        await first.say(Audio(0, 0, SOUND_NC))
        await first.hear(Refused)

    run(script, capacity=1)


HEAVY_SCRIPT = """
import asyncio, sys
from bcaf_stream.ingest.transports.zmq_router import LinkConfig, LinkSocket
async def main():
    server = LinkSocket(LinkConfig(bind="tcp://127.0.0.1:*", waiting_messages=4, heartbeat_s=0.1))
    print(server.endpoint, flush=True)
    await asyncio.sleep(1.5)  # busy elsewhere: what comes waits, and its sender leaves meanwhile
    print("alive", flush=True)
asyncio.run(main())
"""


def test_a_client_that_leaves_while_its_messages_wait_does_not_take_the_server_down():
    """With ZeroMQ's own heartbeats on this socket, an assertion of libzmq aborts the process (its issue 3937)."""
    with subprocess.Popen([sys.executable, "-c", HEAVY_SCRIPT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.connect(process.stdout.readline().strip())
            for _ in range(2000):
                socket.send(pack(Audio(0, 0, np.zeros((8000, 2), np.int16))))
            elapse(0.4, "the fault itself: they are on their way, and then their sender is gone")
        assert process.stdout.readline() == "alive\n"
    assert process.returncode == 0
