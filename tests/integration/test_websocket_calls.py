"""The doors of live calls over real sockets, played by a real WebSocket client."""

import asyncio
import contextlib
import gc
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.g711 import decode_ulaw
from bcaf_stream.ingest.signatures import twilio_signature
from bcaf_stream.ingest.websocket_calls import TwilioConfig, TwilioDoor
from tests.live_host import CollectingHost
from tests.stream_messages import twilio_frames, twilio_media, twilio_session, twilio_start, twilio_stop

WAIT_S = 10.0  # only a failing test waits that long


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(WAIT_S * 2):
            await test()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"a door left {len(left)} tasks behind"

    asyncio.run(within())


@contextlib.asynccontextmanager
async def twilio(host: CollectingHost, **options: object) -> AsyncIterator[TwilioDoor]:
    door = TwilioDoor(TwilioConfig(port=0, **options))
    await door.start(host)
    try:
        yield door
    finally:
        await door.close()


def noise(seconds: float, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, int(seconds * 8000), np.uint8).tobytes()


async def closing(client: ClientConnection) -> tuple[int, str]:
    with contextlib.suppress(ConnectionClosed):
        async for _ in client:
            pass
    assert client.close_code is not None
    return client.close_code, client.close_reason or ""


def test_a_call_arrives_as_it_was_sent():
    inbound, outbound = noise(2.0, 1), noise(2.0, 2)

    async def test() -> None:
        host = CollectingHost()
        async with twilio(host, text="none") as door, connect(door.endpoint) as client:
            for message in twilio_session({"inbound": inbound, "outbound": outbound}):
                await client.send(message)
            call = await host.until("CA1", "ended")
        assert call.begins[0].text == "none"
        assert [(c.name, c.role) for c in call.begins[0].channels] == [
            ("customer", "customer"),
            ("agent", "agent"),
        ]
        assert call.reason == "complete"
        assert call.gaps == []
        assert call.sound("customer").tolist() == decode_ulaw(inbound).tolist()
        assert call.sound("agent").tolist() == decode_ulaw(outbound).tolist()
        assert door.refused == 0

    run(test)


def test_a_call_that_loses_its_connection_goes_on_in_the_next_one():
    async def test() -> None:
        host = CollectingHost()
        first, second = noise(1.0, 1), noise(1.0, 2)
        async with twilio(host) as door:
            async with connect(door.endpoint) as client:
                await client.send(twilio_start("CA7", ["inbound"]))
                for message in twilio_frames({"inbound": first}):
                    await client.send(message)
                client.transport.abort()  # without a word
            await host.until("CA7", "lost")
            async with connect(door.endpoint) as client:
                await client.send(twilio_start("CA7", ["inbound"]))
                for message in twilio_frames({"inbound": second}, first_ms=5_000):
                    await client.send(message)
                await client.send(twilio_stop("CA7"))
                call = await host.until("CA7", "ended")
        heard = call.sound("customer")
        assert len(call.begins) == 2
        assert call.gaps == []  # the time between the connections is the house's to tell
        assert heard[-8000:].tolist() == decode_ulaw(second).tolist()
        assert heard[:-8000].tolist() == decode_ulaw(first)[: len(heard) - 8000].tolist()

    run(test)


def test_a_full_house_answers_try_again_later():
    async def test() -> None:
        host = CollectingHost(capacity=1)
        async with twilio(host) as door, connect(door.endpoint) as one, connect(door.endpoint) as two:
            await one.send(twilio_start("CA1"))
            await host.until("CA1", "running")
            await two.send(twilio_start("CA2"))
            assert (await closing(two))[0] == 1013
            assert door.refused == 1
            assert host.calls["CA1"].state == "running"
            await one.send(twilio_stop())
            await host.until("CA1", "ended")

    run(test)


