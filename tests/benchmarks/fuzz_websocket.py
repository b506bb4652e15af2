"""Whatever bytes come over a WebSocket, a parser gives contiguous media or a LinkError, and a server stays open.

    python -m tests.benchmarks.fuzz_websocket [inputs of each protocol] [seed]

Run by hand. Inputs are frames of recorded sessions as they are, cut, spliced, with bytes changed, with values of
their JSON replaced, and pure noise. Each session is fed to one parser until it ends, and on after every error; a
tenth as many inputs go through real sockets, and after each hundred sessions a good call must still get through.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallStart, contiguous
from bcaf_stream.ingest.protocol import Request
from bcaf_stream.ingest.protocols.audio_fork import AudioForkConfig, AudioForkParser
from bcaf_stream.ingest.protocols.audiohook import AudioHookConfig, AudioHookParser
from bcaf_stream.ingest.protocols.browser import BrowserParser
from bcaf_stream.ingest.protocols.live_text import LiveTextParser
from bcaf_stream.ingest.protocols.twilio import TwilioConfig, TwilioParser
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer
from bcaf_stream.types import AudioChunk, Gap
from tests.audiohook_client import AudioHookClient
from tests.collecting_sink import CollectingSink
from tests.stream_messages import telnyx_start, twilio_frames, twilio_session, twilio_start, twilio_stop
from tests.websocket_clients import listening

Frame = str | bytes
GOOD_SAMPLES = 1600
WILD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**53,
    10**400,
    1.5,
    float("nan"),
    "",
    "é",
    "\ud800",
    "x" * 300,
    [],
    {},
]
WILD += [[1, [2]], {"a": {}}, "PT1S", "PT99999999S", "inbound", "0", "99999999999999999"]


def twilio(rng: random.Random) -> list[Frame]:
    tracks = {name: rng.randbytes(160 * rng.randint(1, 8)) for name in ("inbound", "outbound")}
    session: list[Frame] = [
        twilio_start(),
        *twilio_frames(tracks, first_ms=rng.choice([0, 0, 2000, 90_000])),
        twilio_stop(),
    ]
    if rng.random() < 0.5:
        session = list(twilio_session(tracks))
    if rng.random() < 0.3:
        session[:-1] = [telnyx_start(), *twilio_frames(tracks)]
    return session


def audiohook(rng: random.Random) -> list[Frame]:
    client = AudioHookClient(position=rng.choice([0.0, 0.0, 1.0]))
    session: list[Frame] = [client.open(rng.choice(["c0", "c1", None]))]
    client.serverseq = 1
    for _ in range(rng.randint(1, 10)):
        session.append(client.audio(rng.randbytes(2 * rng.randint(0, 800))))
        kind = rng.choice(["ping", "update", "paused", "discarded", "resumed", "error", "new"])
        session.append(
            client.discarded(rng.random(), kind) if kind in ("discarded", "resumed") else client.message(kind)
        )
    return [*session, client.message("close", reason=rng.choice(["end", "error", "reconnect"]))]


def live_text(rng: random.Random) -> list[Frame]:
    line = {
        "call": "c",
        "channel": "left",
        "start_ms": 0,
        "end_ms": 9,
        "text": "words",
        "id": "u",
        "is_final": True,
    }
    return ["\n".join(json.dumps(line) for _ in range(rng.randint(1, 4))) for _ in range(10)]


def microphone(rng: random.Random) -> list[Frame]:
    sides = [["left", "customer"], ["right", "agent"]][: rng.randint(1, 2)]
    hello = json.dumps({"call": "c", "channels": sides, "rate": 16000})
    return [hello, *(rng.randbytes(rng.randint(0, 640)) for _ in range(8)), json.dumps({"end": True})]


def audio_fork(rng: random.Random) -> list[Frame]:
    said = {"callSid": "c", "sampleRate": rng.choice([8000, 16000]), "mixType": rng.choice(["mono", "stereo"])}
    dtmf = json.dumps({"event": "dtmf", "dtmf": "5"})
    return [json.dumps(said), *(rng.randbytes(rng.randint(0, 1280)) for _ in range(8)), dtmf, rng.randbytes(640)]


def changed(frame: Frame, other: Frame, rng: random.Random) -> Frame:
    how = rng.randrange(2, 8)
    if how == 2:
        return rng.randbytes(rng.randint(0, 60))
    if how == 3 and isinstance(frame, str):
        return with_a_wild_value(frame, rng)
    raw = bytearray(as_bytes(frame))
    tail = as_bytes(other)
    if how == 4:
        raw = raw[: rng.randint(0, len(raw))] + tail[rng.randint(0, len(tail)) :]
    for _ in range(rng.randint(1, 5) if how > 4 else 0):
        if raw:
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    return raw.decode("utf-8", "replace") if isinstance(frame, str) else bytes(raw)


def as_bytes(frame: Frame) -> bytes:
    return frame.encode("utf-8", "surrogatepass") if isinstance(frame, str) else frame


def with_a_wild_value(frame: str, rng: random.Random) -> str:
    head, *rest = frame.split("\n")
    fields = json.loads(head)
    places = [fields]
    places += [value for value in fields.values() if isinstance(value, dict)]
    place = rng.choice(places)
    if place:
        place[rng.choice(list(place))] = rng.choice(WILD)
    return "\n".join([json.dumps(fields), *rest])


def sessions(recorded: Callable[[random.Random], list[Frame]], rng: random.Random) -> Iterator[list[Frame]]:
    while True:
        frames = recorded(rng)
        rate = rng.choice([0.05, 0.2, 0.7])  # how broken it is; after a broken beginning most is refused
        for index, frame in enumerate(frames):
            if rng.random() < (rate if index else rate / 5):
                frames[index] = changed(frame, rng.choice(frames), rng)
        yield rng.sample(frames, len(frames)) if rng.random() < 0.1 else frames


def fuzz(name: str, parser: Callable[[], Any], recorded: Any, inputs: int, seed: int) -> None:
    rng = random.Random(seed)
    done = errors = media = 0
    began = time.perf_counter()
    for frames in sessions(recorded, rng):
        fed = parser()
        items: list[Any] = []
        for frame in frames:
            try:
                found = fed.push(frame, 0)
            except LinkError:
                errors += 1
                continue
            items += found
            for item in found:
                if isinstance(item, CallStart):
                    fed.accepted()
        if (
            hasattr(fed, "flush") and rng.random() < 0.5
        ):  # the connection is lost; the next session goes on with it
            items += fed.flush(0, closed=False)
        chunks = [item for item in items if isinstance(item, AudioChunk | Gap)]
        assert contiguous(chunks)
        assert all(isinstance(item, Gap) or len(item.samples) for item in chunks)
        media += len(items)
        done += len(frames)
        if done >= inputs:
            break
    seconds = time.perf_counter() - began
    print(f"{name:10} {done:8} inputs {errors:8} refused {media:8} items {seconds:6.1f} s")


async def fuzz_server(
    server: WebSocketServer, recorded: Any, good: Callable[[str], list[Frame]], inputs: int, seed: int
) -> None:
    rng = random.Random(seed)
    sink = CollectingSink(capacity=10**9)
    done = count = 0
    began = time.perf_counter()
    async with listening(server, sink):
        for frames in sessions(recorded, rng):
            with contextlib.suppress(ConnectionClosed, UnicodeEncodeError):
                async with connect(server.endpoint, compression=None) as client:
                    await client.send(frames[0])
                    for frame in frames[1:]:
                        await client.send(frame)
                    if rng.random() < 0.5:
                        client.transport.abort()
            done += len(frames)
            count += 1
            if count % 100 == 0 or done >= inputs:
                await a_good_call(server, sink, good, f"good {count}")
            if done >= inputs:
                break
    seconds = time.perf_counter() - began
    print(f"{server.name:10} {done:8} inputs over {count} connections, {server.refused} refused {seconds:6.1f} s")


async def a_good_call(
    server: WebSocketServer, sink: CollectingSink, good: Callable[[str], list[Frame]], name: str
) -> None:
    first, *frames = good(name)
    async with connect(server.endpoint, compression=None) as client:
        await client.send(first)
        await sink.until(name, "running")
        for frame in frames:
            await client.send(frame)
        call = await sink.until(name, "ended")
    assert len(call.sound("customer")) == GOOD_SAMPLES, "a good call was disturbed"


def good_twilio(call: str) -> list[Frame]:
    data = bytes(GOOD_SAMPLES)
    return [twilio_start(call), *twilio_frames({"inbound": data, "outbound": data}), twilio_stop(call)]


def good_audiohook(call: str) -> list[Frame]:
    client = AudioHookClient()
    return [client.open(call), client.audio(bytes(2 * GOOD_SAMPLES)), client.message("close", reason="end")]


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    start = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    streams: dict[tuple[str, ...], int] = {}
    remembered: dict[str, int] = {}
    fuzz("twilio", lambda: TwilioParser(TwilioConfig(port=0, reorder_ms=60), heard=streams), twilio, count, start)
    fuzz("audiohook", lambda: AudioHookParser(AudioHookConfig(port=0), heard=remembered), audiohook, count, start)
    fuzz("live_text", LiveTextParser, live_text, count, start)
    fuzz("microphone", BrowserParser, microphone, count, start)
    forked = AudioForkConfig(port=0)
    fuzz("audio_fork", lambda: AudioForkParser(forked, Request("/")), audio_fork, count, start)
    everybody: Any = {"port": 0, "max_calls_per_client": 1000, "max_connections": 1000}
    asyncio.run(fuzz_server(make_server(TwilioConfig(**everybody)), twilio, good_twilio, count // 10, start))
    asyncio.run(
        fuzz_server(make_server(AudioHookConfig(**everybody)), audiohook, good_audiohook, count // 10, start)
    )
