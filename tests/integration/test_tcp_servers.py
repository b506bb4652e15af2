"""The TCP servers over real sockets: every way a connection can begin, break and end."""

import asyncio
import json
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import av
import numpy as np
import pytest

from bcaf_stream import loops
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, LinkError
from bcaf_stream.ingest.media import CallStart, ChannelConfig
from bcaf_stream.ingest.protocols.audiosocket import AudioSocketConfig, hang_up, refusal
from bcaf_stream.ingest.protocols.raw_pcm import PcmConfig, PcmFormat
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports.tcp import TcpServer
from tests.collecting_sink import CollectingCall, CollectingSink
from tests.components import needs, require
from tests.leftovers import WAIT_S, held_before, held_now, open_sockets, run
from tests.waiting import elapsing, eventually

SAMPLES = np.random.default_rng(0).integers(-32768, 32767, 16_000, np.int16, endpoint=True)
BYTES = SAMPLES.astype("<i2").tobytes()
GREETING = b"\1\0\x10" + bytes(16)  # the UUID of a caller who then says nothing
IDS = [str(UUID(int=number)) for number in range(200)]


class Client:
    """A caller of either protocol, in its own bytes."""

    def __init__(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.audiosocket = kind == "audiosocket"
        self.reader = reader
        self.writer = writer

    def begin(self, call: str = IDS[0], **fields: Any) -> None:
        if self.audiosocket:
            self.writer.write(b"\1\0\x10" + UUID(call).bytes)
        else:
            line = {"call": call, "channels": [["customer", "customer"]], "rate": 8000} | fields
            self.writer.write(json.dumps(line).encode() + b"\n")

    def audio(self, data: bytes = BYTES) -> None:
        if not self.audiosocket:
            self.writer.write(data)
            return
        for at in range(0, len(data), 320):
            piece = data[at : at + 320]
            self.writer.write(struct.pack(">BH", 0x10, len(piece)) + piece)

    def say_goodbye(self) -> None:
        if self.audiosocket:
            self.writer.write(hang_up())
        else:
            self.writer.write_eof()

    async def rest(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()

    async def hears_nothing(self) -> bool:
        try:
            return await self.rest() == b""
        except ConnectionResetError:
            return True

    async def answers(self) -> list[dict[str, Any]]:
        """What a PCM server said, until it closed."""
        return [json.loads(line) for line in (await self.rest()).splitlines()]

    async def refused(self, busy: bool) -> bool:
        """Whether the server said no in its protocol's way."""
        if self.audiosocket:
            return await self.rest() == refusal(busy)
        last = (await self.answers())[-1]
        return last["t"] == "refused" and last["busy"] == busy

    def vanish(self) -> None:
        """As a machine that lost its network does, later: a reset."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Setup:
    """A server, the calls behind it, and clients in front of it."""

    def __init__(self, server: TcpServer, sink: CollectingSink, kind: str) -> None:
        self.server = server
        self.sink = sink
        self.kind = kind
        self._writers: list[asyncio.StreamWriter] = []

    async def client(self, **options: Any) -> Client:
        port = int(self.server.endpoint.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
        self._writers.append(writer)
        return Client(self.kind, reader, writer)

    async def heard(self, call: str = IDS[0]) -> None:
        """Wait until all of `audio()` is there."""
        await self.sink.until(call, "running")
        await eventually(lambda: len(self.sink.calls[call].sound("customer")) >= len(SAMPLES))

    def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def opened(
    kind: str, capacity: int = 100, sink: CollectingSink | None = None, **config: Any
) -> AsyncIterator[Setup]:
    server = make_server((AudioSocketConfig if kind == "audiosocket" else PcmConfig)(port=0, **config))
    assert isinstance(server, TcpServer)
    setup = Setup(server, sink or CollectingSink(capacity), kind)
    before = held_before()
    await server.start(setup.sink)
    try:
        yield setup
    finally:
        setup.leave()
        await server.close()
        await eventually(lambda: held_now() == before, what="close leaves no task and no socket: that")


both = pytest.mark.parametrize("kind", ["audiosocket", "pcm"])


@both
def test_a_call_to_its_end(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            client = await setup.client()
            client.begin()
            client.audio()
            client.say_goodbye()
            call = await setup.sink.until(IDS[0], "ended")
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)
            assert call.reason == "complete"
            if kind == "audiosocket":
                assert await client.rest() == hang_up()
            else:
                assert await client.answers() == [
                    {"t": "accepted", "call": IDS[0]},
                    {"t": "closed", "utterances": 0, "reason": "complete"},
                ]

    run(scene)


@both
def test_a_vanished_connection_is_a_lost_call_that_may_come_back(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            client = await setup.client()
            client.begin()
            client.audio()
            await client.writer.drain()
            await setup.heard()
            client.vanish()
            await setup.sink.until(IDS[0], "lost")
            again = await setup.client()
            again.begin()
            again.audio()
            again.say_goodbye()
            call = await setup.sink.until(IDS[0], "ended")
            assert len(call.begins) == 2
            np.testing.assert_array_equal(call.sound("customer"), np.concatenate([SAMPLES, SAMPLES]))

    run(scene)


@both
def test_the_sink_hangs_up(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            client = await setup.client()
            client.begin()
            client.audio()
            await setup.heard()
            setup.sink.finish(IDS[0], "sender lost")
            said = await client.rest()
            assert said == hang_up() if kind == "audiosocket" else b'"reason": "sender lost"' in said

    run(scene)


@both
def test_busy(kind: str):
    async def scene() -> None:
        async with opened(kind, capacity=0) as setup:
            client = await setup.client()
            client.begin()
            client.audio()
            assert await client.refused(busy=True)
            assert setup.server.refused == 1
            assert not setup.sink.calls

    run(scene)


@both
def test_a_call_that_the_sink_refuses(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            first, second = await setup.client(), await setup.client()
            for client in (first, second):
                client.begin()
                client.audio()
                await setup.sink.until(IDS[0], "running")
            assert await second.refused(busy=False)
            first.say_goodbye()
            call = await setup.sink.until(IDS[0], "ended")
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    run(scene)


@both
def test_calls_of_one_address_are_limited_and_freed(kind: str):
    async def scene() -> None:
        async with opened(kind, max_calls_per_client=1) as setup:
            for number in range(3):
                first, second = await setup.client(), await setup.client()
                first.begin(IDS[2 * number])
                first.audio()
                await setup.sink.until(IDS[2 * number], "running")
                second.begin(IDS[2 * number + 1])
                second.audio()
                assert await second.refused(busy=True)
                first.say_goodbye()
                await first.rest()
            assert len(setup.sink.calls) == 3

    run(scene)


@both
def test_connections_are_limited(kind: str):
    async def scene() -> None:
        async with opened(kind, max_connections=1) as setup:
            first = await setup.client()
            first.begin()
            first.audio()
            await setup.sink.until(IDS[0], "running")
            second = await setup.client()
            assert await second.refused(busy=True)
            first.say_goodbye()
            await setup.sink.until(IDS[0], "ended")


@pytest.mark.parametrize(
    ("kind", "word"), [("pcm", b""), ("pcm", b"{"), ("audiosocket", b""), ("audiosocket", GREETING)]
)
def test_connections_without_a_call_keep_nobody_out(kind: str, word: bytes):
    async def scene() -> None:
        async with opened(kind, first_message_s=1000.0, idle_s=1000.0) as setup:
            strangers = [await setup.client() for _ in range(64)]
            for stranger in strangers:
                stranger.writer.write(word)
                await stranger.writer.drain()
            for number in range(5):
                client = await setup.client()
                client.begin(IDS[number])
                client.audio()
                await setup.sink.until(IDS[number], "running")
            assert await strangers[0].refused(busy=True)
            assert setup.server.ports[0].admission.displaced == 5
            client.say_goodbye()
            await setup.sink.until(IDS[4], "ended")

    run(scene)


@both
def test_a_flood_is_let_go_without_a_word(kind: str, caplog: pytest.LogCaptureFixture):
    async def scene() -> None:
        async with opened(kind, max_connections=2) as setup:
            calls = [await setup.client() for _ in range(2)]
            for number, client in enumerate(calls):
                client.begin(IDS[number])
                client.audio()
                await setup.sink.until(IDS[number], "running")
            flood = [await setup.client() for _ in range(200)]
            await eventually(lambda: setup.server.ports[0].refused == 200)
            assert len(caplog.messages) <= 1, "a flood does not fill the log"
            told = [await client.rest() for client in flood]
            assert sum(map(bool, told)) <= 2, "each was closed, and all but the first without a word"
            for number, client in enumerate(calls):
                client.say_goodbye()
                await setup.sink.until(IDS[number], "ended")

    run(scene)


@both
def test_silence_before_the_call_is_limited(kind: str):
    async def scene() -> None:
        async with opened(kind, first_message_s=0.05) as setup:
            client = await setup.client()
            client.writer.write(b"\1" if kind == "audiosocket" else b"{")
            assert await client.refused(busy=False)

    run(scene)


def test_a_caller_may_be_silent_after_the_uuid():
    async def scene() -> None:
        async with opened("audiosocket", first_message_s=0.1) as setup:
            client = await setup.client()
            client.begin()
            await elapsing(0.2, "longer than first_message_s")
            client.audio()
            client.say_goodbye()
            call = await setup.sink.until(IDS[0], "ended")
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    run(scene)


def test_but_not_for_ever():
    async def scene() -> None:
        async with opened("audiosocket", first_message_s=0.1, idle_s=0.1) as setup:
            client = await setup.client()
            client.begin()
            assert await client.refused(busy=False)

    run(scene)


@both
def test_a_connection_that_sends_nothing_any_more_has_lost_its_call(kind: str):
    async def scene() -> None:
        async with opened(kind, idle_s=0.1) as setup:
            client = await setup.client()
            client.begin()
            client.audio()
            call = await setup.sink.until(IDS[0], "lost")
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    run(scene)


@both
def test_a_bad_client_disturbs_nobody(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            good = await setup.client()
            good.begin()
            random = np.random.default_rng(1)
            for at in range(0, len(BYTES), 1600):
                good.audio(BYTES[at : at + 1600])
                bad = await setup.client()
                if at % 3200:
                    bad.begin(IDS[1 + at // 1600])
                bad.writer.write(random.bytes(300) + b"\n")
                bad.audio()
            good.say_goodbye()
            call = await setup.sink.until(IDS[0], "ended")
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    run(scene)


@both
def test_without_room_nothing_is_read_and_nothing_is_lost(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            setup.sink.may_read.clear()
            client = await setup.client()
            client.begin()
            for _ in range(250):  # 8 MB: more than the kernel's buffers and what is read at once
                client.audio()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.writer.drain(), 0.2)
            taken = setup.sink.calls[IDS[0]].parts.get("customer", [])
            assert sum(map(len, taken)) <= 65_536
            setup.sink.may_read.set()
            client.say_goodbye()
            call = await setup.sink.until(IDS[0], "ended")
            assert len(call.sound("customer")) == 250 * len(SAMPLES)

    run(scene)


@both
def test_the_sink_hangs_up_while_the_server_waits_for_room(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            setup.sink.may_read.clear()
            client = await setup.client()
            client.begin()
            client.audio()
            await eventually(lambda: setup.sink.calls and setup.sink.calls[IDS[0]].parts)
            setup.sink.finish(IDS[0], "overload")
            assert await client.rest()

    run(scene)


@both
def test_closing_the_server_ends_its_calls_and_tells_the_callers(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            client, silent = await setup.client(), await setup.client()
            client.begin()
            client.audio()
            await setup.sink.until(IDS[0], "running")
            closing = asyncio.create_task(setup.server.close())
            assert await client.refused(busy=False)
            client.writer.close()
            silent.writer.close()
            await closing
            assert setup.sink.calls[IDS[0]].reason == "the server is going down"
            with pytest.raises(OSError, match="Connect"):
                await setup.client()

    run(scene)


@both
def test_who_is_not_allowed_hears_nothing(kind: str):
    async def scene() -> None:
        async with opened(kind, allow=("10.1.0.0/16",)) as setup:
            client = await setup.client()
            client.begin()
            assert await client.hears_nothing()
            assert setup.server.refused == 1

    run(scene)


def test_two_connections_of_audiosocket_are_the_sides_of_one_call():
    sides = (ChannelConfig(name="customer", role="customer"), ChannelConfig(name="agent", role="agent"))

    async def scene() -> None:
        async with opened("audiosocket", channels=sides) as setup:
            first, *others = setup.server.endpoint.removeprefix("tcp://127.0.0.1:").split(",")
            clients = []
            for port in (first, *others):
                client = Client("audiosocket", *await asyncio.open_connection("127.0.0.1", int(port)))
                client.begin()
                client.audio()
                clients.append(client)
            await setup.heard()
            clients[0].say_goodbye()
            assert await clients[0].rest() == hang_up()
            assert setup.sink.calls[IDS[0]].state == "running"
            clients[1].say_goodbye()
            call = await setup.sink.until(IDS[0], "ended")
            assert [channel.name for channel in call.begins[0].channels] == ["customer", "agent"]
            for side in ("customer", "agent"):
                np.testing.assert_array_equal(call.sound(side)[-len(SAMPLES) :], SAMPLES)
            for client in clients:
                client.writer.close()

    run(scene)


@both
def test_a_fault_of_the_sink_costs_one_connection(kind: str, caplog: pytest.LogCaptureFixture):
    class Faulty(CollectingSink):
        async def open(self, begin: CallStart, credit: Callable[[int], None] | None = None) -> CollectingCall:
            if begin.call == IDS[1]:
                raise RuntimeError("secret words")
            return await super().open(begin, credit)

    async def scene() -> None:
        async with opened(kind, sink=Faulty()) as setup:
            good, bad = await setup.client(), await setup.client()
            good.begin()
            good.audio()
            bad.begin(IDS[1])
            bad.audio()
            assert await bad.refused(busy=False)
            good.say_goodbye()
            await setup.sink.until(IDS[0], "ended")

    before = loops.faults.counts.get(f"{kind} connection", 0)
    run(scene)
    assert loops.faults.counts[f"{kind} connection"] == before + 1
    assert "secret" not in caplog.text


def test_the_token_of_pcm(tmp_path: Path):
    secrets = tmp_path / "tokens"
    secrets.write_text("one\ntwo\n")
    secrets.chmod(0o600)

    async def scene() -> None:
        async with opened("pcm", tokens=secrets) as setup:
            for token, call in (("wrong", IDS[0]), (None, IDS[1])):
                stranger = await setup.client()
                stranger.begin(call, token=token)
                assert await stranger.refused(busy=False)
            friend = await setup.client()
            friend.begin(IDS[2], token="two")
            friend.audio()
            friend.say_goodbye()
            await setup.sink.until(IDS[2], "ended")
            assert set(setup.sink.calls) == {IDS[2]}

    run(scene)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    require("openssl")
    folder = tmp_path_factory.mktemp("tls")
    crt, key = folder / "server.crt", folder / "server.key"
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*openssl, "-keyout", key, "-out", crt], check=True, capture_output=True)
    return crt, key


@both
def test_tls(kind: str, certificate: tuple[Path, Path]):
    crt, key = certificate
    context = ssl.create_default_context(cafile=str(crt))

    async def scene() -> None:
        async with opened(kind, certificate=crt, key=key, first_message_s=1.0) as setup:
            assert setup.server.endpoint.startswith("tls://")
            plain = await setup.client()
            plain.begin()
            plain.audio()
            stuck = await setup.client()  # connects, and never shakes hands
            client = await setup.client(ssl=context, server_hostname="localhost")
            client.begin(IDS[1])
            client.audio()
            if kind == "audiosocket":
                client.say_goodbye()
                assert await client.rest() == hang_up()
            else:
                await client.writer.drain()
                client.writer.close()
            call = await setup.sink.until(IDS[1], "ended")
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)
            assert await plain.hears_nothing()
            assert await stuck.hears_nothing()
            assert set(setup.sink.calls) == {IDS[1]}

    run(scene)


def test_ffmpeg_writes_samples_to_a_server_that_knows_their_format():
    async def scene() -> None:
        format = load_config(PcmConfig, None, ['format={"name": "line", "rate": 8000}']).format
        async with opened("pcm", format=format) as setup:
            port = setup.server.endpoint.rpartition(":")[2]
            await asyncio.to_thread(mux, f"tcp://127.0.0.1:{port}")
            await setup.sink.changed.wait()
            [name] = setup.sink.calls
            assert name.startswith("line-")
            call = await setup.sink.until(name, "ended")
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    run(scene)


@pytest.mark.parametrize("program", [pytest.param(name, marks=needs(name)) for name in ("ffmpeg", "nc")])
def test_programs_that_know_nothing_of_us(program: str, tmp_path: Path):
    (tmp_path / "call.raw").write_bytes(BYTES)

    async def scene() -> None:
        async with opened("pcm", format=PcmFormat(name="line", rate=8000)) as setup:
            port = setup.server.endpoint.rpartition(":")[2]
            raw = ["-f", "s16le", "-ar", "8000", "-ac", "1"]
            options = {
                "ffmpeg": ["-v", "error", *raw, "-i", str(tmp_path / "call.raw"), *raw, f"tcp://127.0.0.1:{port}"],
                "nc": ["-N", "127.0.0.1", port],
            }[program]
            with (tmp_path / "call.raw").open("rb") as data:
                running = await asyncio.create_subprocess_exec(
                    program, *options, stdin=data, stdout=asyncio.subprocess.PIPE
                )
                out, _ = await running.communicate()
            assert running.returncode == 0
            assert out == (
                b"" if program == "ffmpeg" else b'{"t": "closed", "utterances": 0, "reason": "complete"}\n'
            )
            await setup.sink.changed.wait()
            [name] = setup.sink.calls
            call = await setup.sink.until(name, "ended")
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    run(scene)


@both
def test_a_thousand_connections_leave_nothing_behind(kind: str):
    async def scene() -> None:
        async with opened(kind) as setup:
            held = len(asyncio.all_tasks()), open_sockets()
            for number in range(1000):
                client = await setup.client()
                if number % 2:
                    client.begin(IDS[number % 7])
                    client.audio(BYTES[:640])
                client.vanish() if number % 3 else client.writer.close()
            await eventually(lambda: (len(asyncio.all_tasks()), open_sockets()) == held)

    run(scene)


def mux(url: str) -> None:
    """FFmpeg's own TCP output, by PyAV."""
    with av.open(url, "w", format="s16le") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(SAMPLES[None], "s16", "mono")
        frame.rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)


def test_an_address_that_is_taken():
    async def scene() -> None:
        async with opened("pcm") as setup:
            port = int(setup.server.endpoint.rpartition(":")[2])
            second = make_server(PcmConfig(port=port))
            with pytest.raises(LinkError, match=rf"pcm: 127.0.0.1:{port} cannot be bound"):
                await second.start(setup.sink)
            await second.close()

    run(scene)


@pytest.mark.parametrize(
    ("config", "setting", "said"),
    [
        (AudioSocketConfig, "tokens=secrets", "carries no token"),
        (PcmConfig, "host=0.0.0.0", "say who may come"),
        (AudioSocketConfig, "host=0.0.0.0", "say who may come"),
        (PcmConfig, 'format={"rate": 100}', "format.rate"),
        (PcmConfig, 'format={"rate": 8000, "channels": []}', "format.channels"),
        (AudioSocketConfig, 'channels=[{"name": "a", "rol": "agent"}]', "did you mean role"),
    ],
)
def test_configurations_that_are_refused(config: type[PcmConfig], setting: str, said: str):
    with pytest.raises(ConfigError, match=said):
        load_config(config, None, [setting])


def test_samples_alone_carry_no_token():
    with pytest.raises(ConfigError, match="carry no token"):
        load_config(PcmConfig, None, ['format={"rate": 8000}', "tokens=secrets"])