def test_a_broken_client_is_hung_up_on_and_disturbs_nobody():
    async def test() -> None:
        host = CollectingHost()
        sound = noise(1.0)
        frames = list(twilio_frames({"inbound": sound}))
        bad = ["no json", "[]", twilio_media("inbound", 1, 0, b"x"), b"\x00\xff", json.dumps({"event": "start"})]
        async with twilio(host) as door, connect(door.endpoint) as good:
            await good.send(twilio_start("CA1", ["inbound"]))
            for number, message in enumerate(bad):
                for frame in frames[number * 10 : (number + 1) * 10]:
                    await good.send(frame)
                async with connect(door.endpoint) as client:
                    await client.send(message)
                    code, reason = await closing(client)
                    assert code == 1008
                    assert reason.startswith(("stream:", "message:"))
            await good.send(twilio_stop())
            call = await host.until("CA1", "ended")
        assert call.sound("customer").tolist() == decode_ulaw(sound).tolist()
        assert door.refused == len(bad)
        assert list(host.calls) == ["CA1"]

    run(test)


def test_a_call_whose_sender_breaks_the_protocol_is_lost_and_may_return():
    async def test() -> None:
        host = CollectingHost()
        async with twilio(host) as door, connect(door.endpoint) as client:
            await client.send(twilio_start())
            await host.until("CA1", "running")
            await client.send("{")
            assert (await closing(client))[0] == 1008
            assert host.calls["CA1"].state == "lost"

    run(test)


def test_the_house_ends_a_call_and_its_connection_with_it():
    async def test() -> None:
        host = CollectingHost()
        async with twilio(host) as door, connect(door.endpoint) as client:
            await client.send(twilio_start())
            await host.until("CA1", "running")
            host.finish("CA1", "failed")
            assert await closing(client) == (1000, "failed")

    run(test)


def test_a_door_reads_no_faster_than_the_house_works():
    async def test() -> None:
        host = CollectingHost()
        async with twilio(host) as door, connect(door.endpoint) as client:
            await client.send(twilio_start("CA1", ["inbound"]))
            await host.until("CA1", "running")
            host.may_read.clear()
            frames = list(twilio_frames({"inbound": noise(600.0)}))
            sending = asyncio.create_task(send_all(client, frames))
            done, _ = await asyncio.wait([sending], timeout=0.5)
            assert not done, "all of it was read, though the house had no room"
            assert len(host.calls["CA1"].sound("customer")) <= 320
            host.may_read.set()
            await sending
            await client.send(twilio_stop())
            call = await host.until("CA1", "ended")
        assert len(call.sound("customer")) == 600 * 8000

    run(test)


async def send_all(client: ClientConnection, messages: list[str]) -> None:
    for message in messages:
        await client.send(message)


def test_who_says_nothing_is_sent_away():
    async def test() -> None:
        async with twilio(CollectingHost(), first_message_s=0.2) as door, connect(door.endpoint) as client:
            await client.send(json.dumps({"event": "connected"}))
            assert await closing(client) == (1008, "no call began in time")
            assert door.refused == 1

    run(test)


