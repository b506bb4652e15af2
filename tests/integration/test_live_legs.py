"""Calls whose sides come apart, by RTP and by AudioSocket: the events are those of `analyze` on what came."""

import asyncio
import socket
import struct
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from actors.call_registry import CallRegistry
from actors.config import IngestConfig
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig, ConversationAnalyzer
from bcaf_stream.codecs import decode_alaw
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.events.event import Event
from bcaf_stream.ingest.media import ChannelConfig
from bcaf_stream.ingest.protocols.audiosocket import AudioSocketConfig, hang_up
from bcaf_stream.ingest.protocols.rtp import RtpConfig
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports.udp import RtpServer
from bcaf_stream.types import AudioChunk, Call, PcmN
from tests.unit.actors.local_runtime import CHANNELS, RATE, LocalRuntime, demo_chunks, joined
from tests.waiting import eventually

SECONDS = 20
SIDES = tuple(ChannelConfig(name=channel.name, role=channel.role) for channel in CHANNELS)
SIZE = 160
LOST = range(345, 350)  # packets of the customer's side, in the middle of speech
Found = tuple[str, str | None, int | None, int | None, str | None, str | None]


def encode_alaw(samples_N: PcmN) -> bytes:
    levels = decode_alaw(bytes(range(256))).astype(np.int32)
    order = np.argsort(levels)
    middles = (levels[order][1:] + levels[order][:-1]) / 2
    return order[np.searchsorted(middles, samples_N)].astype(np.uint8).tobytes()


def analysed(engine: EmotionEngine, call: str, sounds: dict[str, PcmN]) -> list[Event]:
    """What one process says of that sound."""
    analyzer = ConversationAnalyzer(Call(call, CHANNELS), AnalyzerConfig(), engine)
    events: list[Event] = []
    for start in range(0, len(sounds["customer"]), 1600):
        for name, sound in sounds.items():
            events += analyzer.push(AudioChunk(name, start, RATE, sound[start : start + 1600]))
    return events + analyzer.flush()


def seen(events: list[Event]) -> list[Found]:
    return [(e.type, e.channel, e.start_ms, e.end_ms, e.emotion, e.reason) for e in events]


async def send(server: RtpServer, sides: list[bytes]) -> None:
    """Both sides at many times real time, each in its own disorder; then their goodbyes."""
    ports = [int(port) for port in server.endpoint.rpartition(":")[2].split(",")]
    dice = np.random.default_rng(3)
    arrivals: list[tuple[float, int, bytes]] = []
    for side, codes in enumerate(sides):
        for number in range(len(codes) // SIZE):
            if side == 0 and number in LOST:
                continue
            payload = codes[number * SIZE : (number + 1) * SIZE]
            header = struct.pack(">BBHII", 0x80, 8, (65_000 + number) % 65_536, number * SIZE, 7 + side)
            when = number + dice.uniform(0, 2, 2 if number % 40 == 5 else 1)
            arrivals += [(at, side, header + payload) for at in when]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        for _, side, data in sorted(arrivals):
            sender.sendto(data, ("127.0.0.1", ports[side]))
            await asyncio.sleep(0)  # the server reads one packet of each port in each round of the loop
        for side in (0, 1):
            sender.sendto(struct.pack(">BBHI", 0x81, 203, 1, 7 + side), ("127.0.0.1", ports[side]))


async def ended(runtime: LocalRuntime) -> None:
    await eventually(lambda: runtime.of("call.end"), 60)


@pytest.fixture
def runtime(tiny: Path) -> LocalRuntime:
    return LocalRuntime(EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1)))


def test_two_sides_by_rtp_in_disorder_and_with_a_loss(runtime: LocalRuntime):
    chunks = demo_chunks(SECONDS)
    sides = [encode_alaw(joined(chunks, channel.name)) for channel in CHANNELS]

    async def whole() -> None:
        calls = CallRegistry(AnalyzerConfig(), IngestConfig(live=LiveConfig(interim_ms=0)), runtime)
        server = RtpServer(RtpConfig(port=0, channels=SIDES, call="c1", text="none", jitter_ms=200))
        await server.start(calls)
        try:
            await send(server, sides)
            await ended(runtime)
        finally:
            await calls.drain()
            await server.close()
        assert (server.refused, server.dropped) == (0, 0)

    asyncio.run(whole())
    sounds = {channel.name: decode_alaw(side).copy() for channel, side in zip(CHANNELS, sides, strict=True)}
    sounds["customer"][LOST.start * SIZE : LOST.stop * SIZE] = 0
    expected = analysed(runtime.engine, "c1", sounds)
    assert sum(event.type == "emotion.final" for event in expected) >= 4
    [gap] = runtime.of("audio.gap")
    assert seen([gap]) == [("audio.gap", "customer", 20 * LOST.start, 20 * LOST.stop, None, "lost")]
    assert seen([event for event in runtime.events if event is not gap]) == seen(expected)


def test_two_sides_by_audiosocket(runtime: LocalRuntime):
    chunks = demo_chunks(SECONDS)
    sounds = {channel.name: joined(chunks, channel.name) for channel in CHANNELS}
    call = UUID(int=7)

    async def speak(port: int, sound: PcmN) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\1\0\x10" + call.bytes)
        for start in range(0, len(sound), SIZE):
            writer.write(b"\x10\1\x40" + sound[start : start + SIZE].astype("<i2").tobytes())
            await writer.drain()
        writer.write(hang_up())
        said = await reader.read()
        writer.close()
        return said

    async def whole() -> None:
        calls = CallRegistry(AnalyzerConfig(), IngestConfig(live=LiveConfig(interim_ms=0)), runtime)
        server = make_server(AudioSocketConfig(port=0, channels=SIDES, text="none"))
        await server.start(calls)
        try:
            ports = map(int, server.endpoint.rpartition(":")[2].split(","))
            said = await asyncio.gather(*map(speak, ports, sounds.values()))
            assert said == [hang_up()] * 2
            await ended(runtime)
        finally:
            await calls.drain()
            await server.close()

    asyncio.run(whole())
    assert seen(runtime.events) == seen(analysed(runtime.engine, str(call), sounds))
