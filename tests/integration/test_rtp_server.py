"""The RTP server over real UDP: FFmpeg as the sender, strangers, silence, overload, and several calls in turn."""

import asyncio
import socket
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bcaf_stream import loops
from bcaf_stream.codecs import decode_ulaw
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart, ChannelConfig, Degraded
from bcaf_stream.ingest.protocols.rtp import FormatConfig, RtpConfig, RtpParser
from bcaf_stream.ingest.protocols.rtp_source import Counts
from bcaf_stream.ingest.transports.udp import DROPPED, RtpServer, Waiting
from bcaf_stream.types import AudioChunk, Gap
from tests.collecting_sink import Collected, CollectingCall, CollectingSink
from tests.components import needs
from tests.leftovers import WAIT_S, assert_nothing_left, held_before, run
from tests.waiting import elapse, elapsing, eventually

SIZE = 160
CODES = np.random.default_rng(0).integers(0, 256, 50 * SIZE, np.uint8).tobytes()
SAMPLES = decode_ulaw(CODES)
SIDES = (ChannelConfig(name="customer", role="customer"), ChannelConfig(name="agent", role="agent"))


def packet(of: int, ssrc: int = 7, kind: int = 0, rest: bytes | None = None, number: int | None = None) -> bytes:
    number = of if number is None else number
    header = bytes([0x80, kind]) + number.to_bytes(2, "big") + (number * SIZE).to_bytes(4, "big")
    return header + ssrc.to_bytes(4, "big") + (CODES[of * SIZE : (of + 1) * SIZE] if rest is None else rest)


def goodbye(ssrc: int = 7) -> bytes:
    return bytes([0x81, 203, 0, 1]) + ssrc.to_bytes(4, "big")


class Setup:
    """A server, the calls behind it, and senders in front of it."""

    def __init__(self, server: RtpServer, sink: CollectingSink) -> None:
        self.server = server
        self.sink = sink
        self.ports = [int(port) for port in server.endpoint.rpartition(":")[2].split(",")]
        self._senders: list[socket.socket] = []

    def sender(self, address: str = "127.0.0.1") -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 0))
        made.connect(("127.0.0.1", self.ports[0]))
        self._senders.append(made)
        return made

    def leave(self) -> None:
        for made in self._senders:
            made.close()

    async def heard(self, samples: int, channel: str = "customer") -> None:
        """Wait until that much of the only call is there."""
        await eventually(lambda: any(len(call.sound(channel)) == samples for call in self.sink.calls.values()))

    async def call(self, state: str = "ended", number: int = 0) -> Collected:
        async with asyncio.timeout(WAIT_S):
            while len(self.sink.calls) <= number:
                self.sink.changed.clear()
                await self.sink.changed.wait()
        return await self.sink.until(list(self.sink.calls)[number], state)


@asynccontextmanager
async def opened(capacity: int = 100, sink: CollectingSink | None = None, **config: Any) -> AsyncIterator[Setup]:
    before = held_before()
    server = RtpServer(RtpConfig(**{"port": 0, "name": "line"} | config))
    sink = sink or CollectingSink(capacity)
    await server.start(sink)
    setup = Setup(server, sink)
    try:
        yield setup
    finally:
        setup.leave()
        await server.close()
        assert_nothing_left(before)


def test_a_call_until_nothing_comes_any_more():
    async def scene() -> None:
        async with opened(idle_s=0.2) as setup:
            sender = setup.sender()
            for n in range(50):
                sender.send(packet(n))
            call = await setup.call()
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)
            assert call.reason == "sender lost"
            for n in range(50):  # the same sender, another call
                sender.send(packet(n))
            await setup.call(number=1)
            assert all(name.startswith("line-") for name in setup.sink.calls)

    run(scene)