async def status(door: TwilioDoor, path: str = "/", **headers: str) -> int:
    """The HTTP status of an attempt to come in."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        async with connect(door.endpoint + path, additional_headers=names):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def test_only_who_shows_a_token_comes_in(tmp_path):
    secrets = tmp_path / "tokens"
    secrets.write_text("one\ntwo\n")
    secrets.chmod(0o600)

    async def test() -> None:
        async with twilio(CollectingHost(), tokens=secrets) as door:
            assert await status(door) == 401
            assert await status(door, Authorization="Bearer three") == 401
            assert await status(door, Authorization="Bearer two") == 101
            assert await status(door, X_API_KEY="one") == 101
            assert await status(door, "/stream?token=one") == 101
            assert await status(door, "/stream?token=on") == 401
            assert door.refused == 3

    run(test)


def test_only_what_twilio_signed_comes_in(tmp_path):
    secret = tmp_path / "auth_token"
    secret.write_text("12345")
    secret.chmod(0o600)

    async def test() -> None:
        async with twilio(CollectingHost(), auth_token=secret) as door:
            url = door.endpoint.replace("ws://", "wss://") + "/stream"
            good = twilio_signature(b"12345", url).decode()
            assert await status(door, "/stream", X_Twilio_Signature=good) == 101
            assert await status(door, "/other", X_Twilio_Signature=good) == 401
            assert await status(door, "/stream", X_Twilio_Signature=twilio_signature(b"1234", url).decode()) == 401
            assert await status(door, "/stream") == 401
        public = "wss://calls.example.org/twilio"
        async with twilio(CollectingHost(), auth_token=secret, public_url=public) as door:
            assert (
                await status(door, "/stream", X_Twilio_Signature=twilio_signature(b"12345", public).decode())
                == 101
            )
            assert await status(door, "/stream", X_Twilio_Signature=good) == 401

    run(test)


def test_networks_and_limits():
    async def test() -> None:
        async with twilio(CollectingHost(), allow=(ipaddress.ip_network("10.0.0.0/8"),)) as door:
            assert await status(door) == 403
        async with twilio(CollectingHost(), max_connections=1) as door, connect(door.endpoint):
            assert await status(door) == 503
        async with twilio(CollectingHost(), max_calls_per_client=1) as door, connect(door.endpoint):
            assert await status(door) == 429
        async with twilio(CollectingHost(), max_message_bytes=2048) as door, connect(door.endpoint) as client:
            await client.send("x" * 3000)
            assert (await closing(client))[0] == 1009

    run(test)


def test_closing_hangs_up_on_everybody():
    async def test() -> None:
        host = CollectingHost()
        door = TwilioDoor(TwilioConfig(port=0))
        await door.start(host)
        port = int(door.endpoint.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):  # connects and says nothing
            client = await connect(door.endpoint)
            await client.send(twilio_start())
            await host.until("CA1", "running")
            await door.close()
            assert (await closing(client))[0] == 1001
            assert host.calls["CA1"].state == "ended"
            assert host.calls["CA1"].reason == "server stopped"
            await door.close()
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", port))

    run(test)


def test_an_address_in_use_is_named():
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(LinkError, match=f"twilio: 127.0.0.1 port {port} cannot be bound"):
                await TwilioDoor(TwilioConfig(port=port)).start(CollectingHost())

    run(test)


def test_what_is_not_http_is_let_go(caplog):
    async def test() -> None:
        async with twilio(CollectingHost(), first_message_s=0.2) as door:
            port = int(door.endpoint.rpartition(":")[2])
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
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    making = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *making.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_a_call_over_tls(certificate):
    cert, key = certificate

    async def test() -> None:
        host = CollectingHost()
        trust = ssl.create_default_context(cafile=cert)
        async with twilio(host, certificate=cert, key=key) as door:
            assert door.endpoint.startswith("wss://127.0.0.1:")
            async with connect(door.endpoint, ssl=trust) as client:
                for message in twilio_session({"inbound": noise(0.5)}):
                    await client.send(message)
                call = await host.until("CA1", "ended")
            with pytest.raises((InvalidMessage, ConnectionError, EOFError)):
                await connect(door.endpoint.replace("wss://", "ws://"))
        assert len(call.sound("customer")) == 4000

    run(test)


def test_a_certificate_that_cannot_be_read_is_named(tmp_path):
    async def test() -> None:
        missing = tmp_path / "cert.pem"
        with pytest.raises(LinkError, match=r"cert\.pem"):
            await TwilioDoor(TwilioConfig(port=0, certificate=missing, key=missing)).start(CollectingHost())

    run(test)


def test_a_thousand_calls_leave_nothing_behind():
    async def one(door: TwilioDoor, number: int) -> None:
        async with connect(door.endpoint, compression=None, ping_interval=None) as client:
            await client.send(twilio_start(f"CA{number}"))
            await client.send(twilio_media("inbound", 1, 0, b"\x00" * 160))
            if number % 3 == 0:
                await client.send(twilio_stop())
            elif number % 3 == 1:
                client.transport.abort()

    async def test() -> None:
        host = CollectingHost(capacity=10_000)
        async with twilio(host, max_calls_per_client=64) as door:
            for batch in range(50):
                await asyncio.gather(*(one(door, batch * 20 + n) for n in range(20)))
                if batch in (4, 49):
                    async with asyncio.timeout(WAIT_S):
                        while len(asyncio.all_tasks()) > 1:
                            await asyncio.sleep(0.01)
                    gc.collect()
                    sockets = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
                    kept = sum(type(thing) is ServerConnection for thing in gc.get_objects())
                    assert kept == 0
                    if batch == 4:
                        before = sockets
            assert sockets <= before
        states = {call.state for call in host.calls.values()}
        assert len(host.calls) == 1000
        assert states == {"ended", "lost"}

    run(test)
