"""The AudioHook server over real sockets, played by a client of the protocol."""

import base64
import hmac
import time
from contextlib import AbstractAsyncContextManager

import pytest
from websockets.asyncio.client import ClientConnection, connect

from bcaf_stream.codecs import decode_ulaw
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.protocols.audiohook import AudioHookConfig
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer
from tests.audiohook_client import NO_ID, AudioHookClient
from tests.collecting_sink import CollectingSink
from tests.websocket_clients import closing, listening, noise, run, status


def audiohook(sink: CollectingSink, **options: object) -> AbstractAsyncContextManager[WebSocketServer]:
    return listening(make_server(AudioHookConfig(port=0, **options)), sink)


def sides(data: bytes) -> list[list[int]]:
    return decode_ulaw(data).reshape(-1, 2).T.tolist()


async def opened(socket: ClientConnection, client: AudioHookClient, conversation: str | None = "c0") -> None:
    await socket.send(client.open(conversation))
    assert client.hear(await socket.recv())["type"] == "opened"


async def speak(socket: ClientConnection, client: AudioHookClient, data: bytes, frame: int = 3200) -> None:
    for start in range(0, len(data), frame):
        await socket.send(client.audio(data[start : start + frame]))


def test_a_session_from_open_to_closed():
    async def test() -> None:
        sink, client, data = CollectingSink(), AudioHookClient(), noise(1.0, channels=2)
        async with audiohook(sink) as server, connect(server.endpoint) as socket:
            await opened(socket, client)
            await speak(socket, client, data[:8000])
            await socket.send(client.message("ping"))
            assert client.hear(await socket.recv())["type"] == "pong"
            await socket.send(client.discarded(0.5))
            await speak(socket, client, data[8000:])
            await socket.send(client.message("close", reason="end"))
            assert client.hear(await socket.recv())["type"] == "closed"
            call = await sink.until("c0", "ended")
        left, right = sides(data)
        silence = [0] * 4000
        assert call.reason == "complete"
        assert call.sound("customer").tolist() == left[:4000] + silence + left[4000:]
        assert call.sound("agent").tolist() == right[:4000] + silence + right[4000:]
        assert len(call.gaps) == 2
        assert server.refused == 0

    run(test)


def test_a_conversation_goes_on_in_its_next_session():
    async def test() -> None:
        sink, data = CollectingSink(), noise(2.0, channels=2)
        async with audiohook(sink) as server:
            first = AudioHookClient("s1")
            async with connect(server.endpoint) as socket:
                await opened(socket, first)
                await speak(socket, first, data[:16_000])
                await socket.send(first.message("ping"))
                first.hear(await socket.recv())  # all before it has arrived
                socket.transport.abort()
            await sink.until("c0", "lost")
            second = AudioHookClient("s2", position=0.75)  # a quarter of a second comes again
            async with connect(server.endpoint) as socket:
                earlier = [{"id": "s1", "serverseq": first.serverseq, "clientseq": first.seq}]
                await socket.send(second.open("c0", continuedSessions=earlier))
                assert second.hear(await socket.recv())["type"] == "opened"
                await speak(socket, second, data[12_000:])
                await socket.send(second.message("close", reason="end"))
                call = await sink.until("c0", "ended")
        assert [begin.missed for begin in call.begins] == [None, 0]
        assert [call.sound("customer").tolist(), call.sound("agent").tolist()] == sides(data)

    run(test)


def test_a_probe_is_answered_and_starts_nothing():
    async def test() -> None:
        sink, client = CollectingSink(capacity=0), AudioHookClient()
        async with audiohook(sink) as server, connect(server.endpoint) as socket:
            await opened(socket, client, NO_ID)
            await socket.send(client.message("close", reason="end"))
            assert client.hear(await socket.recv())["type"] == "closed"
        assert sink.calls == {}
        assert server.refused == 0

    run(test)


def test_a_full_server_asks_for_a_disconnect():
    async def test() -> None:
        sink, client = CollectingSink(capacity=0), AudioHookClient()
        async with audiohook(sink) as server, connect(server.endpoint) as socket:
            await socket.send(client.open())
            message = client.hear(await socket.recv())
            assert message["type"] == "disconnect"
            assert message["parameters"]["info"].startswith("busy, try again later")
            await socket.send(client.message("close", reason="disconnect"))
            assert client.hear(await socket.recv())["type"] == "closed"
            assert (await closing(socket))[0] == 1013  # a client that does not hang up by itself
        assert server.refused == 1

    run(test)


