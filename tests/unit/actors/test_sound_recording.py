"""Evidence sound of live calls: the chosen roles alone, what a clip holds, and calls that it costs nothing."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from actors import sound_recording
from actors.call_registry import CallRegistry
from actors.config import IngestConfig, ServeConfig
from actors.sound_recording import SoundRecording
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.config import load_config
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import ConfigError, DeploymentError
from bcaf_stream.events.event import Event
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.evidence import RecordConfig, clip
from bcaf_stream.ingest.media import CallStart
from bcaf_stream.types import SAMPLE_RATE
from tests.unit.actors.local_runtime import CHANNELS, RATE, LocalRuntime, demo_chunks, joined, send
from tests.waiting import eventually

CUSTOMERS = RecordConfig(roles=("customer",))


@pytest.fixture(scope="module")
def engine(tiny: Path) -> EmotionEngine:
    return EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1))


def played(engine: EmotionEngine, recording: SoundRecording | None) -> list[Event]:
    runtime = LocalRuntime(engine)

    async def whole() -> None:
        config = IngestConfig(live=LiveConfig(interim_ms=0, grace_s=0.1, finish_s=20))
        calls = CallRegistry(AnalyzerConfig(), config, runtime, recording)
        if recording:
            await recording.open()
        line = await calls.open(CallStart("recorded", CHANNELS, RATE, "none"))
        await send(line, demo_chunks())
        line.end()
        await line.ended()
        await calls.drain(10)
        if recording:
            await recording.drain()

    asyncio.run(whole())
    return runtime.events


def test_an_utterance_of_a_live_call_can_be_heard_and_that_of_others_cannot(engine: EmotionEngine, tmp_path: Path):
    folder = tmp_path / "events.sqlite.sound"
    events = played(engine, SoundRecording(CUSTOMERS, folder))
    said = joined(demo_chunks(), "customer").astype(float)
    spoken = [event for event in events if event.utterance is not None]
    assert {event.role for event in spoken} == {"customer", "agent"}
    for event in spoken:
        found = clip(folder, "recorded", event.channel, event.start_ms, event.end_ms)
        if event.role == "agent":
            assert found is None
            continue
        heard = np.frombuffer(found[44:], "<i2")[:: SAMPLE_RATE // RATE].astype(float)
        meant = said[event.start_ms * RATE // 1000 :][: len(heard)]
        assert np.corrcoef(heard, meant)[0, 1] > 0.9


def test_the_events_are_the_same_whether_a_call_is_recorded_or_not(engine: EmotionEngine, tmp_path: Path):
    recorded = played(engine, SoundRecording(CUSTOMERS, tmp_path / "sound"))
    plain = played(engine, None)
    assert [(e.id, e.start_ms, e.probs) for e in recorded] == [(e.id, e.start_ms, e.probs) for e in plain]


def test_a_call_whose_sound_cannot_be_written_is_analysed_all_the_same(engine: EmotionEngine, tmp_path: Path):
    recording = SoundRecording(CUSTOMERS, tmp_path / "sound")
    asyncio.run(recording.open())
    (tmp_path / "sound").rmdir()
    (tmp_path / "sound").write_text("a file stands in the place of the folder")
    with pytest.raises(DeploymentError, match="sound cannot be made: "):
        asyncio.run(recording.open())
    recording.open = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    events = played(engine, recording)
    assert events[-1].type == "call.end"
    assert any(event.type == "emotion.final" for event in events)


def test_a_folder_that_cannot_be_looked_through_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Deleting what is old runs beside the servers of the ingest actor: an error of the disk must not end them."""
    looked = []

    def broken(folder: Path, before_s: float) -> int:
        looked.append(before_s)
        raise PermissionError(13, "Permission denied")

    async def some() -> None:
        monkeypatch.setattr(sound_recording, "expire", broken)
        often = RecordConfig(roles=("customer",), keep_h=0.0001)
        recording = SoundRecording(often, tmp_path)
        running = asyncio.create_task(recording.delete_old())
        await eventually(lambda: len(looked) > 1 or running.done())
        assert not running.done()
        running.cancel()

    asyncio.run(some())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["ingest.record.roles=[agent]", "analyzer.text.policy.agent=off"], "the policy of agent is off"),
        (["ingest.record.roles=[]"], "ingest.record.roles"),
        (["ingest.record.roles=[boss]"], "ingest.record.roles"),
        (["ingest.record={roles: [customer], keep_h: 0}"], "ingest.record.keep_h"),
        (["ingest.record.keep_h=5"], "ingest.record.roles"),
        (
            ["ingest.record.roles=[customer]", "hub.journal.url=postgresql://me@host/db"],
            "beside the journal's file",
        ),
    ],
)
def test_what_may_not_be_recorded_is_refused(given: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        load_config(ServeConfig, None, given)


def test_it_is_off_unless_it_is_asked_for():
    assert ServeConfig().ingest.record is None
    config = load_config(ServeConfig, None, ["ingest.record={roles: [customer], keep_h: 12}"])
    assert config.ingest.record == RecordConfig(roles=("customer",), keep_h=12)
    assert JournalConfig(path=Path("a/b.sqlite")).sound_folder == Path("a/b.sqlite.sound")
