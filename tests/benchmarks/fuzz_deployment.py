"""A running deployment under nonsense by all of its endpoints, beside a real call, which must not notice.

    python -m tests.benchmarks.fuzz_deployment [inputs] [seed]

Run by hand with 100,000 inputs; tests/e2e runs a few thousand. An input is a WebSocket frame, a TCP connection's
bytes, a datagram, a message of the audio link or a request to the replay socket: well-formed, changed, or noise
(the makers of fuzz_wires and fuzz_websocket). Meanwhile a call is sent over the audio link. Afterwards its finals
are what they were without all this, and every endpoint takes a good call.
"""

import asyncio
import contextlib
import json
import random
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq
import zmq.asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from actors.launch import Deployment, Endpoints
from bcaf_stream.client.link import LinkSender
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.config import load_config
from bcaf_stream.demo import CALL
from bcaf_stream.events.event import Event
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.ingest.media import TextUpdate
from bcaf_stream.ingest.protocols.link import Audio, Close, Open, pack
from bcaf_stream.recording import Recording
from bcaf_stream.types import Call, Channel, Words
from tests.audiohook_client import AudioHookClient
from tests.benchmarks import fuzz_websocket, fuzz_wires
from tests.benchmarks.fuzz_wires import changed
from tests.same import assert_same_events
from tests.stream_messages import twilio_frames, twilio_start, twilio_stop

PROTOCOLS = ("twilio", "audiohook", "audiosocket", "pcm", "microphone", "audio_fork", "live_text")
SETTINGS = [f"ingest.{name}.port=0" for name in PROTOCOLS] + [
    "ingest.rtp=[{port: 0, idle_s: 1, text: none}]",
    *(f"ingest.{name}.text=none" for name in PROTOCOLS if name != "live_text"),
    "ingest.live_text.ack=true",
    "ingest.max_calls=256",
    "ingest.live.stall_s=10",  # the sender shares this machine with the flood, and may be starved by it
]
PATIENCE_S = 30.0  # only a failing run waits that long
NOISE = np.random.default_rng(0).integers(-3000, 3000, 1600, np.int16)
Flood = Callable[[str, int, random.Random, Counter[str]], Awaitable[None]]  # address, inputs, dice, what became


def port_of(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2].split(",")[0])


async def websocket(address: str, name: str, inputs: int, dice: random.Random, count: Counter[str]) -> None:
    """Sessions over new connections; each has calls of its own, so that many begin."""
    for frames in fuzz_websocket.sessions(getattr(fuzz_websocket, name), dice):
        call = f"fuzz-{dice.randrange(10**9)}"
        with contextlib.suppress(WebSocketException, OSError, UnicodeEncodeError, TimeoutError):
            async with asyncio.timeout(5), connect(address, compression=None, close_timeout=0.5) as client:
                for frame in frames:
                    renamed = frame
                    if isinstance(frame, str):
                        for given in ('"CA1"', '"c0"', '"c1"', '"c"'):
                            renamed = renamed.replace(given, f'"{call}"')
                    await client.send(renamed)
                if dice.random() < 0.5:
                    client.transport.abort()
        count[name] += len(frames)
        if count[name] >= inputs:
            return


async def tcp(address: str, name: str, inputs: int, dice: random.Random, count: Counter[str]) -> None:
    make = getattr(fuzz_wires, name)
    while count[name] < inputs:
        count[name] += 1
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(address))
            data = changed(make(dice)[1], dice).replace(b'"call": "c"', b'"call": "%d"' % dice.randrange(10**9))
            writer.write(data)
            if dice.random() < 0.2:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(0.5):
                        writer.write_eof()
                        await reader.read()
            await leave(writer)


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def rtp(address: str, inputs: int, dice: random.Random, count: Counter[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port_of(address)))
        while count["rtp"] < inputs:
            for data in fuzz_wires.datagrams(fuzz_wires.RTP[0], dice):
                with contextlib.suppress(OSError):
                    sender.send(changed(data, dice))
                count["rtp"] += 1
                await asyncio.sleep(0.001)


