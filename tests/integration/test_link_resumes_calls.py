"""The real calls behind a real link, whose process dies: a sender goes on, and the events are as if it had not."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.call_registry import CallRegistry
from actors.config import IngestConfig
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.events.event import Event
from bcaf_stream.ingest.protocols.link import Accepted, Audio, Close, Closed, Credit, Open, Refused
from bcaf_stream.ingest.transports.zmq_link import LinkServer
from bcaf_stream.ingest.transports.zmq_router import LinkConfig
from tests.integration.test_link_server import Client
from tests.same import assert_same_events
from tests.unit.actors.local_runtime import CHANNELS, RATE, LocalRuntime, demo_chunks, joined
from tests.waiting import eventually

CONFIG = LinkConfig(bind="tcp://127.0.0.1:*", heartbeat_s=0.5, linger_s=0.2)
PIECE = 800
LIVE = LiveConfig(interim_ms=0, stall_s=0.5)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> EmotionEngine:
    return EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1))


@pytest.fixture(scope="module")
def sound_NC() -> np.ndarray:  # noqa: N802
    chunks = demo_chunks()
    return np.stack([joined(chunks, channel.name) for channel in CHANNELS], axis=1)


class Process:
    """What an ingest process holds; `die` leaves as a killed one does, saying nothing."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self.calls = CallRegistry(AnalyzerConfig(), IngestConfig(live=LIVE), runtime)
        self.server = LinkServer(CONFIG)

    async def die(self, runtime: LocalRuntime) -> None:
        known = list(runtime.events)
        await self.calls.drain(timeout_s=0)
        await self.server.close()
        runtime.events[:] = known

    async def close(self) -> None:
        await self.calls.drain()
        await self.server.close()


async def say(client: Client, sound_NC: np.ndarray, start: int, end: int) -> None:
    for seq, at in enumerate(range(start, end, PIECE)):
        await client.say(Audio(seq, at, sound_NC[at : min(at + PIECE, end)]))


def opening(resume: int | None = None, sender: str = "run 1", source: str | None = None) -> Open:
    return Open("c1", CHANNELS, RATE, "none", sender, resume, source)


async def undisturbed(engine: EmotionEngine, sound_NC: np.ndarray) -> LocalRuntime:
    runtime = LocalRuntime(engine)
    process = Process(runtime)
    await process.server.start(process.calls)
    client = Client(process.server.endpoint)
    await client.begin("c1", "none")
    await say(client, sound_NC, 0, len(sound_NC))
    await client.say(Close())
    await client.hear(Closed)
    client.socket.close()
    await process.close()
    return runtime


def test_a_killed_process_loses_nothing(engine: EmotionEngine, sound_NC: np.ndarray):
    async def scene() -> tuple[LocalRuntime, LocalRuntime]:
        runtime = LocalRuntime(engine)
        first = Process(runtime)
        await first.server.start(first.calls)
        client = Client(first.server.endpoint)
        await client.say(opening())
        assert (await client.hear(Accepted)).start is None  # type: ignore[attr-defined]
        await say(client, sound_NC, 0, 20 * RATE)
        await eventually(lambda: runtime.of("emotion.final"))
        client.socket.close()
        await first.die(runtime)
        assert runtime.types[-1] != "call.end"

        second = Process(runtime)
        await second.server.start(second.calls)
        client = Client(second.server.endpoint)
        await client.say(opening(resume=0))
        accepted = await client.hear(Accepted)
        assert accepted.start == 0  # type: ignore[attr-defined]
        await say(client, sound_NC, 0, len(sound_NC))
        await client.say(Close())
        closed = await client.hear(Closed)
        assert closed == Closed(len(runtime.of("emotion.final")), "complete")

        late = Client(second.server.endpoint)  # its answer was lost with a connection
        await late.say(opening(resume=0))
        assert await late.hear(Closed) == closed
        for one in (client, late):
            one.socket.close()
        await second.close()
        return runtime, await undisturbed(engine, sound_NC)

    found, expected = asyncio.run(scene())
    told = found.of("degraded")
    assert "interrupted: it goes on from" in (told[0].reason or "")
    rest = [event for event in found.events if event not in told]
    assert len(found.events) == len(rest) + 1
    assert_same_events([_anywhere(e) for e in rest], [_anywhere(e) for e in expected.events])


