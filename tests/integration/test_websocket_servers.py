"""Who comes in by a WebSocket server, who does not, and that nothing is left of anybody; over real sockets."""

import asyncio
import contextlib
import gc
import ipaddress
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from bcaf_stream import loops
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallStart
from bcaf_stream.ingest.protocols.twilio import TwilioConfig, twilio_signature
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports import websocket
from bcaf_stream.ingest.transports.admission import DISPLACED
from bcaf_stream.ingest.transports.websocket import Connection
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer
from tests.collecting_sink import CollectingCall, CollectingSink
from tests.components import require
from tests.stream_messages import twilio_media, twilio_session, twilio_start, twilio_stop
from tests.waiting import eventually
from tests.websocket_clients import WAIT_S, closing, listening, noise, run, status


def twilio(sink: CollectingSink, **options: object) -> AbstractAsyncContextManager[WebSocketServer]:
    return listening(make_server(TwilioConfig(port=0, **options)), sink)


def test_who_says_nothing_is_sent_away():
    async def test() -> None:
        async with twilio(CollectingSink(), first_message_s=0.2) as server, connect(server.endpoint) as client:
            await client.send(json.dumps({"event": "connected"}))
            assert await closing(client) == (1008, "no call began in time")
            assert server.refused == 1

    run(test)


def test_a_call_of_which_nothing_is_heard_is_lost():
    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink, idle_s=0.2) as server, connect(server.endpoint) as client:
            await client.send(twilio_start())
            await client.send(twilio_media("inbound", 1, 0, b"\x00" * 80))
            assert await closing(client) == (1008, "nothing came for too long")
            assert sink.calls["CA1"].state == "lost"

    run(test)


def test_only_who_shows_a_token_comes_in(tmp_path):
    secrets = tmp_path / "tokens"
    secrets.write_text("one\ntwo\n")
    secrets.chmod(0o600)

    async def test() -> None:
        async with twilio(CollectingSink(), tokens=secrets) as server:
            assert await status(server) == 401
            assert await status(server, headers={"Authorization": "Bearer three"}) == 401
            assert await status(server, headers={"Authorization": "Bearer two"}) == 101
            assert await status(server, headers={"X-API-KEY": "one"}) == 101
            assert await status(server, "/stream?token=one") == 101
            assert await status(server, "/stream?token=on") == 401
            assert server.refused == 3

    run(test)


def test_only_what_twilio_signed_comes_in(tmp_path):
    secret = tmp_path / "auth_token"
    secret.write_text("12345")
    secret.chmod(0o600)

    async def test() -> None:
        def signed(url: str, token: bytes = b"12345") -> dict[str, str]:
            return {"X-Twilio-Signature": twilio_signature(token, url).decode()}

        async with twilio(CollectingSink(), auth_token=secret) as server:
            url = server.endpoint.replace("ws://", "wss://") + "/stream"
            assert await status(server, "/stream", signed(url)) == 101
            assert await status(server, "/other", signed(url)) == 401
            assert await status(server, "/stream", signed(url, b"1234")) == 401
            assert await status(server, "/stream") == 401
        async with twilio(CollectingSink(), auth_token=secret) as server:
            url = server.endpoint.replace("ws://", "wss://") + "/stream"
            assert [await status(server, "/stream", signed(url)) for _ in range(2)] == [101, 101], "of two calls"
        async with twilio(CollectingSink(), auth_token=secret, single_use=True) as server:
            url = server.endpoint.replace("ws://", "wss://") + "/stream/8f14e45f"
            assert [await status(server, "/stream/8f14e45f", signed(url)) for _ in range(2)] == [101, 401]
        public = "wss://calls.example.org/twilio"
        async with twilio(CollectingSink(), auth_token=secret, public_url=public) as server:
            assert await status(server, "/stream", signed(public)) == 101
            assert await status(server, "/stream", signed(url)) == 401

    run(test)


def test_networks_and_limits():
    async def test() -> None:
        async with twilio(CollectingSink(), allow=(ipaddress.ip_network("10.0.0.0/8"),)) as server:
            assert await status(server) == 403
        sink = CollectingSink()
        for limit, code in (("max_connections", 503), ("max_calls_per_client", 429)):
            async with twilio(sink, **{limit: 1}) as server, connect(server.endpoint) as client:
                await client.send(twilio_start(limit))
                await sink.until(limit, "running")
                assert await status(server) == code
                assert server.displaced == 0
        async with twilio(CollectingSink(), max_message_bytes=2048) as server, connect(server.endpoint) as client:
            await client.send("x" * 3000)
            assert (await closing(client))[0] == 1009

    run(test)