def link_session(dice: random.Random) -> Iterator[bytes]:
    channels = (Channel("a", "customer"), Channel("b", "agent"))[: dice.randint(1, 2)]
    yield pack(Open(f"fuzz-{dice.randrange(10**9)}", channels, 8000, dice.choice(["none", "given"])))
    start = 0
    for seq in range(dice.randrange(6)):
        samples_NC = np.zeros((dice.choice([1, 160, 1600]), len(channels)), np.int16)
        yield pack(Audio(seq, start, samples_NC))
        start += len(samples_NC)
        words = Words(start // 8, start // 8 + 100, "words", dice.choice(["a", None, "x"]))
        yield pack(TextUpdate((words,), call=dice.choice([None, "nobody"])))
    yield pack(Close())


def asked(dice: random.Random) -> bytes:
    """A request to the replay socket, with values that its maker did not think of."""
    fields: dict[str, Any] = {
        "v": 1,
        "id": dice.randrange(5),
        "ask": dice.choice(["replay", "credit", "cancel", "count"]),
    }
    fields |= {"from": "start", "topics": ["emo.v1."], "credit": dice.choice([0, 1, 10]), "speed": None}
    for _ in range(dice.choice([0, 1, 1, 2])):
        wild = [
            *fuzz_websocket.WILD[:5],
            1e-310,
            float("inf"),
            -1.0,
            {"offset": -1},
            {"time": 2**63 - 1},
            ["x"] * 50,
            b"\xff",
        ]
        fields[dice.choice(list(fields))] = dice.choice(wild)
    if dice.random() < 0.2:
        del fields[dice.choice(list(fields))]
    return bytes(msgpack.packb(fields))


def messages(name: str, dice: random.Random) -> list[bytes]:
    frames = list(link_session(dice)) if name == "link" else [asked(dice) for _ in range(5)]
    return [changed(frame, dice) if dice.random() < 0.3 else frame for frame in frames]


async def dealer(address: str, name: str, inputs: int, dice: random.Random, count: Counter[str]) -> None:
    """The audio link and the replay socket; now and then bytes that are no ZeroMQ."""
    with zmq.asyncio.Context() as context:
        while count[name] < inputs:
            if dice.random() < 0.1:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port_of(address))
                    writer.write(dice.randbytes(dice.randrange(100)))
                    await leave(writer)
            with context.socket(zmq.DEALER) as client:
                client.setsockopt(zmq.LINGER, 100)
                client.connect(address)
                for data in messages(name, dice):
                    parts = [data] if dice.random() < 0.95 else [data, dice.randbytes(3)]
                    await client.send_multipart(parts)
                    count[name] += 1
                if dice.random() < 0.5:
                    await client.poll(50)


async def flood(endpoints: Endpoints, inputs: int, seed: int) -> Counter[str]:
    """Nonsense by all endpoints at once; how many inputs each of them had."""
    count: Counter[str] = Counter()
    servers, each = endpoints.servers, inputs // (len(PROTOCOLS) + 3)

    def dice(name: str) -> random.Random:
        return random.Random(f"{name} {seed}")

    pages = {"microphone": servers["microphone"].replace("http", "ws", 1)}
    await asyncio.gather(
        *(websocket(pages.get(n, servers[n]), n, each, dice(n), count) for n in ("twilio", "audiohook")),
        *(
            websocket(pages.get(n, servers[n]), n, each, dice(n), count)
            for n in ("microphone", "audio_fork", "live_text")
        ),
        *(tcp(servers[name], name, each, dice(name), count) for name in ("audiosocket", "pcm")),
        rtp(servers["rtp"], each, dice("rtp"), count),
        dealer(endpoints.audio, "link", each, dice("link"), count),
        dealer(endpoints.replay, "replay", each, dice("replay"), count),
    )
    return count


async def good_calls(servers: dict[str, str]) -> list[str]:
    """A good call by every endpoint, live text among them; the calls' names."""
    loud, mulaw = NOISE.astype("<i2").tobytes(), bytes(1600)
    async with connect(servers["twilio"]) as client:
        for message in (twilio_start("good-twilio"), *twilio_frames({"inbound": mulaw, "outbound": mulaw})):
            await client.send(message)
        await client.send(twilio_stop("good-twilio"))
        await client.wait_closed()
        assert client.close_code == 1000, client.close_reason
    caller = AudioHookClient(str(uuid.uuid4()))
    async with connect(servers["audiohook"]) as client:
        for frame in (caller.open("good-audiohook"), caller.audio(bytes(3200))):
            await client.send(frame)
        assert json.loads(await client.recv())["type"] == "opened"
        await client.send(caller.message("close", reason="end"))
        assert json.loads(await client.recv())["type"] == "closed"
    hello = {"channels": [["speaker", "speaker"]], "rate": 8000}
    async with (
        connect(servers["microphone"].replace("http", "ws", 1)) as client,
        connect(servers["live_text"]) as scribe,
    ):
        await client.send(json.dumps(hello | {"call": "good-microphone", "text": "given"}))
        assert json.loads(await client.recv())["t"] == "accepted"
        line = {"call": "good-microphone", "start_ms": 0, "end_ms": 100, "text": "hello"}
        await scribe.send(json.dumps(line))
        assert json.loads(await scribe.recv()) == {"line": 1, "ok": True}
        await client.send(loud)
        await client.send('{"end": true}')
        assert json.loads(await client.recv())["t"] == "closed"
    async with connect(f"{servers['audio_fork']}/?call=good-fork&rate=8k&mix=mono") as client:
        await client.send("{}")
        await client.send(loud)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(servers["pcm"]))
    writer.write(json.dumps(hello | {"call": "good-pcm"}).encode() + b"\n" + loud)
    writer.write_eof()
    assert b'"closed"' in await reader.read()
    await leave(writer)
    name = str(uuid.uuid4())
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(servers["audiosocket"]))
    writer.write(b"\1\0\x10" + uuid.UUID(name).bytes + b"\x10" + len(loud).to_bytes(2, "big") + loud + b"\0\0\0")
    assert await reader.read() == b"\0\0\0"
    await leave(writer)
    return ["good-twilio", "good-audiohook", "good-microphone", "good-fork", "good-pcm", name]


