"""The whole main path: any chunking, and a reset in between, gives the same events."""

from pathlib import Path

import numpy as np
import pytest

from bcaf_stream.analyzer import AnalyzerConfig, ConversationAnalyzer
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.events.event import Event
from bcaf_stream.recording import Recording
from bcaf_stream.types import AudioChunk, PcmN
from tests.same import assert_same_events

RECORDING = Recording.open(str(CALL), {}, {}, "chunks")
WORDS = RECORDING.transcript(SCRIPT)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> EmotionEngine:
    return EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1))


@pytest.fixture(scope="module")
def sound() -> dict[str, PcmN]:
    with FileSource(CALL, slice_ms=1000) as source:
        chunks = list(source)
    return {
        c.name: np.concatenate([x.samples for x in chunks if x.channel == c.name]) for c in RECORDING.call.channels
    }


def events(analyzer: ConversationAnalyzer, sound: dict[str, PcmN], size: int) -> list[Event]:
    found = []
    for start in range(0, max(map(len, sound.values())), size):
        for name, samples in sound.items():
            found += analyzer.push(AudioChunk(name, start, 8000, samples[start : start + size]))
    return found + analyzer.flush()


def test_any_chunking_gives_the_same_events(engine: EmotionEngine, sound: dict[str, PcmN]):
    analyzer = ConversationAnalyzer(RECORDING.call, AnalyzerConfig(), engine, words=WORDS)
    reference = events(analyzer, sound, 800)
    assert sum(event.type == "emotion.final" for event in reference) >= 15
    for size in (1600 - 1, 16_000, 10**9):
        analyzer.reset()
        assert_same_events(events(analyzer, sound, size), reference)
    analyzer.close()
