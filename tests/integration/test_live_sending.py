"""`bcaf-stream send -` and `send mic`: real pipes, the real PortAudio, and a server of the audio link."""

import asyncio
import os
import re
import shlex
import signal
import sys
import threading
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcaf_stream.audio.live_sources import PcmNC, PcmPipe
from bcaf_stream.client.live import live_call, send_live
from bcaf_stream.errors import LinkError, SourceError
from bcaf_stream.ingest.media import TextUpdate
from bcaf_stream.ingest.protocols.link import Accepted, Audio, Close, Closed, Credit, Open, Refused
from bcaf_stream.ingest.transports.zmq_router import LinkConfig, LinkSocket
from bcaf_stream.types import Words
from tests.commands import hears_interrupts
from tests.components import needs
from tests.waiting import elapsing, eventually

RATE = 8000
WAIT_S = 20.0  # only a failing test waits that long
WINDOW_MS = 1000
SAMPLES_NC = np.random.default_rng(0).integers(-32768, 32767, (5 * RATE, 2), np.int16, endpoint=True)
CALL = live_call("-", 2, {}, "live")
BIN = Path(sys.executable).parent


class Deployment:
    """Takes one call as an analysis would; `go_on` cleared, it falls behind and gives no credit."""

    def __init__(self, refuse: bool = False) -> None:
        self._server = LinkSocket(LinkConfig(bind="tcp://127.0.0.1:0"))
        self.endpoint = self._server.endpoint
        self._refuse = refuse
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.opening: Open | None = None
        self.words: list[TextUpdate] = []
        self._parts: list[PcmNC] = []
        self.over = False

    @property
    def received(self) -> int:
        return sum(map(len, self._parts))

    @property
    def sound(self) -> PcmNC:
        return np.concatenate(self._parts)

    async def serve(self) -> None:
        while True:
            client, message = await self._server.receive()
            match message:
                case Open() if self._refuse:
                    await self._server.send(client, Refused("busy"))
                case Open():
                    self.opening = message
                    await self._server.send(client, Accepted(message.call, WINDOW_MS))
                case Audio():
                    self._parts.append(message.samples_NC)
                    await self.go_on.wait()
                    assert self.opening
                    done_ms = self.received * 1000 // self.opening.rate
                    await self._server.send(client, Credit(done_ms + WINDOW_MS))
                case TextUpdate():
                    self.words.append(message)
                case Close():
                    self.over = True
                    await self._server.send(client, Closed(3, "complete"))

    def close(self) -> None:
        self._server.close()


@asynccontextmanager
async def deployed(refuse: bool = False) -> AsyncIterator[Deployment]:
    deployment = Deployment(refuse)
    serving = asyncio.create_task(deployment.serve())
    try:
        async with asyncio.timeout(3 * WAIT_S):
            yield deployment
        assert not serving.done(), "the server broke"
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        deployment.close()


def piped(data: bytes) -> Iterator[PcmPipe]:
    """A real pipe with a writer at its other end."""
    reading, writing = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), open(writing, "wb") as out:
            out.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb") as pipe:
        yield PcmPipe(pipe, RATE, 2)
    writer.join()


def test_a_pipe_is_sent_whole():
    async def scene() -> None:
        async with deployed() as deployment:
            words = [Words(0, 1000, "hello", "customer")]
            for source in piped(SAMPLES_NC.astype("<i2").tobytes()):
                closed = await asyncio.to_thread(send_live, source, CALL, deployment.endpoint, "given", words)
            assert closed == Closed(3, "complete")
            assert deployment.opening
            assert replace(deployment.opening, sender=None) == Open("live", CALL.channels, RATE, "given")
            (message,) = deployment.words
            assert message.last
            assert [replace(w, id=None) for w in message.words] == words
            np.testing.assert_array_equal(deployment.sound, SAMPLES_NC)

    asyncio.run(scene())


def test_a_deployment_that_is_behind_slows_the_pipe_and_nothing_is_cut():
    async def scene() -> None:
        async with deployed() as deployment:
            deployment.go_on.clear()
            for source in piped(SAMPLES_NC.astype("<i2").tobytes()):
                sending = asyncio.create_task(
                    asyncio.to_thread(send_live, source, CALL, deployment.endpoint, "asr")
                )
                await eventually(lambda: deployment.received)
                await elapsing(0.1, "time in which too much could come")
                assert deployment.received <= WINDOW_MS * RATE // 1000
                assert not sending.done()
                deployment.go_on.set()
                await sending
            np.testing.assert_array_equal(deployment.sound, SAMPLES_NC)

    asyncio.run(scene())


class Failing:
    """A source whose sound ends like this."""

    rate, channels, remark = RATE, 2, None

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __iter__(self) -> Iterator[PcmNC]:
        yield SAMPLES_NC[:100]
        raise self._error


@pytest.mark.parametrize("error", [SourceError("broken"), KeyboardInterrupt()])
def test_what_was_heard_before_a_failure_is_a_whole_call(error: BaseException):
    async def scene() -> None:
        async with deployed() as deployment:
            with pytest.raises(type(error)):
                await asyncio.to_thread(send_live, Failing(error), CALL, deployment.endpoint, "asr")
            assert deployment.over
            np.testing.assert_array_equal(deployment.sound, SAMPLES_NC[:100])

    asyncio.run(scene())


