"""A recording that lacks sound is sent: what is missing is told as `analyze` tells it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.events.event import Event
from bcaf_stream.recording import Analysis, Recording
from bcaf_stream.types import Call
from tests.integration.test_live_calls import deployed, ended
from tests.unit.actors.local_runtime import CHANNELS, RATE, LocalRuntime, demo_chunks, joined
from tests.unit.audio.signals import TrackOf, late, mux, without


@pytest.fixture(scope="module")
def engine(tiny: Path) -> EmotionEngine:
    return EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file for each party: the customer joins after 4 s, and 3 s of the agent are missing in the middle."""
    folder, chunks = tmp_path_factory.mktemp("holes"), demo_chunks(20)
    stamps = {"customer": late(4.0), "agent": without(11.0, 14.0)}
    return {
        name: str(mux(folder / f"{name}.mka", [TrackOf(joined(chunks, name)[None], RATE, "flac", stamps[name])]))
        for name in ("customer", "agent")
    }


def about(event: Event) -> tuple[object, ...]:
    return event.seq, event.type, event.channel, event.utterance, event.reason


def recording(files: dict[str, str]) -> Recording:
    return replace(Recording.open(None, files), call=Call("c1", CHANNELS))


@pytest.fixture(scope="module")
def analysed(tiny: Path, files: dict[str, str]) -> list[Event]:
    config = AnalyzerConfig(model=ModelConfig(checkpoint=str(tiny), threads=1))
    return list(Analysis(recording(files), config, "none"))


def test_what_a_recording_lacks_is_told_as_analyze_tells_it(
    engine: EmotionEngine, files: dict[str, str], analysed: list[Event]
):
    async def whole() -> list[Event]:
        runtime = LocalRuntime(engine)
        async with deployed(runtime) as (servers, _):
            endpoint = servers["link"].endpoint
            await asyncio.to_thread(send_recording, recording(files), endpoint, 0, "none")
            return await ended(runtime, "c1")

    events = asyncio.run(whole())
    gaps = [(event.channel, event.start_ms, event.end_ms) for event in events if event.type == "audio.gap"]
    assert [channel for channel, *_ in gaps] == ["customer", "agent"]
    assert np.abs(np.array([gap[1:] for gap in gaps]) - [[0, 4000], [11_000, 14_000]]).max() <= 600
    # A gap is not worked through as silence is, so the detector's state after it may be another.
    assert [about(event) for event in events] == [about(event) for event in analysed]
    times = [[[event.start_ms or 0, event.end_ms or 0] for event in found] for found in (events, analysed)]
    assert np.abs(np.subtract(*times)).max() <= 150
