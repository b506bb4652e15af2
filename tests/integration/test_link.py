"""The audio link over real sockets on free ports of this machine."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
import zmq.asyncio

from bcaf_stream.client.link import LinkSender, SenderConfig
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, LinkError
from bcaf_stream.ingest.protocols.link import Accepted, Audio, Close, Closed, Credit, Open, Refused, pack
from bcaf_stream.ingest.protocols.link_flow import AudioOrder
from bcaf_stream.ingest.transports.zmq_router import LinkConfig, LinkSocket
from bcaf_stream.types import Call, Channel, Words

FREE = LinkConfig(bind="tcp://127.0.0.1:0", window_ms=1000)
CALL = Call("call 7", (Channel("left", "customer"), Channel("right", "agent")))
RATE = 8000
WAIT_S = 10.0  # only a failing test waits that long
SOON = SenderConfig(connect_s=WAIT_S, stall_s=WAIT_S, give_up_s=0)


def speech(seconds: float, channels: int = 2) -> np.ndarray:
    n = int(seconds * RATE) * channels
    return np.random.default_rng(0).integers(-32768, 32767, n, np.int16, endpoint=True).reshape(-1, channels)


class Recorder:
    """A server that takes calls as an analysis would: in order, giving credit for what it has taken."""

    def __init__(self, server: LinkSocket, window_ms: int = FREE.window_ms) -> None:
        self.server = server
        self.window_ms = window_ms
        self.messages: dict[str, list[Any]] = {}
        self.calls: dict[bytes, tuple[str, AudioOrder]] = {}

    async def run(self, calls: int) -> None:
        while calls:
            client, message = await self.server.receive()
            if isinstance(message, Open):
                self.calls[client] = (message.call, AudioOrder())
                self.messages[message.call] = []
                await self.server.send(client, Accepted(message.call, self.window_ms))
            call, order = self.calls[client]
            self.messages[call].append(message)
            if isinstance(message, Audio):
                assert order.accept(message)
                await self.server.send(client, Credit(order.received * 1000 // RATE + self.window_ms))
            if isinstance(message, Close):
                await self.server.send(client, Closed(3, "complete"))
                calls -= 1

    def audio(self, call: str) -> np.ndarray:
        return np.concatenate([m.samples_NC for m in self.messages[call] if isinstance(m, Audio)])


def serve(
    talk: Callable[[LinkSocket], Awaitable[Any]], send: Callable[[str], Any], config: LinkConfig = FREE
) -> tuple[Any, LinkSocket]:
    """Run `talk` with a server on this thread's loop while `send` runs on another; both must end."""

    async def both() -> tuple[Any, LinkSocket]:
        server = LinkSocket(config)
        try:
            sending = asyncio.create_task(asyncio.to_thread(send, server.endpoint))
            async with asyncio.timeout(3 * WAIT_S):
                await talk(server)
                return await sending, server
        finally:
            server.close()

    return asyncio.run(both())


def send_all(samples_NC: np.ndarray, chunk: int = 3000, call: Call = CALL) -> Callable[[str], Closed]:
    def send(endpoint: str) -> Closed:
        with LinkSender(endpoint, call, RATE, "given", SOON) as sender:
            sender.send_words([Words(0, 500, "hello", "left"), Words(500, 900, "bye")])
            for at in range(0, len(samples_NC), chunk):
                sender.send(samples_NC[at : at + chunk])
            closed = sender.close()
            assert sender.close() is closed
            with pytest.raises(LinkError, match="this call is over"):
                sender.send(samples_NC)
            return closed

    return send


