"""The server of live text over real sockets, beside a call that comes by another server."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager

from websockets.asyncio.client import ClientConnection, connect

from bcaf_stream.ingest.media import CallStart
from bcaf_stream.ingest.protocols.live_text import LiveTextConfig
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer
from bcaf_stream.types import Channel, Words
from tests.collecting_sink import CollectingSink
from tests.websocket_clients import closing, listening, run

BEGIN = CallStart("c0", (Channel("left"),), 8000, "given")


def live_text(sink: CollectingSink, **options: object) -> AbstractAsyncContextManager[WebSocketServer]:
    return listening(make_server(LiveTextConfig(port=0, **options)), sink)


def line(text: str, call: str = "c0", **fields: object) -> str:
    return json.dumps({"call": call, "channel": "left", "start_ms": 0, "end_ms": 900, "text": text} | fields)


def test_words_reach_their_call_and_each_line_its_answer():
    async def test() -> None:
        sink = CollectingSink()
        await sink.open(BEGIN)
        async with live_text(sink, ack=True) as server, connect(server.endpoint) as client:
            await client.send(line("hello", id="u1", is_final=False) + "\n" + line("hello there", id="u1"))
            await client.send("secret")
            await client.send(line("secret", call="another"))
            await client.send(json.dumps({"call": "c0", "last": True}))
            answers = [json.loads(await client.recv()) for _ in range(5)]
        assert answers == [
            {"line": 1, "ok": True},
            {"line": 2, "ok": True},
            {"line": 3, "error": "live text: not a JSON message"},
            {"line": 4, "error": "no such call is running"},
            {"line": 5, "ok": True},
        ]
        assert sink.calls["c0"].words == [
            Words(0, 900, "hello", "left", "u1", final=False),
            Words(0, 900, "hello there", "left", "u1"),
        ]
        call, update = sink.beside[-1]
        assert (call, update.words, update.last) == ("c0", (), True)
        assert server.refused == 2

    run(test)


def test_good_lines_are_not_answered_unless_asked():
    async def test() -> None:
        sink = CollectingSink()
        await sink.open(BEGIN)
        async with live_text(sink) as server, connect(server.endpoint) as client:
            await client.send(line("hello"))
            await client.send("{}")
            assert json.loads(await client.recv())["line"] == 2
        assert len(sink.calls["c0"].words) == 1

    run(test)


def test_who_sends_sound_or_nothing_is_sent_away():
    async def test() -> None:
        async with live_text(CollectingSink(), first_message_s=0.2) as server:
            async with connect(server.endpoint) as binary, connect(server.endpoint) as silent:
                await binary.send(b"\x00")
                assert await closing(binary) == (1008, "live text: a frame must be text")
                assert await closing(silent) == (1008, "no words came in time")
            assert server.refused == 2

    run(test)


async def send_all(client: ClientConnection, frames: list[str]) -> None:
    for frame in frames:
        await client.send(frame)


def test_one_that_never_reads_its_answers_keeps_nobody_waiting():
    async def test() -> None:
        sink = CollectingSink()
        await sink.open(BEGIN)
        async with (
            live_text(sink, ack=True) as server,
            connect(server.endpoint) as stuck,
            connect(server.endpoint) as good,
        ):
            stuck.transport.pause_reading()
            flood = asyncio.create_task(send_all(stuck, ["{}\n" * 1000] * 100))
            for number in range(50):
                await good.send(line(f"word {number}"))
                assert json.loads(await good.recv()) == {"line": number + 1, "ok": True}
            flood.cancel()
            stuck.transport.abort()
            await asyncio.gather(flood, return_exceptions=True)
        assert len(sink.calls["c0"].words) == 50

    run(test)