def test_the_goodbye_ends_the_call_and_the_next_one_may_begin():
    async def scene() -> None:
        async with opened() as setup:
            sender = setup.sender()
            for n in range(50):
                sender.send(packet(n))
            sender.send(goodbye())
            sender.send(packet(49))  # a straggler begins nothing
            assert (await setup.call()).reason == "complete"
            await elapsing(0.002, "ids are times, to the millisecond")
            for n in range(50):
                sender.send(packet(n, ssrc=8))
            sender.send(goodbye(8))
            call = await setup.call(number=1)
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    run(scene)


def test_losses_and_disorder_on_the_way():
    async def scene() -> None:
        async with opened(idle_s=0.3) as setup:
            sender = setup.sender()
            for n in [0, 1, 3, 2, 2, 4, 5, *range(8, 50)]:
                sender.send(packet(n))
            call = await setup.call()
            expected = SAMPLES.copy()
            expected[6 * SIZE : 8 * SIZE] = 0
            np.testing.assert_array_equal(call.sound("customer"), expected)
            assert call.gaps == [Gap("customer", 6 * SIZE, 8 * SIZE, "lost")]
            assert setup.server.counts == Counts(lost=2, duplicated=1)

    run(scene)


def test_what_is_missing_is_given_up_by_the_clock():
    async def scene() -> None:
        async with opened(jitter_ms=100) as setup:
            sender = setup.sender()
            for n in (0, 1, 2, 4):  # nothing comes after the hole to push it out
                sender.send(packet(n))
            await eventually(
                lambda: any(len(call.sound("customer")) == 5 * SIZE for call in setup.sink.calls.values())
            )

    run(scene)


def test_strangers_and_garbage_disturb_nobody():
    async def scene() -> None:
        async with opened(idle_s=0.3) as setup:
            sender, stranger, other = setup.sender(), setup.sender(), setup.sender("127.0.0.2")
            random = np.random.default_rng(1)
            for n in range(4):
                sender.send(packet(n))
            await setup.call("running")
            for n in range(4, 50):
                sender.send(packet(n))
                stranger.send(packet(n, ssrc=9))
                other.send(packet(n))
                sender.send(random.bytes(random.integers(0, 40)))
                other.send(goodbye())
            call = await setup.call()
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)
            assert setup.server.refused >= 3 * 46
            assert len(setup.sink.calls) == 1

    run(scene)


def test_who_is_not_allowed_is_not_heard():
    async def scene() -> None:
        async with opened(allow=("127.0.0.1/32",), idle_s=0.2) as setup:
            sender, stranger = setup.sender(), setup.sender("127.0.0.2")
            for n in range(50):
                stranger.send(packet(n, ssrc=9))
                sender.send(packet(n))
            call = await setup.call()
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)
            assert setup.server.refused == 50

    run(scene)


def test_a_sender_that_started_again_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bcaf_stream.ingest.transports.udp.HANDOVER_S", 0.1)

    async def scene() -> None:
        async with opened() as setup:
            first, again = setup.sender(), setup.sender()
            for n in range(20):
                first.send(packet(n))
            await setup.heard(20 * SIZE)
            await elapsing(0.15, "longer than HANDOVER_S")
            for n in range(20, 50):
                again.send(packet(n, ssrc=8))
            again.send(goodbye(8))
            call = await setup.call()
            heard = call.sound("customer")
            np.testing.assert_array_equal(heard[-30 * SIZE :], SAMPLES[20 * SIZE :])
            assert [gap.reason for gap in call.gaps] in (["the sender changed"], [])
            assert len(setup.sink.calls) == 1

    run(scene)


def test_busy_is_silence_and_tried_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bcaf_stream.ingest.transports.udp.RETRY_S", 0.1)

    async def scene() -> None:
        async with opened(capacity=0) as setup:
            sender = setup.sender()
            for n in range(20):
                sender.send(packet(n))
            await eventually(lambda: setup.server.refused == 1)
            sender.send(packet(20))  # not asked again for every packet
            sender.send(packet(21))
            await eventually(lambda: setup.server.received == 22)
            assert setup.server.refused == 1
            setup.sink.capacity = 1
            await elapsing(0.2, "longer than RETRY_S")
            for n in range(22, 50):
                sender.send(packet(n))
            sender.send(goodbye())
            call = await setup.call()
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES[22 * SIZE :])

    run(scene)