def test_a_fault_of_the_sink_costs_one_connection_and_one_line_of_log(caplog):
    class Faulty(CollectingSink):
        async def open(self, begin: CallStart, credit: Callable[[int], None] | None = None) -> CollectingCall:
            if begin.call == "bad":
                raise RuntimeError("secret words")
            return await super().open(begin)

    async def test() -> None:
        sink = Faulty()
        async with twilio(sink) as server, connect(server.endpoint) as good, connect(server.endpoint) as bad:
            await good.send(twilio_start("good"))
            await sink.until("good", "running")
            await bad.send(twilio_start("bad"))
            assert await closing(bad) == (1011, "internal error")
            await good.send(twilio_stop("good"))
            await sink.until("good", "ended")

    before = loops.faults.counts.get("twilio connection", 0)
    run(test)
    assert loops.faults.counts["twilio connection"] == before + 1
    assert "secret" not in caplog.text


def test_the_limit_holds_for_many_who_come_at_once():
    async def test() -> None:
        async with twilio(CollectingSink(), max_connections=5) as server:
            coming = [connect(server.endpoint, open_timeout=WAIT_S) for _ in range(30)]
            came = await asyncio.gather(*coming, return_exceptions=True)
            inside = [client for client in came if isinstance(client, ClientConnection)]
            await asyncio.sleep(0)
            ends = await asyncio.gather(*(end_of(client) for client in inside))
            assert ends.count(None) == 5, "the last ones that came"
            assert {end for end in ends if end} <= {(1013, DISPLACED)}
            assert server.displaced + server.refused == 25
            await asyncio.gather(*(client.close() for client in inside))
            assert await status(server) == 101

    run(test)


