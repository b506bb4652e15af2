"""The same call by every protocol gives the events that `analyze` gives on the same sound; losses are silence."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from actors.call_registry import CallRegistry
from actors.config import IngestConfig
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig, ConversationAnalyzer
from bcaf_stream.codecs import decode_ulaw
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.events.event import Event
from bcaf_stream.ingest.servers import make_servers
from bcaf_stream.ingest.sink import IngestServer
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.types import AudioChunk, Call, PcmN
from tests.audiohook_client import AudioHookClient
from tests.same import assert_same_events
from tests.stream_messages import twilio_frames, twilio_start, twilio_stop
from tests.unit.actors.local_runtime import CHANNELS, RATE, LocalRuntime, demo_chunks, joined
from tests.waiting import elapsing, eventually

SECONDS = 20
SERVERS = {name: {"port": 0, "text": "none"} for name in ("twilio", "audiohook", "audiosocket", "pcm")}
Speak = Callable[[str, bytes, bytes], Awaitable[None]]  # a client: address, mu-law of customer and agent


@pytest.fixture(scope="module")
def engine(tiny: Path) -> EmotionEngine:
    return EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1))


@pytest.fixture(scope="module")
def sides() -> tuple[bytes, bytes]:
    """The beginning of the demo call as mu-law, 8 kHz."""
    chunks = demo_chunks(SECONDS)
    return tuple(encode_ulaw(joined(chunks, name)) for name in ("customer", "agent"))  # type: ignore[return-value]


def encode_ulaw(samples_N: PcmN) -> bytes:
    levels = decode_ulaw(bytes(range(256))).astype(np.int32)
    order = np.argsort(levels, kind="stable")
    middles = (levels[order][1:] + levels[order][:-1]) / 2
    return order[np.searchsorted(middles, samples_N)].astype(np.uint8).tobytes()


def analysed(
    engine: EmotionEngine, call: str, sounds: dict[str, PcmN], text: TextConfig | None = None
) -> list[Event]:
    """What one process says of that sound."""
    channels = tuple(channel for channel in CHANNELS if channel.name in sounds)
    analyzer = ConversationAnalyzer(Call(call, channels), AnalyzerConfig(text=text or TextConfig()), engine)
    events: list[Event] = []
    for start in range(0, max(map(len, sounds.values())), 1600):
        for name, sound in sounds.items():
            events += analyzer.push(AudioChunk(name, start, RATE, sound[start : start + 1600]))
    return events + analyzer.flush()


@asynccontextmanager
async def deployed(
    runtime: LocalRuntime, **live: float
) -> AsyncIterator[tuple[dict[str, IngestServer], CallRegistry]]:
    """All servers, and the calls behind them, in this process."""
    config = IngestConfig.model_validate_json(
        json.dumps({"link": {"bind": "tcp://127.0.0.1:*"}, **SERVERS, "live_text": {"port": 0, "ack": True}})
    )
    config = config.model_copy(update={"live": LiveConfig(interim_ms=0, **live)})
    calls, servers = CallRegistry(AnalyzerConfig(), config, runtime), make_servers(config)
    for server in servers:
        await server.start(calls)
    try:
        yield {server.name: server for server in servers}, calls
    finally:
        await calls.drain()
        for server in servers:
            await server.close()


async def ended(runtime: LocalRuntime, call: str) -> list[Event]:
    await eventually(lambda: any(event.call == call for event in runtime.of("call.end")), 60)
    return [event for event in runtime.events if event.call == call]


async def say(socket: ClientConnection, messages: Sequence[str | bytes]) -> None:
    for message in messages:
        await socket.send(message)


async def by_twilio(address: str, customer: bytes, agent: bytes) -> None:
    """Frames that overtake each other by up to 60 ms, and some that come twice."""
    frames = list(twilio_frames({"inbound": customer, "outbound": agent}))
    dice = np.random.default_rng(1)
    late = np.argsort(np.arange(len(frames)) + dice.uniform(0, 6, len(frames)))
    messy = [frames[i] for i in late]
    messy = [frame for at, frame in enumerate(messy) for _ in range(1 + (at % 50 == 7))]
    async with connect(address) as socket:
        await say(socket, [json.dumps({"event": "connected"}), twilio_start("c1"), *messy, twilio_stop("c1")])
        await socket.wait_closed()


async def by_audiohook(address: str, customer: bytes, agent: bytes) -> None:
    both = np.stack([np.frombuffer(side, np.uint8) for side in (customer, agent)], axis=1).tobytes()
    client = AudioHookClient()
    async with connect(address) as socket:
        await socket.send(client.open("c1"))
        client.hear(await socket.recv())
        for start in range(0, len(both), 3200):
            await socket.send(client.audio(both[start : start + 3200]))
        await socket.send(client.message("close", reason="end"))
        assert client.hear(await socket.recv())["type"] == "closed"


async def by_pcm(address: str, customer: bytes, agent: bytes) -> None:
    host, port = address.removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    channels = [[channel.name, channel.role] for channel in CHANNELS]
    writer.write(json.dumps({"call": "c1", "channels": channels, "rate": RATE}).encode() + b"\n")
    both = np.stack([decode_ulaw(side) for side in (customer, agent)], axis=1).astype("<i2").tobytes()
    for start in range(0, len(both), 1237):  # samples are torn
        writer.write(both[start : start + 1237])
        await writer.drain()
    writer.write_eof()
    said = [json.loads(line) async for line in reader]
    assert [message["t"] for message in said] == ["accepted", "closed"]
    writer.close()


@pytest.mark.parametrize(
    ("server", "client"), [("twilio", by_twilio), ("audiohook", by_audiohook), ("pcm", by_pcm)]
)
def test_every_protocol_gives_what_analyze_gives(
    engine: EmotionEngine, sides: tuple[bytes, bytes], server: str, client: Speak
):
    runtime = LocalRuntime(engine)

    async def whole() -> list[Event]:
        async with deployed(runtime) as (servers, _):
            await client(servers[server].endpoint, *sides)
            return await ended(runtime, "c1")

    found = asyncio.run(whole())
    sounds = {channel.name: decode_ulaw(side) for channel, side in zip(CHANNELS, sides, strict=True)}
    expected = analysed(engine, "c1", sounds)
    assert sum(event.type == "emotion.final" for event in expected) >= 4
    assert_same_events(found, expected)


def test_one_side_by_audiosocket(engine: EmotionEngine, sides: tuple[bytes, bytes]):
    runtime, uuid, sound = LocalRuntime(engine), bytes(range(16)), decode_ulaw(sides[0])

    async def whole() -> list[Event]:
        async with deployed(runtime) as (servers, _):
            host, port = servers["audiosocket"].endpoint.removeprefix("tcp://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"\x01\x00\x10" + uuid)
            for start in range(0, len(sound), 160):
                writer.write(b"\x10\x01\x40" + sound[start : start + 160].astype("<i2").tobytes())
                await writer.drain()
            writer.write(b"\x00\x00\x00")
            await reader.read()
            writer.close()
            return await ended(runtime, "00010203-0405-0607-0809-0a0b0c0d0e0f")

    found = asyncio.run(whole())
    assert_same_events(found, analysed(engine, found[0].call, {"customer": sound}))


def test_what_a_platform_lost_is_silence_and_told(engine: EmotionEngine, sides: tuple[bytes, bytes]):
    runtime, lost = LocalRuntime(engine), slice(56_000, 60_000)  # half a second in the middle of speech

    async def whole() -> list[Event]:
        async with deployed(runtime) as (servers, _), connect(servers["twilio"].endpoint) as socket:
            frames = twilio_frames({"inbound": sides[0], "outbound": sides[1]})
            missing = range(lost.start // 8, lost.stop // 8)
            kept = [f for f in frames if int(json.loads(f)["media"]["timestamp"]) not in missing]
            await say(socket, [twilio_start("c1"), *kept, twilio_stop("c1")])
            return await ended(runtime, "c1")

    found = asyncio.run(whole())
    sounds = {channel.name: decode_ulaw(side).copy() for channel, side in zip(CHANNELS, sides, strict=True)}
    for sound in sounds.values():
        sound[lost] = 0
    gaps = [event for event in found if event.type == "audio.gap"]
    assert {(gap.channel, gap.start_ms, gap.end_ms) for gap in gaps} == {
        (channel.name, lost.start // 8, lost.stop // 8) for channel in CHANNELS
    }
    rest = [event for event in found if event.type != "audio.gap"]
    expected = analysed(engine, "c1", sounds)
    assert [(e.type, e.channel, e.start_ms, e.end_ms, e.emotion) for e in rest] == [
        (e.type, e.channel, e.start_ms, e.end_ms, e.emotion) for e in expected
    ]


def test_a_platform_that_connects_again_goes_on_with_its_call(engine: EmotionEngine, sides: tuple[bytes, bytes]):
    """AudioHook's second session continues where the first one stopped: nothing is lost, nothing doubled."""
    runtime = LocalRuntime(engine)
    both = np.stack([np.frombuffer(side, np.uint8) for side in sides], axis=1).tobytes()
    half = len(both) // 2 // 3200 * 3200

    async def whole() -> list[Event]:
        async with deployed(runtime) as (servers, _):
            first = AudioHookClient()
            async with connect(servers["audiohook"].endpoint) as socket:
                await socket.send(first.open("c1"))
                first.hear(await socket.recv())
                for start in range(0, half, 3200):
                    await socket.send(first.audio(both[start : min(half, start + 3200)]))
                await socket.ping()
                socket.transport.abort()
            await elapsing(0.2, "how long the platform is away")
            second = AudioHookClient("e160e428-53e2-487c-977d-000000000002", first.position)
            known = [{"id": first.session, "serverSeq": first.serverseq, "clientSeq": first.seq}]
            async with connect(servers["audiohook"].endpoint) as socket:
                await socket.send(second.open("c1", continuedSessions=known))
                second.hear(await socket.recv())
                for start in range(half, len(both), 3200):
                    await socket.send(second.audio(both[start : start + 3200]))
                await socket.send(second.message("close", reason="end"))
                second.hear(await socket.recv())
            return await ended(runtime, "c1")

    found = asyncio.run(whole())
    gaps = sum(event.end_ms - event.start_ms for event in found if event.type == "audio.gap")
    assert found[-1].reason == "complete"
    assert [event.seq for event in found] == list(range(len(found)))
    last = max(event.end_ms or 0 for event in found)
    assert gaps < 500
    assert last <= SECONDS * 1000