def test_the_sink_hangs_up_and_the_sender_does_not_know():
    async def scene() -> None:
        async with opened(idle_s=0.3) as setup:
            sender = setup.sender()
            for n in range(20):
                sender.send(packet(n))
            await setup.heard(20 * SIZE)
            setup.sink.finish(next(iter(setup.sink.calls)), "overload")
            await setup.call()
            await eventually(lambda: setup.server._call is None, what="the end of the call at the server")
            for n in range(20, 40):
                sender.send(packet(n))
            await eventually(lambda: setup.server.received == 40)
            assert len(setup.sink.calls) == 1, "what the sender goes on to say is no new call"
            for n in range(40, 50):
                sender.send(packet(n, ssrc=8))
            await setup.call("running", number=1)

    run(scene)


def test_a_fault_of_the_sink_costs_one_call(caplog: pytest.LogCaptureFixture):
    broken: list[str] = []

    class Faulty(CollectingSink):
        async def open(self, begin: CallStart, credit: Callable[[int], None] | None = None) -> CollectingCall:
            if not broken:
                broken.append(begin.call)
                raise RuntimeError("secret words")
            return await super().open(begin, credit)

    async def scene() -> None:
        async with opened(sink=Faulty()) as setup:
            sender = setup.sender()
            for n in range(5):
                sender.send(packet(n))
            await eventually(lambda: bool(broken))
            for n in range(50):
                sender.send(packet(n, ssrc=8))
            sender.send(goodbye(8))
            call = await setup.call()
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    before = loops.faults.counts.get("rtp call", 0)
    run(scene)
    assert loops.faults.counts["rtp call"] == before + 1
    assert "secret" not in caplog.text