async def end_of(client: ClientConnection) -> tuple[int, str] | None:
    """How a connection was closed by the other side; None if it is open, which shows by its answer to a ping."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(WAIT_S):
            await (await client.ping())
        return None
    return client.close_code or 0, client.close_reason or ""


@pytest.mark.parametrize("how_far", ["silent", "half a request", "upgraded", "half TLS"])
def test_connections_without_a_call_keep_nobody_out(how_far: str, request: pytest.FixtureRequest):
    tls = how_far == "half TLS"
    options: dict[str, object] = {"first_message_s": 1000.0, "max_connections": 8}
    trust = None
    if tls:
        cert, key = request.getfixturevalue("certificate")
        options |= {"certificate": cert, "key": key}
        trust = ssl.create_default_context(cafile=cert)

    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink, **options) as server, contextlib.AsyncExitStack() as stack:
            port = int(server.endpoint.rpartition(":")[2])
            for _ in range(12):
                if how_far == "upgraded":
                    await stack.enter_async_context(connect(server.endpoint, close_timeout=0.1))
                    continue
                raw = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                raw.send({"half a request": b"GET / HTTP/1.1\r\n", "half TLS": b"\x16\x03\x01"}.get(how_far, b""))
            async with connect(server.endpoint, ssl=trust) as client:
                for message in twilio_session({"inbound": noise(0.5)}):
                    await client.send(message)
                await sink.until("CA1", "ended")
            assert server.displaced >= 5

    run(test)


def test_one_that_was_refused_and_has_not_left_yet_can_lose_its_place_too():
    async def test() -> None:
        async with twilio(CollectingSink()) as server:
            raw = socket.create_connection(("127.0.0.1", int(server.endpoint.rpartition(":")[2])))
            with raw:
                await eventually(lambda: server.connections)
                (connection,) = server.connections
                connection.transport.write_eof()  # as the library does behind its refusal
                connection.displace()
                await eventually(lambda: not server.connections)

    run(test)


def test_a_page_of_somebody_elses_name_does_not_come_in():
    """DNS rebinding: a name that anybody made point here, so that his page is of the same origin."""

    async def test() -> None:
        async with twilio(CollectingSink(), hosts=("calls.example.org",)) as server:
            own = server.endpoint.removeprefix("ws://")
            port = own.rpartition(":")[2]
            for host in (f"localhost:{port}", own, "calls.example.org", f"[::1]:{port}", "bcaf.localhost"):
                assert await status(server, host=host) == 101
                assert await status(server, host=host, headers={"Origin": f"http://{host}"}) == 101
                assert await status(server, host=host, headers={"Origin": "http://evil.example"}) == 403
            assert await status(server, headers={"Origin": "https://calls.example.org"}) == 101
            for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example"):
                assert await status(server, host=host) == 403
                assert await status(server, host=host, headers={"Origin": f"http://{host}"}) == 403
            async with twilio(CollectingSink(), insecure=True) as anybodys:
                assert await status(anybodys, host="bcaf:8765") == 101
                assert (
                    await status(anybodys, host="evil.example", headers={"Origin": "http://evil.example"}) == 403
                )
            for origin in ("null", "", "file://", f"ftp://{own}", f"{own}"):
                assert await status(server, headers={"Origin": origin}) == 403

    run(test)


def test_a_peer_that_goes_on_talking_is_hung_up_on_at_once(monkeypatch):
    monkeypatch.setattr(websocket, "CLOSE_S", 1000.0)  # the time that its answer may take

    async def test() -> None:
        async with twilio(CollectingSink()) as server, connect(server.endpoint) as client:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(200):
                    await client.send("no json")
            assert (await closing(client))[0] == 1008
            assert server.refused == 1

    run(test)


def test_closing_hangs_up_on_everybody():
    async def test() -> None:
        sink = CollectingSink()
        server = make_server(TwilioConfig(port=0))
        await server.start(sink)
        port = int(server.endpoint.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):  # connects and says nothing
            client = await connect(server.endpoint)
            await client.send(twilio_start())
            await sink.until("CA1", "running")
            await server.close()
            assert (await closing(client))[0] == 1001
            assert sink.calls["CA1"].state == "ended"
            assert sink.calls["CA1"].reason == "server stopped"
            await server.close()
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", port))

    run(test)


def test_an_address_in_use_is_named():
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(LinkError, match=f"twilio: 127.0.0.1 port {port} cannot be bound"):
                await make_server(TwilioConfig(port=port)).start(CollectingSink())

    run(test)


def test_what_is_not_http_is_let_go(caplog):
    async def test() -> None:
        async with twilio(CollectingSink(), first_message_s=0.2) as server:
            port = int(server.endpoint.rpartition(":")[2])
            for data in (b"\x16\x03\x01\x00" * 50, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"secret words\r\n" * 3):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data)
                await reader.read()
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    run(test)
    assert caplog.text == ""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    require("openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    making = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *making.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_a_call_over_tls(certificate):
    cert, key = certificate

    async def test() -> None:
        sink = CollectingSink()
        trust = ssl.create_default_context(cafile=cert)
        async with twilio(sink, certificate=cert, key=key) as server:
            assert server.endpoint.startswith("wss://127.0.0.1:")
            async with connect(server.endpoint, ssl=trust) as client:
                for message in twilio_session({"inbound": noise(0.5)}):
                    await client.send(message)
                call = await sink.until("CA1", "ended")
            with pytest.raises((InvalidMessage, ConnectionError, EOFError)):
                await connect(server.endpoint.replace("wss://", "ws://"))
        assert len(call.sound("customer")) == 4000

    run(test)


def test_a_certificate_that_cannot_be_read_is_named(tmp_path):
    async def test() -> None:
        missing = tmp_path / "cert.pem"
        with pytest.raises(LinkError, match=r"cert\.pem"):
            await make_server(TwilioConfig(port=0, certificate=missing, key=missing)).start(CollectingSink())

    run(test)


def test_a_thousand_calls_leave_nothing_behind():
    async def one(server: WebSocketServer, number: int) -> None:
        async with connect(server.endpoint, compression=None, ping_interval=None) as client:
            await client.send(twilio_start(f"CA{number}"))
            await client.send(twilio_media("inbound", 1, 0, b"\x00" * 160))
            if number % 3 == 0:
                await client.send(twilio_stop())
            elif number % 3 == 1:
                client.transport.abort()

    async def test() -> None:
        sink = CollectingSink(capacity=10_000)
        async with twilio(sink, max_calls_per_client=64) as server:
            for batch in range(50):
                await asyncio.gather(*(one(server, batch * 20 + n) for n in range(20)))
                if batch in (4, 49):
                    await eventually(lambda: len(asyncio.all_tasks()) == 1)
                    gc.collect()
                    sockets = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
                    kept = sum(type(thing) is Connection for thing in gc.get_objects())
                    assert kept == 0
                    if batch == 4:
                        before = sockets
            assert sockets <= before
        states = {call.state for call in sink.calls.values()}
        assert len(sink.calls) == 1000
        assert states == {"ended", "lost"}

    run(test)