def test_a_call_arrives_whole_and_the_sender_gets_the_summary():
    samples_NC = speech(5)
    recorders: list[Recorder] = []

    async def talk(server: LinkSocket) -> None:
        recorders.append(Recorder(server))
        await recorders[0].run(calls=1)

    before = time.time_ns()
    closed, server = serve(talk, send_all(samples_NC))
    messages = recorders[0].messages["call 7"]
    assert closed == Closed(3, "complete")
    assert replace(messages[0], sender=None) == Open("call 7", CALL.channels, RATE, "given")
    assert [replace(w, id=None) for w in messages[1].words] == [
        Words(0, 500, "hello", "left"),
        Words(500, 900, "bye"),
    ]
    assert len({w.id for w in messages[1].words} - {None}) == 2  # so that they may be sent again
    assert messages[-1] == Close()
    np.testing.assert_array_equal(recorders[0].audio("call 7"), samples_NC)
    stamps = [m.received_at for m in messages if isinstance(m, Audio)]
    assert before <= stamps[0] <= stamps[-1] <= time.time_ns()
    assert stamps == sorted(stamps)
    assert server.refused == 0


def test_calls_at_the_same_time_do_not_mix():
    calls = [Call(str(n), CALL.channels) for n in range(4)]
    sound = [speech(2) // (n + 1) for n in range(4)]
    recorders: list[Recorder] = []

    async def talk(server: LinkSocket) -> None:
        recorders.append(Recorder(server))
        await recorders[0].run(calls=4)

    def send(endpoint: str) -> None:
        threads = [
            threading.Thread(target=send_all(s, call=c), args=(endpoint,))
            for c, s in zip(calls, sound, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    serve(talk, send)
    for call, expected in zip(calls, sound, strict=True):
        np.testing.assert_array_equal(recorders[0].audio(call.id), expected)


def test_a_sender_waits_for_credit_and_is_never_cut():
    """The server takes what the window allows, sees that nothing more comes, and only then gives more."""
    seen: list[int] = []

    async def talk(server: LinkSocket) -> None:
        client, _ = await server.receive()
        await server.send(client, Accepted("call 7", 1000))
        upto_ms = 1000
        order = AudioOrder()
        while True:
            try:
                async with asyncio.timeout(0.1 if order.received * 1000 == upto_ms * RATE else WAIT_S):
                    _, message = await server.receive()
            except TimeoutError:
                seen.append(order.received * 1000 // RATE)
                upto_ms += 1000
                await server.send(client, Credit(upto_ms))
                continue
            if isinstance(message, Close):
                await server.send(client, Closed(0, "complete"))
                return
            if isinstance(message, Audio):
                order.accept(message)
                assert order.received * 1000 <= upto_ms * RATE

    def send(endpoint: str) -> None:
        with LinkSender(endpoint, CALL, RATE, "none", SOON) as sender:
            sender.send(speech(3.5))
            sender.close()

    serve(talk, send)
    assert seen == [1000, 2000, 3000]


def expect_error(
    says: str, send: Callable[[LinkSender], Any] = lambda sender: None, config: SenderConfig = SOON
) -> Callable[[str], None]:
    def run(endpoint: str) -> None:
        with (
            pytest.raises(LinkError, match=f"^{endpoint}: .*{says}"),
            LinkSender(endpoint, CALL, RATE, config=config) as sender,
        ):
            send(sender)

    return run


def test_a_refusal_reaches_the_sender():
    async def talk(server: LinkSocket) -> None:
        client, _ = await server.receive()
        await server.send(client, Refused("busy: 64 calls are running"))

    serve(talk, expect_error("refused: busy: 64 calls"))


def test_an_end_before_its_time_reaches_the_sender():
    async def talk(server: LinkSocket) -> None:
        client, _ = await server.receive()
        await server.send(client, Accepted("call 7", 1000))
        await server.send(client, Closed(0, "going down"))

    serve(talk, expect_error("the server ended the call: going down", lambda s: s.send(speech(2))))


def test_a_server_that_says_nothing_is_no_hang():
    async def talk(server: LinkSocket) -> None:
        client, _ = await server.receive()
        await server.send(client, Accepted("call 7", 1000))

    impatient = SenderConfig(connect_s=WAIT_S, stall_s=0.2, give_up_s=0)
    serve(
        talk,
        expect_error(r"no answer for 0\.2 s: is `bcaf-serve up` running", lambda s: s.send(speech(2)), impatient),
    )
    serve(talk, expect_error(r"no answer for 0\.2 s", LinkSender.close, impatient))


def test_nobody_at_the_address_is_no_hang():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind("tcp://127.0.0.1:0")
        endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    with pytest.raises(LinkError, match=rf"^{endpoint}: no answer for 0\.2 s: is `bcaf-serve up` running"):
        LinkSender(endpoint, CALL, RATE, config=SenderConfig(connect_s=0.2))


SERVER_SCRIPT = """
import asyncio
from bcaf_stream.ingest.protocols.link import Accepted
from bcaf_stream.ingest.transports.zmq_router import LinkConfig, LinkSocket
async def main():
    server = LinkSocket(LinkConfig(bind="tcp://127.0.0.1:0"))
    print(server.endpoint, flush=True)
    client, _ = await server.receive()
    await server.send(client, Accepted("call 7", 1000))
    while True:
        await server.receive()
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_dies_or_freezes_in_the_middle_is_noticed(how: signal.Signals):
    command = [sys.executable, "-c", SERVER_SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            endpoint = process.stdout.readline().strip()
            config = SenderConfig(connect_s=WAIT_S, stall_s=60, heartbeat_s=0.2, give_up_s=0.5)
            with LinkSender(endpoint, CALL, RATE, config=config) as sender:
                sender.send(speech(0.5))
                os.kill(process.pid, how)
                before = time.monotonic()
                with pytest.raises(LinkError, match=rf"^{endpoint}: connection lost"):
                    sender.send(speech(5))
                assert time.monotonic() - before < WAIT_S
        finally:
            process.kill()


def raw(endpoint: str, messages: list[list[bytes]], answers: int) -> list[dict[str, Any]]:
    """What a client that does not know the protocol gets for its messages."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        for message in messages:
            socket.send_multipart(message)
        got = []
        while len(got) < answers and socket.poll(WAIT_S * 1000):
            got.append(msgpack.unpackb(socket.recv()))
        return got


def test_malformed_messages_are_refused_and_counted_and_disturb_nobody():
    bad = [[b"\xc1"], [b""], [b"GET / HTTP/1.1"], [b"a", b"b"], [pack(Close()), b""], [pack(Accepted("7", 1))]]
    bad += [[pack(Audio(0, 0, speech(0.1)))]]
    samples_NC = speech(3)
    recorders: list[Recorder] = []

    async def talk(server: LinkSocket) -> None:
        recorders.append(Recorder(server))
        await recorders[0].run(calls=2)

    def send(endpoint: str) -> list[dict[str, Any]]:
        with LinkSender(endpoint, CALL, RATE, "given", SOON) as sender:
            sender.send(samples_NC[:5000])
            answers = raw(endpoint, bad, len(bad))
            sender.send(samples_NC[5000:])
            sender.close()
        send_all(samples_NC, call=Call("another", CALL.channels))(endpoint)
        return answers

    answers, server = serve(talk, send)
    assert [a["t"] for a in answers] == ["refused"] * len(bad)
    assert "no call is open here" in answers[-1]["message"]
    assert server.refused == len(bad)
    np.testing.assert_array_equal(recorders[0].audio("call 7"), samples_NC)
    np.testing.assert_array_equal(recorders[0].audio("another"), samples_NC)


def test_a_connection_holds_one_call_at_a_time():
    opening = pack(Open("7", CALL.channels, RATE, "none"))

    async def talk(server: LinkSocket) -> None:
        for _ in range(2):
            client, message = await server.receive()
            assert isinstance(message, Open)
            await server.send(client, Accepted("7", 1000))
        client, message = await server.receive()
        assert isinstance(message, Close)
        await server.send(client, Closed(0, "complete"))

    def send(endpoint: str) -> list[str]:
        # the second open is refused, which ends the first call, so that the third is taken again
        return [a["t"] for a in raw(endpoint, [[opening], [opening], [opening], [pack(Close())]], 4)]

    answers, server = serve(talk, send)
    assert sorted(answers) == ["accepted", "accepted", "closed", "refused"]
    assert server.refused == 1


def test_a_message_that_is_too_big_ends_its_connection_alone():
    config = FREE.model_copy(update={"max_message_bytes": 131_072})
    recorders: list[Recorder] = []

    async def talk(server: LinkSocket) -> None:
        recorders.append(Recorder(server))
        await recorders[0].run(calls=1)

    def send(endpoint: str) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            socket.connect(endpoint)
            socket.send(b"x" * 200_000)
            assert monitor.poll(WAIT_S * 1000)
            socket.disable_monitor()
            monitor.close()
        send_all(speech(2))(endpoint)

    _, server = serve(talk, send, config)
    assert server.refused == 0
    assert len(recorders[0].audio("call 7")) == 2 * RATE


def test_a_flood_of_garbage_does_not_keep_the_loop_from_other_work():
    ticks = 0

    async def talk(server: LinkSocket) -> None:
        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        receiving = asyncio.create_task(server.receive())
        while server.refused < 500:
            await asyncio.sleep(0)
        assert ticks > 500
        for task in (ticking, receiving):
            task.cancel()
        await asyncio.gather(ticking, receiving, return_exceptions=True)

    serve(talk, lambda endpoint: raw(endpoint, [[b"\xc1"]] * 500, 500))


def test_the_server_is_told_that_a_client_is_gone():
    async def talk(server: LinkSocket) -> None:
        client, message = await server.receive()
        assert isinstance(message, Open)
        async with asyncio.timeout(WAIT_S):
            while await server.send(client, Credit(1)):
                await asyncio.sleep(0)

    def send(endpoint: str) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.connect(endpoint)
            socket.send(pack(Open("7", CALL.channels, RATE, "none")))
            assert socket.poll(WAIT_S * 1000)
            socket.close(linger=0)

    serve(talk, send)


def test_what_the_server_said_last_survives_its_end():
    async def talk(server: LinkSocket) -> None:
        client, _ = await server.receive()
        await server.send(client, Refused("the deployment is going down"))
        server.close()

    serve(talk, expect_error("going down"))


def test_a_receive_that_is_cancelled_loses_nothing():
    async def talk(server: LinkSocket) -> None:
        waiting = asyncio.create_task(server.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await Recorder(server).run(calls=1)

    closed, _ = serve(talk, send_all(speech(0.5)))
    assert closed == Closed(3, "complete")


def test_a_server_may_be_made_before_its_loop_runs():
    server = LinkSocket(FREE)

    async def talk() -> None:
        sending = asyncio.create_task(asyncio.to_thread(send_all(speech(0.5)), server.endpoint))
        await Recorder(server).run(calls=1)
        assert await sending == Closed(3, "complete")

    asyncio.run(talk())
    server.close()
    server.close()


def test_using_a_closed_server_is_an_error():
    async def use() -> None:
        server = LinkSocket(FREE)
        server.close()
        with pytest.raises(LinkError, match="closed"):
            await server.send(b"x", Credit(1))

    asyncio.run(use())


def test_a_port_in_use_is_named_with_the_way_out():
    first = LinkSocket(FREE)
    with pytest.raises(LinkError, match=rf"^{first.endpoint}: the port is in use: .* another `bind`"):
        LinkSocket(LinkConfig(bind=first.endpoint))
    first.close()


@pytest.mark.parametrize("endpoint", ["nowhere", "tcp://", "smoke://x"])
def test_addresses_that_are_none(endpoint: str):
    with pytest.raises(LinkError, match=f"^{endpoint}: "):
        LinkSender(endpoint, CALL, RATE)
    with pytest.raises(LinkError, match=f"^{endpoint}: "):
        LinkSocket(LinkConfig(bind=endpoint, insecure=True))


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5560", "tcp://*:5560", "tcp://10.1.2.3:1", "tcp://[::]:1", "x"])
def test_audio_stays_on_this_machine_unless_told_otherwise(bind: str):
    with pytest.raises(ConfigError, match=r"bind: .* insecure: true"):
        load_config(LinkConfig, overrides=[f"bind='{bind}'"])
    assert load_config(LinkConfig, overrides=["insecure=true", f"bind='{bind}'"]).bind == bind