@pytest.mark.parametrize("where", ["push", "advance"])
def test_what_breaks_in_the_packets_of_a_call_ends_that_call_alone(where: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bcaf_stream.ingest.transports.udp.RETRY_S", 0.05)
    right, broken = getattr(RtpParser, where), asyncio.Event()

    def breaks(*args: Any) -> Any:
        if broken.is_set():
            broken.clear()
            raise ZeroDivisionError("secret words")
        return right(*args)

    monkeypatch.setattr(RtpParser, where, breaks)

    async def scene() -> None:
        async with opened() as setup:
            sender = setup.sender()
            for n in range(20):
                sender.send(packet(n))
            await setup.heard(20 * SIZE)
            broken.set()
            sender.send(packet(20))
            assert (await setup.call()).reason == "failed: ZeroDivisionError"
            for n in range(50):
                sender.send(packet(n, ssrc=8))
            sender.send(goodbye(8))
            call = await setup.call(number=1)
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    before = loops.faults.counts.get("rtp packets", 0)
    run(scene)
    assert loops.faults.counts["rtp packets"] == before + 1


def test_without_room_sound_becomes_a_gap():
    async def scene() -> None:
        async with opened(waiting_s=0.1, idle_s=0.3) as setup:
            setup.sink.may_read.clear()
            sender = setup.sender()
            for n in range(40):
                sender.send(packet(n))
            await eventually(lambda: setup.server.dropped > 20 * SIZE)
            setup.sink.may_read.set()
            await eventually(lambda: any(call.gaps for call in setup.sink.calls.values()))
            for n in range(40, 50):
                sender.send(packet(n))
                await setup.heard((n + 1) * SIZE)
            call = await setup.call()
            [gap] = call.gaps
            assert gap.reason == DROPPED
            expected = SAMPLES.copy()
            expected[gap.start : gap.end] = 0
            np.testing.assert_array_equal(call.sound("customer"), expected)
            assert setup.server.dropped == gap.end - gap.start > 20 * SIZE

    run(scene)


def test_closing_the_server_ends_the_call():
    async def scene() -> None:
        async with opened() as setup:
            sender = setup.sender()
            for n in range(10):
                sender.send(packet(n))
            await setup.call("running")
            await setup.server.close()
            assert (await setup.call()).reason == "the server is going down"

    run(scene)


def test_two_ports_with_their_rtcp_are_one_call():
    port = free_ports(4)

    async def scene() -> None:
        async with opened(port=port, channels=SIDES) as setup:
            assert setup.server.endpoint == f"rtp://127.0.0.1:{port},{port + 2}"
            sender = setup.sender()
            for n in range(50):
                sender.sendto(packet(n), ("127.0.0.1", port))
                sender.sendto(packet(n, ssrc=9), ("127.0.0.1", port + 1))  # no place for sound
                sender.sendto(packet(n, ssrc=8), ("127.0.0.1", port + 2))
            await setup.heard(len(SAMPLES), "agent")
            sender.sendto(goodbye(7), ("127.0.0.1", port + 1))
            sender.sendto(goodbye(8), ("127.0.0.1", port + 3))
            call = await setup.call()
            for side in ("customer", "agent"):
                np.testing.assert_array_equal(call.sound(side), SAMPLES)

    run(scene)


def free_ports(count: int) -> int:
    """The first of some ports in a row, an even one."""
    for port in range(20_000, 60_000, 2 * count):
        with suppress(OSError):
            probes = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
            try:
                for number, probe in enumerate(probes):
                    probe.bind(("127.0.0.1", port + number))
                return port
            finally:
                for probe in probes:
                    probe.close()
    raise OSError("no free ports")


def test_a_port_that_is_taken():
    port = free_ports(2)

    async def scene() -> None:
        async with opened(port=port) as setup:
            second = RtpServer(RtpConfig(port=port))
            with pytest.raises(LinkError, match=f"rtp: UDP port {port} of 127.0.0.1 cannot be bound"):
                await second.start(setup.sink)
            await second.close()

    run(scene)


@pytest.mark.parametrize(
    ("codec", "rate", "sides", "config"),
    [
        ("pcm_mulaw", 8_000, 1, {}),
        ("pcm_alaw", 8_000, 1, {}),
        ("pcm_s16be", 44_100, 2, {"channels": SIDES, "interleaved": True}),
        ("pcm_s16be", 16_000, 1, {"formats": {97: FormatConfig(codec="l16", rate=16_000)}}),
    ],
)
def test_ffmpeg_is_a_sender(codec: str, rate: int, sides: int, config: dict[str, Any]):
    samples_NC = np.random.default_rng(2).integers(-20_000, 20_000, (rate // 2, sides), np.int16)

    async def scene() -> None:
        async with opened(idle_s=0.3, **config) as setup:
            await asyncio.to_thread(mux, setup.ports[0], codec, rate, samples_NC)
            call = await setup.call()
            begin = call.begins[0]
            assert (begin.rate, len(begin.channels)) == (rate, sides)
            assert not call.gaps
            for column, channel in enumerate(begin.channels):
                heard = call.sound(channel.name)
                assert len(heard) == len(samples_NC)
                tolerance = 0 if codec == "pcm_s16be" else 1024  # what a logarithmic code rounds
                assert np.abs(heard.astype(int) - samples_NC[:, column]).max() <= tolerance

    run(scene)


def mux(port: int, codec: str, rate: int, samples_NC: np.ndarray) -> None:
    """FFmpeg's own RTP output, by PyAV, 20 ms at a time."""
    layout = "mono" if samples_NC.shape[1] == 1 else "stereo"
    with av.open(f"rtp://127.0.0.1:{port}", "w", format="rtp") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        for at in range(0, len(samples_NC), rate // 50):
            part = np.ascontiguousarray(samples_NC[at : at + rate // 50]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(part, "s16", layout)
            frame.rate, frame.pts = rate, at
            for coded in stream.encode(frame):
                out.mux(coded)
        for coded in stream.encode(None):
            out.mux(coded)


@needs("ffmpeg")
def test_the_ffmpeg_command(tmp_path: Path):
    with wave.open(str(tmp_path / "call.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(SAMPLES.astype("<i2").tobytes())

    async def scene() -> None:
        async with opened(idle_s=0.5) as setup:
            url = f"rtp://127.0.0.1:{setup.ports[0]}"
            options = ["-re", "-i", str(tmp_path / "call.wav"), "-c:a", "pcm_mulaw", "-f", "rtp", url]
            program = await asyncio.create_subprocess_exec("ffmpeg", "-v", "error", *options)
            assert await program.wait() == 0
            call = await setup.call()
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)

    run(scene)


def test_what_waits_is_bounded_and_in_step():
    async def scene() -> None:
        waiting, dropped = Waiting(most=300), 0
        for n in range(4):
            for channel in ("a", "b"):
                dropped += waiting.put(AudioChunk(channel, 100 * n, 8000, SAMPLES[:100]))
        waiting.put(Gap("a", 400, 500, "lost"))
        waiting.put(CallEnd())
        out = []
        while not out or out[-1] != CallEnd():
            out.append(await waiting.get())
        assert [(type(item), getattr(item, "channel", "")) for item in out] == [
            (AudioChunk, "a"),
            (AudioChunk, "b"),
            (AudioChunk, "a"),
            (Gap, "b"),
            (Gap, "a"),
            (type(CallEnd()), ""),
        ]
        assert out[3] == Gap("b", 100, 400, DROPPED)
        assert out[4] == Gap("a", 200, 500, DROPPED)
        assert dropped == 500

    run(scene)


def test_gaps_between_what_is_dropped_are_bounded_too():
    async def scene() -> None:
        waiting = Waiting(most=100)
        for n in range(0, 10_000, 2):
            waiting.put(AudioChunk("a", 100 * n, 8000, SAMPLES[:100]))
            waiting.put(Gap("a", 100 * n + 100, 100 * n + 200, "lost"))
        waiting.put(Degraded("told", "a"))
        waiting.put(CallEnd())
        kinds = []
        while not kinds or kinds[-1] is not CallEnd:
            kinds.append(type(await waiting.get()))
        assert kinds == [Degraded, AudioChunk, Gap, CallEnd]

    run(scene)


def test_a_payload_type_without_a_format_is_told_and_the_call_goes_on():
    async def scene() -> None:
        async with opened(idle_s=0.4) as setup:
            sender = setup.sender()
            for n in range(10):
                sender.send(packet(n))
            await setup.call("running")
            for n in range(10, 30):  # for longer than idle_s: the sender is there
                sender.send(packet(n, kind=9))
                await elapsing(0.03, "the pace of the sender")
            for n in range(30, 50):
                sender.send(packet(n))
            call = await setup.call()
            assert len(setup.sink.calls) == 1
            [told] = call.notes
            assert told.reason == "RTP payload type 9 has no format here (set formats) and is not heard"
            [missing] = call.missing
            assert missing.reason == "RTP payload type 9 has no format here (set formats)"
            assert missing.start == 10 * SIZE
            assert missing.end == len(call.sound("customer")) - 20 * SIZE
            heard = call.sound("customer")
            np.testing.assert_array_equal(heard[: 10 * SIZE], SAMPLES[: 10 * SIZE])
            np.testing.assert_array_equal(heard[-20 * SIZE :], SAMPLES[-20 * SIZE :])
            assert 0.5 < (len(heard) / SIZE - 30) * 0.02 < 5, "the time of the wall"
            assert setup.server.counts.unknown == 20

    run(scene)


def test_a_hold_is_one_call(monkeypatch: pytest.MonkeyPatch):
    """Comfort noise, then nothing, then a re-INVITE: another port, another SSRC, other numbers."""
    monkeypatch.setattr("bcaf_stream.ingest.transports.udp.HANDOVER_S", 0.1)

    async def scene() -> None:
        async with opened(idle_s=2.0) as setup:
            first, second, third = setup.sender(), setup.sender(), setup.sender()
            for n in range(10):
                first.send(packet(n))
            await setup.heard(10 * SIZE)
            for n in range(10, 14):
                first.send(packet(n, kind=13, rest=b"\x40"))
            await elapsing(0.5, "how long the hold lasts")
            for n in range(10, 30):
                second.send(packet(n, ssrc=8))
            await eventually(lambda: setup.server.counts.restarts == 1)
            await elapsing(0.3, "longer than HANDOVER_S")
            for n in range(30, 50):
                third.send(packet(n, ssrc=7))  # the first SSRC again
            third.send(goodbye(7))
            call = await setup.call()
            heard = call.sound("customer")
            assert len(setup.sink.calls) == 1
            assert call.reason == "complete"
            np.testing.assert_array_equal(heard[: 10 * SIZE], SAMPLES[: 10 * SIZE])
            np.testing.assert_array_equal(heard[-20 * SIZE :], SAMPLES[-20 * SIZE :])
            assert len(heard) >= 50 * SIZE + 0.7 * 8000

    run(scene)


@pytest.mark.parametrize("ports", [1, 2])
def test_a_process_without_time_hears_the_same_of_two_senders(ports: int):
    """What counts is when packets came, not when they are read: the other sender's may be the first to be read."""

    async def scene() -> None:
        async with opened(idle_s=2.0) as setup:
            first = setup.sender()
            second = setup.sender() if ports == 2 else first
            for n in range(5):
                first.send(packet(n))
            await setup.heard(5 * SIZE)
            for n in range(5, 50):
                second.send(packet(n, ssrc=8))
                second.send(packet(n, ssrc=8, number=n + 50))
                elapse(0.02, "the pace of the senders, while the server's loop stands still")
                first.send(packet(n))
            first.send(goodbye())
            call = await setup.call()
            np.testing.assert_array_equal(call.sound("customer"), SAMPLES)
            assert not call.gaps
            assert setup.server.counts.restarts == 0
            [told] = call.notes
            assert told.reason.startswith("a second sender (SSRC) on the same port is not heard")

    run(scene)


def test_two_packets_of_somebody_keep_nobody_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bcaf_stream.ingest.transports.udp.MOVE_S", 0.1)

    async def scene() -> None:
        async with opened() as setup:
            stranger, sender = setup.sender("127.0.0.2"), setup.sender()
            stranger.send(packet(0, ssrc=9))
            stranger.send(packet(1, ssrc=9))
            await setup.call("running")
            await elapsing(0.15, "longer than MOVE_S")
            for n in range(50):
                sender.send(packet(n))
            sender.send(goodbye())
            call = await setup.call()
            np.testing.assert_array_equal(call.sound("customer")[-len(SAMPLES) :], SAMPLES)

    run(scene)


@needs("gstreamer")
def test_gstreamer_is_a_sender():
    """Its payloader begins at random numbers, and its packets are of a length of its own."""

    async def scene() -> None:
        async with opened(idle_s=0.5) as setup:
            source = "audiotestsrc num-buffers=50 samplesperbuffer=160 wave=sine freq=440"
            line = f"{source} ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! rtppcmupay ! udpsink host=127.0.0.1"
            command = ["gst-launch-1.0", "-q", *line.split(), f"port={setup.ports[0]}"]
            program = await asyncio.create_subprocess_exec(*command)
            assert await program.wait() == 0
            call = await setup.call()
            heard = call.sound("customer").astype(float)
            assert len(heard) == 50 * SIZE
            assert not call.gaps
            spectrum = np.abs(np.fft.rfft(heard))
            assert abs(int(spectrum.argmax()) * 8000 / len(heard) - 440) < 2

    run(scene)