def test_words_come_beside_the_sound_of_another_server(engine: EmotionEngine, sides: tuple[bytes, bytes]):
    runtime = LocalRuntime(engine)

    async def whole() -> list[Event]:
        async with deployed(runtime, stall_s=5) as (servers, _):
            host, port = servers["pcm"].endpoint.removeprefix("tcp://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            hello = {"call": "c1", "channels": [["customer", "customer"]], "rate": RATE, "text": "given"}
            sound = decode_ulaw(sides[0]).astype("<i2").tobytes()
            writer.write(json.dumps(hello).encode() + b"\n" + sound)
            await eventually(lambda: runtime.of("emotion.final"))
            async with connect(servers["live_text"].endpoint) as scribe:
                line = {"call": "c1", "channel": "customer", "start_ms": 5600, "end_ms": 10_400, "id": "w1"}
                await scribe.send(json.dumps(line | {"text": "hello thee", "is_final": False}) + "\n")
                await scribe.recv()
                await scribe.send(json.dumps(line | {"text": "hello there", "is_final": True}) + "\n")
                await scribe.recv()
                await scribe.send(json.dumps(line | {"call": "nobody", "text": "x"}) + "\n")
                assert "no such call" in str(await scribe.recv())
            writer.write_eof()
            events = await ended(runtime, "c1")
            writer.close()
            return events

    found = asyncio.run(whole())
    revised = [(event.revision, event.text) for event in found if event.type == "emotion.revised"]
    assert revised == [(1, "hello thee"), (2, "hello there")]
