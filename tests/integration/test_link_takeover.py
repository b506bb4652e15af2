"""`send` and the real server side of a call, without Ray: what a lost wire or a dead process changes."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.call_registry import CallRegistry
from actors.config import IngestConfig
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.client.link import SenderConfig
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.events.event import Event
from bcaf_stream.ingest.protocols.link import Closed
from bcaf_stream.ingest.transports.zmq_link import LinkServer
from bcaf_stream.ingest.transports.zmq_router import LinkConfig
from bcaf_stream.recording import Analysis, Recording
from tests.deployed import free_address
from tests.deployment_processes import BIN
from tests.same import assert_same_events
from tests.tcp_proxy import TcpProxy
from tests.unit.actors.local_runtime import LocalRuntime
from tests.waiting import eventually

SENDER = SenderConfig(retry_s=0.05, longest_retry_s=0.2, heartbeat_s=0.5)
SPEED = 30


class Journalled(LocalRuntime):
    """A runtime whose journal outlives it: `events`, each known by its id and taken once."""

    def __init__(self, engine: EmotionEngine, events: list[Event]) -> None:
        super().__init__(engine)
        self.events = events
        self.is_dead = False

    async def publish(self, events: Sequence[Event], epoch: int) -> None:
        if self.is_dead:
            await asyncio.Event().wait()
        known = {event.id for event in self.events}
        self.events += [event for event in events if event.id not in known]


class Ingest:
    """What an IngestActor has of its link: the server, and the calls behind it."""

    def __init__(self, runtime: Journalled, endpoint: str) -> None:
        self.runtime = runtime
        self.calls = CallRegistry(AnalyzerConfig(), IngestConfig(live=LiveConfig(interim_ms=0)), runtime)
        self.server = LinkServer(LinkConfig(bind=endpoint))

    async def start(self) -> "Ingest":
        await self.server.start(self.calls)
        return self

    async def die(self, before: set[asyncio.Task[Any]]) -> None:
        """Nothing that it still does reaches anybody."""
        self.runtime.is_dead = True
        for task in asyncio.all_tasks() - before:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await self.server.close()


Script = Callable[[TcpProxy, Ingest, Callable[[], Awaitable[Ingest]], set[asyncio.Task[Any]]], Awaitable[None]]


def sent(tiny: Path, text: str, trouble: Script) -> tuple[list[Event], list[Event], list[str]]:
    """The events of a call that was sent into this trouble, those of its undisturbed analysis, and the notes."""
    recording = Recording.open(str(CALL), {}, {}, "c1")
    words = recording.transcript(SCRIPT) if text == "given" else None
    model = ModelConfig(checkpoint=str(tiny), threads=1)
    expected = list(Analysis(recording, AnalyzerConfig(model=model), text, words))  # type: ignore[arg-type]
    events: list[Event] = []
    notes: list[str] = []
    engine = EmotionEngine(model)

    async def whole() -> Closed:
        address = free_address()

        alive: list[Ingest] = []

        async def start() -> Ingest:
            alive.append(await Ingest(Journalled(engine, events), address).start())
            return alive[-1]

        with TcpProxy(address) as wire:
            before = set(asyncio.all_tasks())
            ingest = await start()
            arguments = (recording, wire.endpoint, SPEED, text, words, SENDER, notes.append)
            sending = asyncio.create_task(asyncio.to_thread(send_recording, *arguments))  # type: ignore[arg-type]
            before.add(sending)
            try:
                async with asyncio.timeout(100):
                    await trouble(wire, ingest, start, before)
                    return await sending
            finally:
                await alive[-1].server.close()

    closed = asyncio.run(whole())
    assert closed == Closed(sum(event.type == "emotion.final" for event in expected), "complete")
    return events, expected, notes


async def finals(ingest: Ingest, count: int) -> None:
    await eventually(lambda: len(ingest.runtime.of("emotion.final")) >= count)


def spoken(events: Sequence[Event]) -> list[Event]:
    return [replace(event, seq=0) for event in events if event.utterance is not None]


@pytest.mark.parametrize("text", ["given", "none"])
def test_a_wire_that_is_cut_changes_no_event(tiny: Path, text: str):
    async def trouble(wire: TcpProxy, ingest: Ingest, *_: object) -> None:
        for count in (2, 5):
            await finals(ingest, count)
            wire.cut()

    events, expected, notes = sent(tiny, text, trouble)
    assert_same_events([replace(event, seq=0) for event in events], [replace(event, seq=0) for event in expected])
    assert sum("connected again" in note for note in notes) == 2


@pytest.mark.parametrize("text", ["given", "none"])
def test_a_process_that_dies_costs_no_utterance_and_changes_none(tiny: Path, text: str):
    async def trouble(
        wire: TcpProxy,
        ingest: Ingest,
        start: Callable[[], Awaitable[Ingest]],
        before: set[asyncio.Task[Any]],
    ) -> None:
        await finals(ingest, 4)
        before.add(asyncio.current_task())  # type: ignore[arg-type]
        await ingest.die(before)
        wire.cut()
        await start()

    events, expected, notes = sent(tiny, text, trouble)
    assert [event.seq for event in events] == list(range(len(events)))
    assert_same_events(spoken(events), spoken(expected))
    assert not [event for event in events if event.type == "audio.gap"]
    assert "connected again" in notes[-1]


def test_a_sender_that_was_killed_and_started_again_goes_on_with_its_call(tiny: Path):
    """The same command twice; the program of the first one is killed in the middle of an utterance."""
    model = ModelConfig(checkpoint=str(tiny), threads=1)
    events: list[Event] = []
    endpoint = free_address()
    sending = [BIN / "bcaf-stream", "send", CALL, "--to", endpoint, "--call", "c1", "--speed", "12"]
    sending += ["--transcript", SCRIPT]

    async def scene() -> tuple[int | None, str]:
        ingest = await Ingest(Journalled(EmotionEngine(model), events), endpoint).start()
        try:
            async with asyncio.timeout(100):
                first = subprocess.Popen(sending, stderr=subprocess.DEVNULL)
                await finals(ingest, 4)
                first.kill()
                first.wait()
                second = await asyncio.to_thread(subprocess.run, sending, capture_output=True, text=True)
                return second.returncode, second.stderr
        finally:
            await ingest.server.close()

    code, said = asyncio.run(scene())
    assert code == 0, said
    assert "lost its sender" in said
    recording = Recording.open(str(CALL), {}, {}, "c1")
    words = recording.transcript(SCRIPT)
    assert_same_events(events, list(Analysis(recording, AnalyzerConfig(model=model), "given", words)))
