"""Two ingest actors, the hub and the model in one process: calls move between them, and nothing is told twice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.config import ServeConfig
from actors.emotion_actor import EmotionActor
from actors.hub_actor import HubActor
from actors.ingest_actor import IngestActor
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.config import load_config
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.events.event import Event
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.ingest.media import TextUpdate
from bcaf_stream.ingest.protocols.link import Closed
from bcaf_stream.recording import Analysis, Recording
from tests.deployed import serve_config
from tests.same import assert_same_events
from tests.tcp_proxy import TcpProxy
from tests.unit.actors.local_actor import Handle
from tests.waiting import elapsing, eventually

RECORDING = Recording.open(str(CALL), {}, {}, "moved")
WORDS = RECORDING.transcript(SCRIPT)


class Sleeper(Handle):
    """One that gives no answer while it is asleep."""

    asleep = False

    def __getattr__(self, method: str) -> Any:
        if not self.asleep:
            return super().__getattr__(method)
        return Handle(_Silent()).answer


class _Silent:
    async def answer(self, *_: object) -> None:
        await asyncio.Event().wait()


class Two:
    """The actors by name, and the hub as each of the two ingest actors reaches it."""

    def __init__(self, config: ServeConfig) -> None:
        path = config.hub.journal.path
        assert path
        self._path = path
        emotion = EmotionActor(config.analyzer.model, config.emotion.batch)
        self.named: dict[str, Any] = {"emotion-0": Handle(emotion)}
        self.hub = HubActor(config.hub)
        self.hubs = [Sleeper(self.hub), Sleeper(self.hub)]
        self.ingest: list[IngestActor] = []
        for number, reached in enumerate(self.hubs):
            name = f"ingest-{number}"
            self.named |= {"hub": reached, f"hub-{number}": reached}
            self.ingest.append(IngestActor(config, name, f"hub-{number}", ["emotion-0"]))
            self.named[name] = Sleeper(self.ingest[-1])

    @property
    def events(self) -> list[Event]:
        with Journal(JournalConfig(path=self._path), read_only=True) as journal:
            return list(journal.read())

    async def heard(self, finals: int) -> None:
        await eventually(lambda: sum(event.type == "emotion.final" for event in self.events) >= finals, 60)


Script = Callable[[Two, list[str]], Awaitable[Closed]]


def run(tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """Play a scene with the demo call, which must be told as if nothing had happened."""

    async def scene() -> tuple[Closed, list[Event]]:
        two = Two(serve_config("moving", tiny, folder, "analyzer.text.asr.kind=none"))
        monkeypatch.setattr("ray.get_actor", lambda name, _: two.named[name])
        for module in ("hub_actor", "ingest_actor"):
            monkeypatch.setattr(f"actors.{module}.here", lambda *_: [])
        async with asyncio.timeout(150):
            for actor in (two.hub, *two.ingest):
                await actor.ready(True)
            closed = await script(two, [await actor.endpoint() for actor in two.ingest])
            for actor in two.ingest:
                await actor.drain()
            events = two.events
            await two.hub.close()
            return closed, events

    closed, found = asyncio.run(scene())
    config = load_config(AnalyzerConfig, None, [f"model.checkpoint={tiny}"])
    expected = list(Analysis(RECORDING, config, "given", WORDS))
    assert [event.seq for event in found] == list(range(len(found)))
    assert len({event.id for event in found}) == len(found)
    assert_same_events(*([replace(event, seq=0) for event in its if event.emotion] for its in (found, expected)))
    assert (closed.reason, found[-1].type) == ("complete", "call.end")
    assert sum("was interrupted" in (event.reason or "") for event in found) == 1


async def send(addresses: list[str], with_words: bool = True) -> Closed:
    return await asyncio.to_thread(
        send_recording, RECORDING, addresses, 12, "given", WORDS if with_words else None
    )


def test_a_replica_that_is_drained_hands_its_call_over(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def script(two: Two, addresses: list[str]) -> Closed:
        sending = asyncio.create_task(send(addresses))
        await two.heard(2)
        await two.ingest[0].take_new_calls(True, hands_over=True)
        closed = await sending
        assert (await two.ingest[0].stats())["handed_over"] == 1
        assert (await two.ingest[1].stats())["finished"] == 1
        return closed

    run(tiny, tmp_path, monkeypatch, script)


def test_a_call_goes_where_its_connection_goes_and_words_find_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As behind a load balancer; the words come to the replica that does not have the call."""

    async def script(two: Two, addresses: list[str]) -> Closed:
        with TcpProxy(addresses[0]) as proxy:
            sending = asyncio.create_task(send([proxy.endpoint], with_words=False))
            await eventually(lambda: two.events, 60)
            await two.ingest[1].forward("moved", TextUpdate(tuple(WORDS), last=True))
            await two.heard(2)
            proxy.lead_to(addresses[1])
            proxy.cut()
            await eventually(lambda: any("interrupted" in (event.reason or "") for event in two.events), 60)
            await two.ingest[0].forward("moved", TextUpdate(tuple(WORDS), last=True))
            return await sending

    run(tiny, tmp_path, monkeypatch, script)


def test_who_was_thought_dead_says_nothing_more_when_it_wakes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def script(two: Two, addresses: list[str]) -> Closed:
        with TcpProxy(addresses[0]) as proxy:
            sending = asyncio.create_task(send([proxy.endpoint]))
            await two.heard(2)
            two.hubs[0].asleep = two.named["ingest-0"].asleep = True  # neither heard of nor to be asked
            proxy.lead_to(addresses[1])
            proxy.cut()
            await eventually(lambda: any("interrupted" in (event.reason or "") for event in two.events), 60)
            two.hubs[0].asleep = two.named["ingest-0"].asleep = False
            closed = await sending
            while (await two.ingest[0].stats())["calls"]:  # `run` has a deadline
                await elapsing(0.05, "until its next beat tells it what it has lost")
            assert (await two.ingest[0].stats())["handed_over"] == 1
            return closed

    run(tiny, tmp_path, monkeypatch, script)