def test_a_client_that_breaks_the_order_is_disconnected_and_disturbs_nobody():
    async def test() -> None:
        sink, data = CollectingSink(), noise(1.0, channels=2)
        good, bad = AudioHookClient("good"), AudioHookClient("bad")
        async with audiohook(sink) as server, connect(server.endpoint) as one, connect(server.endpoint) as two:
            await opened(one, good, "c1")
            await opened(two, bad, "c2")
            await speak(one, good, data[:8000])
            bad.seq += 1
            await two.send(bad.message("ping"))
            message = bad.hear(await two.recv())
            assert message["parameters"] == {"reason": "error", "info": "session: seq must be 2"}
            assert (await closing(two))[0] == 1008
            assert sink.calls["c2"].state == "lost"
            await speak(one, good, data[8000:])
            await one.send(good.message("close", reason="end"))
            call = await sink.until("c1", "ended")
        assert call.sound("customer").tolist() == sides(data)[0]

    run(test)


def test_the_sink_ends_a_call():
    async def test() -> None:
        sink, client = CollectingSink(), AudioHookClient()
        async with audiohook(sink) as server, connect(server.endpoint) as socket:
            await opened(socket, client)
            sink.finish("c0", "failed")
            message = client.hear(await socket.recv())
            assert (message["type"], message["parameters"]) == ("disconnect", {"reason": "completed"})
            await socket.send(client.message("close", reason="disconnect"))
            assert client.hear(await socket.recv())["type"] == "closed"
        assert sink.calls["c0"].reason == "failed"

    run(test)


def test_an_api_key_is_asked_for(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("SGVsbG8\n")
    keys.chmod(0o600)

    async def test() -> None:
        async with audiohook(CollectingSink(), tokens=keys) as server:
            assert await status(server) == 401
            assert await status(server, headers={"X-API-KEY": "wrong"}) == 401
            assert await status(server, headers={"X-API-KEY": "SGVsbG8"}) == 101

    run(test)


def signed(host: str, secret: bytes, nonce: str = "0123456789") -> dict[str, str]:
    """The headers of a request to the root of a host, signed as RFC 9421 says."""
    values = {"@request-target": "/", "@authority": host, "audiohook-organization-id": "o"}
    values |= {"audiohook-session-id": "s", "audiohook-correlation-id": "c", "x-api-key": "key"}
    names = " ".join(f'"{name}"' for name in values)
    described = f'({names});keyid="key";nonce="{nonce}";alg="hmac-sha256";created={int(time.time())}'
    base = "\n".join(
        [*(f'"{name}": {value}' for name, value in values.items()), f'"@signature-params": {described}']
    )
    signature = base64.b64encode(hmac.digest(secret, base.encode(), "sha256")).decode()
    headers = {name: value for name, value in values.items() if not name.startswith("@")}
    return headers | {"Signature-Input": f"sig1={described}", "Signature": f"sig1=:{signature}:"}


def test_a_signature_is_asked_for(tmp_path):
    secrets = tmp_path / "secrets"
    secrets.write_text(base64.b64encode(b"secret").decode())
    secrets.chmod(0o600)

    async def test() -> None:
        async with audiohook(CollectingSink(), client_secret=secrets) as server:
            host = server.endpoint.removeprefix("ws://")
            good = signed(host, b"secret")
            assert await status(server, headers=good) == 101
            assert await status(server, headers=good) == 401, "each is taken once"
            assert await status(server, headers=signed(host, b"secret", nonce="another")) == 101
            assert await status(server, headers=signed(host, b"wrong")) == 401
            assert await status(server, headers=signed("elsewhere", b"secret")) == 401
            assert await status(server, headers={"X-API-KEY": "key"}) == 401
        secrets.write_text("not base64")
        with pytest.raises(LinkError, match="must be written in base64"):
            await make_server(AudioHookConfig(port=0, client_secret=secrets)).start(CollectingSink())

    run(test)