def _anywhere(event: Event) -> Event:
    return replace(event, seq=0)


def test_a_lost_connection_loses_nothing_and_cuts_no_utterance(engine: EmotionEngine, sound_NC: np.ndarray):
    """It breaks while the customer speaks, and comes back before anybody has noticed, under the sender's name."""

    async def scene() -> tuple[LocalRuntime, LocalRuntime]:
        runtime = LocalRuntime(engine)
        process = Process(runtime)
        await process.server.start(process.calls)
        client = Client(process.server.endpoint)
        await client.say(opening())
        await client.hear(Accepted)
        await say(client, sound_NC, 0, 8 * RATE)
        async with asyncio.timeout(20):
            while (await client.hear(Credit)).upto_ms < 15_000:  # type: ignore[attr-defined]
                pass
        stranger = Client(process.server.endpoint)
        await stranger.say(opening(resume=0, sender="run 2"))
        assert "running already" in (await stranger.hear(Refused)).message  # type: ignore[attr-defined]

        again = Client(process.server.endpoint)
        await again.say(opening(resume=0))
        start = (await again.hear(Accepted)).start  # type: ignore[attr-defined]
        assert 5 * RATE <= start <= 8 * RATE  # what had come
        await say(again, sound_NC, start, len(sound_NC))
        await again.say(Close())
        assert (await again.hear(Closed)).reason == "complete"  # type: ignore[attr-defined]
        for one in (client, stranger, again):
            one.socket.close()
        await process.close()
        return runtime, await undisturbed(engine, sound_NC)

    found, expected = asyncio.run(scene())
    assert_same_events(found.events, expected.events)


def test_only_the_same_sound_takes_a_call_over_and_only_from_a_lost_sender(
    engine: EmotionEngine, sound_NC: np.ndarray
):
    async def scene() -> tuple[LocalRuntime, LocalRuntime]:
        runtime = LocalRuntime(engine)
        process = Process(runtime)
        await process.server.start(process.calls)
        clients: list[Client] = []

        async def open_as(sender: str, source: str | None) -> Client:
            clients.append(Client(process.server.endpoint))
            await clients[-1].say(opening(sender=sender, source=source))
            return clients[-1]

        first = await open_as("run 1", "file a")
        assert (await first.hear(Accepted)).start == 0  # type: ignore[attr-defined]
        await say(first, sound_NC, 0, 8 * RATE)
        async with asyncio.timeout(20):
            while (await first.hear(Credit)).upto_ms < 15_000:  # type: ignore[attr-defined]
                pass
        second = await open_as("run 2", "file a")
        assert "running already" in (await second.hear(Refused)).message  # type: ignore[attr-defined]
        first.socket.close()
        for source in ("file b", None):
            message = "running already"
            while "running already" in message:  # until the end of the connection has arrived
                other = await open_as("run 3", source)
                message = (await other.hear(Refused)).message  # type: ignore[attr-defined]
            assert "other sound" in message
        second = await open_as("run 2", "file a")
        start = (await second.hear(Accepted)).start  # type: ignore[attr-defined]
        assert 5 * RATE <= start <= 8 * RATE  # what had come
        await say(second, sound_NC, start, len(sound_NC))
        await second.say(Close())
        assert (await second.hear(Closed)).reason == "complete"  # type: ignore[attr-defined]
        late = await open_as("run 4", "file a")
        assert "in the journal already" in (await late.hear(Refused)).message  # type: ignore[attr-defined]
        for one in clients:
            one.socket.close()
        await process.close()
        return runtime, await undisturbed(engine, sound_NC)

    found, expected = asyncio.run(scene())
    assert_same_events(found.events, expected.events)