def test_without_sound_there_is_no_call():
    async def scene() -> None:
        async with deployed() as deployment:
            for source in piped(b""):
                with pytest.raises(SourceError, match="no sound came"):
                    await asyncio.to_thread(send_live, source, CALL, deployment.endpoint, "asr")
            assert deployment.opening is None

    asyncio.run(scene())


def test_a_refused_call():
    async def scene() -> None:
        async with deployed(refuse=True) as deployment:
            for source in piped(SAMPLES_NC.tobytes()):
                with pytest.raises(LinkError, match="refused: busy"):
                    await asyncio.to_thread(send_live, source, CALL, deployment.endpoint, "asr")

    asyncio.run(scene())


async def command(*words: str, **env: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(BIN / "bcaf-stream", *words),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        preexec_fn=hears_interrupts,
        env=dict(os.environ) | env,
    )


def test_the_command_with_a_pipe():
    async def scene() -> None:
        async with deployed() as deployment:
            options = ["--rate", "8000", "--channels", "2", "--role", "customer=agent", "--call", "piped"]
            sending = await command("send", "-", "--to", deployment.endpoint, *options)
            out, err = await sending.communicate(SAMPLES_NC.astype("<i2").tobytes() + b"\1")
            assert out == b"call piped: 3 utterances, complete\n"
            assert b"the last 1 bytes are no whole sample" in err
            assert sending.returncode == 0
            np.testing.assert_array_equal(deployment.sound, SAMPLES_NC)
            assert deployment.opening
            assert [(c.name, c.role) for c in deployment.opening.channels] == [
                ("customer", "agent"),
                ("agent", "agent"),
            ]

    asyncio.run(scene())


@needs("ffmpeg")
def test_ffmpeg_in_front_of_the_pipe(tmp_path: Path):
    with wave.open(str(tmp_path / "call.wav"), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(SAMPLES_NC.astype("<i2").tobytes())

    async def scene() -> None:
        async with deployed() as deployment:
            ffmpeg = f"ffmpeg -v error -i {shlex.quote(str(tmp_path / 'call.wav'))} -f s16le -"
            send = (
                f"{BIN / 'bcaf-stream'} send - --rate {RATE} --channels 2 --call piped --to {deployment.endpoint}"
            )
            running = await asyncio.create_subprocess_shell(f"{ffmpeg} | {send}", stdout=asyncio.subprocess.PIPE)
            out, _ = await running.communicate()
            assert out == b"call piped: 3 utterances, complete\n"
            np.testing.assert_array_equal(deployment.sound, SAMPLES_NC)

    asyncio.run(scene())


@needs("portaudio")
def test_the_command_with_a_microphone_that_plays_a_file(tmp_path: Path):
    """The real PortAudio on an ALSA device that gives a file's samples, faster than any real one could."""
    raw, alsa = tmp_path / "mic.raw", tmp_path / "asound.conf"
    raw.write_bytes(SAMPLES_NC[:, 0].astype("<i2").tobytes())
    alsa.write_text(
        f"""pcm.!default {{ type plug slave.pcm "recorded" }}
        pcm.recorded {{ type file file "/dev/null" infile "{raw}" format "raw" slave.pcm {{ type null }} }}"""
    )

    async def scene() -> None:
        async with deployed() as deployment:
            words = ["send", "mic", "--to", deployment.endpoint, "--rate", "8000", "--role", "mono=customer"]
            sending = await command(*words, ALSA_CONFIG_PATH=str(alsa))
            await eventually(lambda: deployment.received >= len(SAMPLES_NC) or sending.returncode is not None)
            assert sending.returncode is None, await sending.communicate()
            sending.send_signal(signal.SIGINT)
            out, err = await sending.communicate()
            assert re.fullmatch(rb"call mic-[\d-]+: 3 utterances, complete\n", out), (out, err)
            assert b"end with Ctrl-C" in err
            assert sending.returncode == 0
            np.testing.assert_array_equal(deployment.sound[:RATE, 0], SAMPLES_NC[:RATE, 0])

    asyncio.run(scene())


@needs("portaudio")
@pytest.mark.parametrize(
    ("devices", "options", "said"),
    [
        ("pcm.absent { type hw card 99 }", [], b"this machine has no device to record with"),
        ('pcm.there { type null hint { show on } }\npcm.!default "there"', ["--device", "nowhere"], b"names: "),
    ],
)
def test_a_microphone_that_cannot_be_had_is_one_line(
    devices: str, options: list[str], said: bytes, tmp_path: Path
):
    alsa = tmp_path / "asound.conf"
    alsa.write_text(devices)

    async def scene() -> None:
        sending = await command("send", "mic", *options, ALSA_CONFIG_PATH=str(alsa))
        out, err = await sending.communicate()
        assert (sending.returncode, out) == (1, b"")
        assert said in err
        assert err.count(b"bcaf-stream: ") == 1

    asyncio.run(scene())
