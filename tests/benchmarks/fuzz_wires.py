"""Whatever bytes come by AudioSocket, raw PCM or RTP, a parser gives contiguous media or a LinkError.

    python -m tests.benchmarks.fuzz_wires [inputs of each protocol] [seed]

Run by hand. An input is a connection's bytes, cut anywhere, or for RTP a packet of a call that goes on after every
error: well-formed ones and the same with bytes changed, taken out and put in, and impossible values. A hundredth
as many connections, and a tenth as many packets, go through real sockets, and then a good call must still get
through.
"""

import asyncio
import json
import logging
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import numpy as np

from bcaf_stream.codecs import decode_ulaw
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart, ChannelConfig, contiguous
from bcaf_stream.ingest.protocol import Parser
from bcaf_stream.ingest.protocols.audiosocket import AudioSocketConfig, AudioSocketParser
from bcaf_stream.ingest.protocols.raw_pcm import PcmConfig, PcmFormat, PcmParser
from bcaf_stream.ingest.protocols.rtp import FormatConfig, RtpConfig, RtpParser
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports.udp import RtpServer
from bcaf_stream.types import AudioChunk, Channel, Gap
from tests.collecting_sink import CollectingSink

GOOD = bytes(range(256)) * 8
AT = 1_700_000_000 * 10**9
MS = 10**6
SIDES = (ChannelConfig(name="a"), ChannelConfig(name="b"))
RTP = (
    RtpConfig(),
    RtpConfig(channels=SIDES, lag_ms=100),
    RtpConfig(channels=SIDES, interleaved=True, jitter_ms=0),
    RtpConfig(formats={96: FormatConfig(codec="l16", rate=16_000), 0: FormatConfig(codec="l16")}, jitter_ms=20),
)
WILD: list[Any] = [None, True, -1, 1, 8000, 10**30, 1.5, "", "x", "\ud800", [], {}, [["a", "customer"]]]
WILD += [[["a", "agent"], ["a", "agent"]], [["a", "boss"]], "given"]
FIELDS = ["call", "channels", "rate", "token", "text", "unknown"]


def check(items: list[Any], errors: list[str]) -> None:
    """What every parser promises of what it gives."""
    assert not any("\n" in error for error in errors)
    assert contiguous([item for item in items if isinstance(item, AudioChunk | Gap)])
    assert not items or isinstance(items[0], CallStart | CallEnd)
    assert not any(isinstance(item, CallStart) for item in items[1:])
    assert not any(isinstance(item, CallEnd) for item in items[:-1])
    assert all(len(item.samples) for item in items if isinstance(item, AudioChunk))
    assert all(item.start < item.end for item in items if isinstance(item, Gap))