async def a_good_rtp_call(address: str) -> None:
    """The last call of the noise may still be waited for, so its first packets may be nobody's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port_of(address)))
        await asyncio.sleep(2.5)
        for number in range(20):
            header = bytes([0x80, 0]) + number.to_bytes(2, "big") + (160 * number).to_bytes(4, "big") + b"good"
            sender.send(header + bytes(160))
            await asyncio.sleep(0.005)
        sender.send(bytes([0x81, 203, 0, 1]) + b"good")


def a_good_link_call(address: str) -> str:
    with LinkSender(address, Call("good-link", (Channel("a", "customer"),)), 8000, "none") as sender:
        sender.send(NOISE[:, None])
        sender.close()
    return "good-link"


def answers(events: list[Event], call: str) -> list[Event]:
    """What was said of each utterance of a call, without what tells calls apart.

    That is its final, or that it has none; interim results may have been shed.
    """
    kinds = ("emotion.final", "degraded")
    mine = [e for e in events if e.type in kinds and e.call == call and e.utterance is not None]
    return [replace(event, call="", id="", seq=0) for event in mine]


def journalled(endpoints: Endpoints, calls: set[str], rtp_call: bool = True) -> list[Event]:
    """All events, by replay, until these calls have ended, and a call of the RTP endpoint after them."""
    found: list[Event] = []
    with EventSubscriber(endpoints.events, endpoints.replay, start="start") as subscriber:
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            found += subscriber.receive_many(1000, 0.5)
            ended = {event.call for event in found if event.type == "call.end"}
            if calls <= ended and (not rtp_call or any(call.startswith("rtp-") for call in ended)):
                return found
    raise AssertionError(f"no call.end of {sorted(calls - ended)}")


def attack(deployment: Deployment, endpoints: Endpoints, inputs: int, seed: int, speed: float) -> dict[str, Any]:
    """The whole experiment; what it counted.

    Raises:
        LinkError: the call was cut off.
        AssertionError: it lost its connection, its answers changed, or an endpoint does not answer.
    """
    send_recording(Recording.open(str(CALL), {}, {}, "undisturbed"), endpoints.audio, 0, "none")
    with ThreadPoolExecutor(1) as beside:
        recording = Recording.open(str(CALL), {}, {}, "disturbed")
        notes: list[str] = []
        sending = beside.submit(
            send_recording, recording, endpoints.audio, speed, "none", None, None, notes.append
        )
        begun = time.monotonic()
        count = asyncio.run(flood(endpoints, inputs, seed))
        found = {"inputs": dict(count), "seconds": round(time.monotonic() - begun, 1)}
        found["stats"] = deployment.stats()["ingest"]
        print(json.dumps(found, indent=1, default=str))
        sending.result()
        assert not notes, f"the sender noticed: {notes}"  # of a process that broke down and came back
    good = {*asyncio.run(good_calls(endpoints.servers)), a_good_link_call(endpoints.audio)}
    asyncio.run(a_good_rtp_call(endpoints.servers["rtp"]))
    events = journalled(endpoints, {"undisturbed", "disturbed", *good})
    expected = answers(events, "undisturbed")
    assert expected
    assert_same_events(answers(events, "disturbed"), expected)
    return found | {"utterances": len(expected)}


def main(inputs: int = 100_000, seed: int = 0) -> None:
    from actors.config import ServeConfig

    with tempfile.TemporaryDirectory() as folder:
        binds = [f"{name}.bind=tcp://127.0.0.1:*" for name in ("ingest.link", "hub.bus", "hub.replay")]
        journal = f"hub.journal.path={Path(folder) / 'events.sqlite'}"
        config = load_config(ServeConfig, None, ["name=fuzz", journal, *binds, *SETTINGS])
        with Deployment(config) as deployment:
            found = attack(deployment, deployment.up(), inputs, seed, speed=1.0)
    print(f"the answers to {found['utterances']} utterances are what they were, and every endpoint answers")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
