"""A sender whose connection or server is lost goes on with its call: real sockets, and a wire that is cut."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest

from bcaf_stream.client.link import LinkSender, SenderConfig
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import TextUpdate
from bcaf_stream.ingest.protocols.link import Accepted, Audio, Close, Closed, Credit, Open, Refused
from bcaf_stream.ingest.transports.zmq_router import LinkConfig, LinkSocket
from bcaf_stream.types import Call, Channel, PcmN, Words
from tests.deployed import free_address
from tests.tcp_proxy import TcpProxy
from tests.waiting import elapsing, eventually

RATE, WINDOW_MS = 8000, 1000
CALL = Call("call 7", (Channel("left", "customer"), Channel("right", "agent")))
SOUND_NC = np.random.default_rng(1).integers(-32768, 32767, (20 * RATE, 2), np.int16, endpoint=True)
WORDS = [Words(n * 1000, n * 1000 + 500, f"word {n}", "left") for n in range(20)]
QUICK = SenderConfig(connect_s=5, stall_s=20, heartbeat_s=0.3, retry_s=0.01, longest_retry_s=0.05, give_up_s=20)


class Deployment:
    """Takes one call as an analysis would that goes on with it; `back` samples before what it had are asked again.

    `after(n)` is called with each piece of sound that it took; False there drops its answer, the rest of the world
    decides about its connection. `forget` is what the death of its process does.
    """

    def __init__(self, endpoint: str = "tcp://127.0.0.1:0", back: Callable[[], int] = lambda: 0) -> None:
        self._server = LinkSocket(LinkConfig(bind=endpoint, window_ms=WINDOW_MS))
        self.endpoint = self._server.endpoint
        self._back = back
        self.after: Callable[[int], object] = lambda _: None
        self.opens: list[Open] = []
        self.busy = 0  # how many opens are answered with a passing refusal
        self.forget()
        self.complete = False
        self.answer_close = True

    def forget(self) -> None:
        self.sound_NC = np.zeros((0, 2), np.int16)
        self.words: list[Words] = []
        self.last_words = False
        self._client = b""

    async def serve(self) -> None:
        while True:
            client, message = await self._server.receive()
            answer = self._take(client, message)
            if answer is not None and not await self._server.send(client, answer) and client == self._client:
                self._client = b""  # gone: what still comes from it, its close too, is of no call

    def _take(self, client: bytes, message: object) -> Accepted | Credit | Closed | Refused | None:
        match message:
            case Open():
                self.opens.append(message)
                return self._open(client, message)
            case _ if client != self._client:
                return Refused("no call is open here: the server may have restarted")
            case Audio(_, start, samples_NC):
                assert start == len(self.sound_NC)
                self.sound_NC = np.concatenate([self.sound_NC, samples_NC])
                self.after(len(self.sound_NC))
                done_ms = len(self.sound_NC) * 1000 // RATE
                return Credit(done_ms + WINDOW_MS, max(0, done_ms - 2000))
            case TextUpdate(words, last):
                self.words += words
                self.last_words |= last
            case Close():
                self.complete = True
                return Closed(3, "complete") if self.answer_close else None
        return None

    def _open(self, client: bytes, opening: Open) -> Accepted | Closed | Refused:
        if self.busy and opening.resume is not None:
            self.busy -= 1
            return Refused("busy: the event hub is starting again")
        if self.complete:
            return Closed(3, "complete")
        self._client = client
        if opening.resume is None:
            return Accepted(opening.call, WINDOW_MS)
        assert opening.sender == self.opens[0].sender
        start = max(opening.resume, len(self.sound_NC) - self._back())
        gap_NC = np.zeros((max(0, start - len(self.sound_NC)), 2), np.int16)
        self.sound_NC = np.concatenate([self.sound_NC, gap_NC])[:start]
        return Accepted(opening.call, WINDOW_MS, start)

    def close(self) -> None:
        self._server.close()


def play(script: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(60):
            await script()

    asyncio.run(whole())


def send_all(endpoint: str, config: SenderConfig = QUICK, notes: list[str] | None = None, **how: object) -> Closed:
    with LinkSender(
        endpoint, CALL, RATE, "given", config, note=([] if notes is None else notes).append, **how
    ) as sender:  # type: ignore[arg-type]
        sender.send_words(WORDS, last=True)
        for at in range(0, len(SOUND_NC), 1000):
            sender.send(SOUND_NC[at : at + 1000])
        return sender.close()


def again(start: int) -> Iterator[PcmN]:
    for at in range(start, len(SOUND_NC), 777):
        yield SOUND_NC[at : at + 777]


@pytest.mark.parametrize("how", [{}, {"live": True}, {"live": True, "drop": True}, {"again": again}])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_wire_that_is_cut_again_and_again_changes_nothing(how: dict[str, object], seed: int):
    chance = random.Random(seed)

    async def script() -> None:
        deployment = Deployment(back=lambda: chance.choice([0, 1, 777, 8000]))
        with TcpProxy(deployment.endpoint) as wire:
            cuts = sorted(chance.sample(range(8000, len(SOUND_NC)), 5))

            def after(received: int) -> None:
                if cuts and received >= cuts[0]:
                    cuts.pop(0)
                    wire.cut()

            deployment.after = after
            serving = asyncio.create_task(deployment.serve())
            closed = await asyncio.to_thread(send_all, wire.endpoint, **how)
            serving.cancel()
        deployment.close()
        assert closed == Closed(3, "complete")
        assert not cuts
        np.testing.assert_array_equal(deployment.sound_NC, SOUND_NC)
        first, *later = [opening.resume for opening in deployment.opens]
        assert first is None
        assert 2 <= len(later) <= 5  # two cuts may have hit one connection
        assert None not in later
        assert {word.text for word in deployment.words} == {word.text for word in WORDS}
        assert deployment.last_words

    play(script)


@pytest.mark.parametrize("how", [{"again": again}, {"live": True}, {}])
def test_a_server_that_died_and_forgot_all_gets_the_whole_call_again(how: dict[str, object]):
    """A source that can be read again keeps little: 64 KiB are two seconds of this call."""
    keep = QUICK.model_copy(update={"keep_bytes": 65_536}) if "again" in how else QUICK

    async def script() -> None:
        endpoint = free_address()
        first, notes = Deployment(endpoint), list[str]()
        serving = asyncio.create_task(first.serve())
        sending = asyncio.create_task(asyncio.to_thread(send_all, endpoint, keep, notes, **how))
        await eventually(lambda: len(first.sound_NC) > 10 * RATE)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        first.close()
        second = Deployment(endpoint, back=lambda: 10**9)
        second.opens = first.opens
        second.busy = 2
        serving = asyncio.create_task(second.serve())
        assert await sending == Closed(3, "complete")
        serving.cancel()
        second.close()
        np.testing.assert_array_equal(second.sound_NC, SOUND_NC)
        assert [w.text for w in second.words][-1] == "word 19"
        assert second.last_words
        assert "connection lost: trying again for up to 20 s" in notes[0]
        assert "connected again after" in notes[1]
        assert "goes on from 0.0 s" in notes[1]
        assert len(notes) == 2  # one line for a loss, however many tries it takes

    play(script)


def test_live_sound_that_finds_no_room_is_a_gap_and_the_rest_is_true():
    """While nobody is there, a source that cannot wait gives up its oldest sound."""
    small = QUICK.model_copy(update={"keep_bytes": 4 * 6 * RATE})

    async def script() -> None:
        deployment = Deployment()
        serving = asyncio.create_task(deployment.serve())
        with TcpProxy(deployment.endpoint) as wire:

            def send() -> Closed:
                with LinkSender(wire.endpoint, CALL, RATE, "none", small, live=True, drop=True) as sender:
                    sender.send(SOUND_NC[: 2 * RATE])
                    taken.wait(10)
                    wire.close()  # nobody is there any more
                    for at in range(2 * RATE, 18 * RATE, 160):
                        sender.send(SOUND_NC[at : at + 160])  # returns at once, whatever the connection
                    back.set()
                    mended.wait(10)
                    sender.send(SOUND_NC[18 * RATE :])
                    return sender.close()

            taken, back, mended = threading.Event(), threading.Event(), threading.Event()
            port = int(wire.endpoint.rpartition(":")[2])
            sending = asyncio.create_task(asyncio.to_thread(send))
            await eventually(lambda: len(deployment.sound_NC) == 2 * RATE)
            taken.set()
            await asyncio.to_thread(back.wait, 10)
            with TcpProxy(deployment.endpoint, port):
                await eventually(lambda: len(deployment.opens) > 1 and len(deployment.sound_NC) > 12 * RATE)
                mended.set()
                assert await sending == Closed(3, "complete")
        serving.cancel()
        deployment.close()
        resumed = deployment.opens[1].resume
        assert resumed is not None
        assert 12 * RATE <= resumed <= 14 * RATE
        assert len(deployment.sound_NC) == len(SOUND_NC)
        np.testing.assert_array_equal(deployment.sound_NC[: 2 * RATE], SOUND_NC[: 2 * RATE])
        assert not deployment.sound_NC[2 * RATE : resumed].any()
        np.testing.assert_array_equal(deployment.sound_NC[resumed:], SOUND_NC[resumed:])

    play(script)


def test_live_sound_that_may_wait_waits_and_loses_nothing():
    small = QUICK.model_copy(update={"keep_bytes": 4 * 4 * RATE})

    async def script() -> None:
        deployment = Deployment()
        with TcpProxy(deployment.endpoint) as wire:
            serving = asyncio.create_task(deployment.serve())
            sending = asyncio.create_task(asyncio.to_thread(send_all, wire.endpoint, small, live=True))
            await eventually(lambda: len(deployment.sound_NC) > 2 * RATE)
            port = int(wire.endpoint.rpartition(":")[2])
            wire.close()
            await elapsing(0.3, "how long the way is cut")
            assert not sending.done()
            with TcpProxy(deployment.endpoint, port):
                assert await sending == Closed(3, "complete")
            serving.cancel()
        deployment.close()
        np.testing.assert_array_equal(deployment.sound_NC, SOUND_NC)

    play(script)


def test_the_end_of_a_call_may_be_lost_too():
    async def script() -> None:
        deployment = Deployment()
        deployment.answer_close = False
        with TcpProxy(deployment.endpoint) as wire:
            serving = asyncio.create_task(deployment.serve())
            sending = asyncio.create_task(asyncio.to_thread(send_all, wire.endpoint))
            await eventually(lambda: deployment.complete)
            wire.cut()
            assert await sending == Closed(3, "complete")
            serving.cancel()
        deployment.close()

    play(script)


def test_a_sender_gives_up_in_one_line_that_says_so():
    async def script() -> None:
        endpoint = free_address()
        deployment = Deployment(endpoint)
        serving = asyncio.create_task(deployment.serve())
        short = QUICK.model_copy(update={"give_up_s": 0.5})
        sending = asyncio.create_task(asyncio.to_thread(send_all, endpoint, short))
        await eventually(lambda: len(deployment.sound_NC) > RATE)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        deployment.close()
        with pytest.raises(LinkError, match=rf"^{endpoint}: connection lost: given up after \S+ s; no answer"):
            await sending

    play(script)
    assert not [thread for thread in threading.enumerate() if thread.name == "link sender"]


def test_a_call_that_kills_its_server_each_time_is_given_up():
    async def script() -> None:
        deployment = Deployment()
        with TcpProxy(deployment.endpoint) as wire:
            deployment.after = lambda received: wire.cut() if received > RATE else None
            serving = asyncio.create_task(deployment.serve())
            poisoned = Deployment.forget
            deployment._back = lambda: (poisoned(deployment), 0)[1]
            with pytest.raises(LinkError, match="connection lost: given up"):
                await asyncio.to_thread(send_all, wire.endpoint, again=again)
            serving.cancel()
        deployment.close()
        assert len(deployment.opens) < 40

    play(script)