def changed(data: bytes, dice: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(dice.choice([0, 0, 1, 1, 2, 5])):
        at, how = dice.randrange(len(raw) + 1), dice.random()
        if how < 0.5 and at < len(raw):
            raw[at] = dice.randrange(256)
        elif how < 0.65:
            del raw[at : at + dice.randrange(1, 9)]
        elif how < 0.8:
            raw[at:at] = dice.randbytes(dice.randrange(1, 9))
        else:
            del raw[at:]
    return bytes(raw)


def audiosocket(dice: random.Random) -> tuple[Parser, bytes]:
    def frame(kind: int, payload: bytes) -> bytes:
        return struct.pack(">BH", kind, len(payload)) + payload

    kind = dice.choice([0x10, 0x12, 0x18])
    kinds = [kind] * 4 + [0, 2, 3, 0x19, 0xFF, dice.randrange(256)]
    frames = [frame(1, dice.randbytes(16))] if dice.random() < 0.9 else []
    frames += [frame(dice.choice(kinds), dice.randbytes(2 * dice.randrange(20))) for _ in range(dice.randrange(6))]
    return AudioSocketParser(Channel("a")), b"".join(frames)


def pcm(dice: random.Random) -> tuple[Parser, bytes]:
    hello: dict[str, Any] = {"call": "c", "channels": [["a", "customer"], ["b", "agent"]], "rate": 8000}
    for _ in range(dice.choice([0, 0, 0, 1, 2])):
        hello[dice.choice(FIELDS)] = dice.choice(WILD)
    line = b"[" * dice.randrange(20_000) if dice.random() < 0.02 else json.dumps(hello).encode()
    parser = PcmParser(fixed=PcmFormat(rate=8000) if dice.random() < 0.1 else None)
    return parser, line + b"\n" + dice.randbytes(dice.randrange(80))


def connection(parser: Parser, data: bytes, dice: random.Random) -> tuple[list[Any], list[str]]:
    """What a parser says of these bytes, and its errors."""
    items: list[Any] = []
    try:
        while data:
            size = dice.choice([1, 3, 7, 40, len(data)])
            items += parser.push(data[:size], AT)
            data = data[size:]
        items += parser.flush(0, closed=True)
    except LinkError as error:
        return items, [str(error)]
    return items, []


def datagrams(config: RtpConfig, dice: random.Random) -> Iterator[bytes]:
    """A stream that is mostly sound: jumps, other senders, other payloads, goodbyes, and broken packets."""
    seq, timestamp = dice.randrange(2**16), dice.randrange(2**32)
    for _ in range(dice.randrange(2, 12)):
        seq = dice.randrange(2**16) if dice.random() < 0.1 else seq
        timestamp = dice.randrange(2**32) if dice.random() < 0.1 else timestamp
        usual = 10 if config.interleaved else 0
        kind = dice.choice([0, 8, 10, 11, 13, 96, 101]) if dice.random() < 0.2 else usual
        first, ssrc = dice.choice([0x80] * 8 + [0x90, 0xA0, 0x81]), dice.choice([7] * 8 + [8, 9])
        data = struct.pack(">BBHII", first, kind, seq % 2**16, timestamp % 2**32, ssrc)
        data += dice.randbytes(4 * dice.choice([0, 1, 5, 40]))
        if dice.random() < 0.05:
            data = bytes([0x80 | dice.randrange(4), dice.choice([200, 203]), 0, dice.randrange(3)])
            data += struct.pack(">I", 7) * dice.randrange(3)
        if dice.random() < 0.05:
            reached = timestamp + dice.choice([0, 4000, 20_000, 80_000])
            data = struct.pack(">BBHIQIII", 0x80, 200, 6, ssrc, 0, reached % 2**32, 0, 0)
        yield changed(data, dice) if dice.random() < 0.3 else data
        seq += dice.choice([1, 1, 1, 1, 2, -1, 0])
        timestamp += dice.choice([160, 20, 40, 0, 4000, -160])


def rtp(dice: random.Random) -> tuple[int, list[Any], list[str]]:
    """One call: how many packets, what the parser says, and its errors."""
    config = dice.choice(RTP)
    parser = RtpParser(config, frozenset(dice.sample([7, 8, 9], dice.choice([0, 0, 1]))))
    items: list[Any] = []
    errors: list[str] = []
    packets, now = 0, AT
    for data in datagrams(config, dice):
        now += dice.choice([0, 20, 70, 1000, -5]) * MS
        packets += 1
        try:
            items += parser.push(data, now, dice.randrange(len(config.streams)))
        except LinkError as error:
            errors.append(str(error))
        items += parser.advance(now) if dice.random() < 0.3 else []
    return packets, items + parser.flush(), errors


async def servers_stay_up(connections: int, packets: int, dice: random.Random) -> None:
    """Noise at the servers, and a good call after it."""
    sink, uuid = CollectingSink(1000), UUID(int=7)
    tcp = make_server(AudioSocketConfig(port=0)), make_server(PcmConfig(port=0))
    udp = RtpServer(RtpConfig(port=0, call="rtp", idle_s=0.2))
    frame = b"\x10" + len(GOOD).to_bytes(2, "big") + GOOD
    hello = json.dumps({"call": "pcm", "channels": [["customer", "customer"]], "rate": 8000}).encode()
    good = b"\1\0\x10" + uuid.bytes + frame + b"\0\0\0", hello + b"\n" + GOOD
    for server, make, last in zip(tcp, (audiosocket, pcm), good, strict=True):
        await server.start(sink)
        for number in range(connections + 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
            with suppress(OSError):
                writer.write(changed(make(dice)[1], dice) if number < connections else last)
                if number == connections or dice.random() < 0.5:
                    writer.write_eof()
                    await reader.read()
            writer.transport.abort()
        await server.close()
        print(f"{server.name}: {connections} connections, {server.refused} refused")
    await udp.start(sink)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", int(udp.endpoint.rpartition(":")[2])))
        sent = 0
        while sent < packets:
            for data in datagrams(RTP[0], dice):
                sender.send(changed(data, dice))
                sent += 1
                await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        sink.calls.pop("rtp", None)  # of the noise
        for number in range(10):
            payload = GOOD[number * 160 : number * 160 + 160]
            sender.send(struct.pack(">BBHII", 0x80, 0, number, 160 * number, 77) + payload)
            await asyncio.sleep(0)
        await sink.until("rtp", "ended")
    await udp.close()
    print(f"rtp: {sent} datagrams, {udp.refused} refused, {udp.counts}")
    samples = np.frombuffer(GOOD, "<i2")
    assert all(np.array_equal(sink.calls[name].sound("customer"), samples) for name in ("pcm", str(uuid)))
    assert np.array_equal(sink.calls["rtp"].sound("customer"), decode_ulaw(GOOD[:1600]))
    assert len(asyncio.all_tasks()) == 1


def main(inputs: int = 100_000, seed: int = 0) -> None:
    dice = random.Random(seed)
    for make in (audiosocket, pcm):
        begun, count = time.monotonic(), Counter[str]()
        for _ in range(inputs):
            parser, data = make(dice)
            items, errors = connection(parser, changed(data, dice), dice)
            check(items, errors)
            count.update(errors=len(errors), calls=any(isinstance(item, CallStart) for item in items))
        print(f"{make.__name__}: {inputs} connections, {dict(count)}, {time.monotonic() - begun:.0f} s")
    begun, count = time.monotonic(), Counter[str]()
    while count["packets"] < inputs:
        packets, items, errors = rtp(dice)
        check(items, errors)
        count.update(packets=packets, errors=len(errors), calls=bool(items))
    print(f"rtp: {dict(count)}, {time.monotonic() - begun:.0f} s")
    logging.disable()
    asyncio.run(servers_stay_up(inputs // 100, inputs // 10, dice))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
