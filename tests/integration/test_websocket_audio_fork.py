"""FreeSWITCH's mod_audio_fork over real sockets: a client that does as it does, and somebody else's."""

import asyncio
import json
import shutil
from contextlib import AbstractAsyncContextManager

import numpy as np
import pytest
from websockets.asyncio.client import connect

from bcaf_stream.ingest.protocols.audio_fork import AudioForkConfig
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer
from tests.collecting_sink import CollectingSink
from tests.components import needs
from tests.websocket_clients import closing, listening, run, status

SUBPROTOCOL = "audio.drachtio.org"
SAMPLES_NC = np.random.default_rng(0).integers(-32768, 32767, (16_000, 2), np.int16, endpoint=True)
STEREO = SAMPLES_NC.astype("<i2").tobytes()
FRAME = 2 * 2 * 320  # bytes in 20 ms
WHERE = "/?call=c1&rate=16k&mix=stereo"


def audio_fork(sink: CollectingSink, **options: object) -> AbstractAsyncContextManager[WebSocketServer]:
    server = make_server(AudioForkConfig(port=0, **options))
    assert isinstance(server, WebSocketServer)
    return listening(server, sink)


def test_a_call_from_its_metadata_to_the_hang_up():
    async def test() -> None:
        sink = CollectingSink()
        async with audio_fork(sink) as server:
            async with connect(f"{server.endpoint}{WHERE}", subprotocols=[SUBPROTOCOL]) as client:
                assert client.subprotocol == SUBPROTOCOL
                await client.send('{"from": "1000", "to": "1001"}')
                for at in range(0, len(STEREO), FRAME):
                    await client.send(STEREO[at : at + FRAME])
                await client.send('{"event": "dtmf", "dtmf": "1"}')
            call = await sink.until("c1", "ended")
        assert call.reason == "complete"
        assert [channel.name for channel in call.begins[0].channels] == ["customer", "agent"]
        assert call.sound("customer").tolist() == SAMPLES_NC[:, 0].tolist()
        assert call.sound("agent").tolist() == SAMPLES_NC[:, 1].tolist()

    run(test)


def test_a_broken_connection_comes_back_to_its_call():
    async def test() -> None:
        sink = CollectingSink()
        async with audio_fork(sink) as server:
            async with connect(f"{server.endpoint}{WHERE}") as client:
                await client.send("{}")
                await client.send(STEREO)
                await (await client.ping())
                client.transport.abort()
            await sink.until("c1", "lost")
            async with connect(f"{server.endpoint}{WHERE}") as client:
                await client.send("{}")
                await client.send(STEREO)
            call = await sink.until("c1", "ended")
        assert len(call.begins) == 2
        assert len(call.sound("agent")) == 2 * len(SAMPLES_NC)

    run(test)


@pytest.mark.parametrize(
    ("where", "capacity", "code", "busy", "said"),
    [
        ("/", 1, 1008, False, "nobody says what the samples are"),
        ("/?rate=8k&mix=mono", 0, 1013, True, "no more calls can be taken now"),
    ],
)
def test_a_call_that_is_not_taken_is_told_so_in_the_modules_words(where, capacity, code, busy, said):
    async def test() -> None:
        async with (
            audio_fork(CollectingSink(capacity)) as server,
            connect(f"{server.endpoint}{where}") as client,
        ):
            await client.send("{}")
            answer = json.loads(await client.recv())
            assert answer["type"] == "error"
            assert answer["data"]["busy"] is busy
            assert said in answer["data"]["message"]
            await client.close()
            assert server.refused == 1

    run(test)


def test_the_module_shows_its_secret_by_basic_authentication(tmp_path):
    secrets = tmp_path / "tokens"
    secrets.write_text("one:half")
    secrets.chmod(0o600)

    async def test() -> None:
        async with audio_fork(CollectingSink(), tokens=secrets) as server:
            right = {"Authorization": "Basic ZnJlZXN3aXRjaDpvbmU6aGFsZg=="}  # freeswitch:one:half
            wrong = {"Authorization": "Basic ZnJlZXN3aXRjaDp0d28="}
            assert await status(server, WHERE, right) == 101
            assert await status(server, WHERE, wrong) == 401
            assert await status(server, WHERE, {"Authorization": "Basic !"}) == 401
            assert await status(server, WHERE) == 401

    run(test)


def test_a_call_that_ends_here_is_closed_without_a_word_to_the_caller():
    async def test() -> None:
        sink = CollectingSink()
        async with audio_fork(sink) as server, connect(f"{server.endpoint}{WHERE}") as client:
            await client.send("{}")
            await sink.until("c1", "running")
            sink.finish("c1", "failed")
            assert await closing(client) == (1000, "failed")

    run(test)


SCRIPT = """
const socket = new WebSocket(process.argv[1], ["audio.drachtio.org"])
socket.onopen = () => {
  socket.send(JSON.stringify({ callSid: "theirs", sampleRate: 16000, mixType: "stereo" }))
  const samples = new Int16Array(2 * 16000).map((_, n) => n - 16000)
  for (let at = 0; at < samples.length; at += 640) socket.send(samples.slice(at, at + 640))
  socket.close(1000)
}
"""


@needs("node")
def test_a_client_of_somebody_else():
    async def test() -> None:
        sink = CollectingSink()
        async with audio_fork(sink) as server:
            command = [shutil.which("node") or "", "--experimental-websocket", "-e", SCRIPT, server.endpoint]
            process = await asyncio.create_subprocess_exec(*command)
            call = await sink.until("theirs", "ended")
            await process.wait()
        expected_N = np.arange(32_000, dtype=np.int64) - 16_000
        assert call.sound("customer").tolist() == expected_N[0::2].tolist()
        assert call.sound("agent").tolist() == expected_N[1::2].tolist()

    run(test)
