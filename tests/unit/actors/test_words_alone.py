"""A live call with a model that was trained on words alone: its sound is not even looked at."""

import pytest
import torch

from actors.call_session import CallSession
from actors.watchdog import LiveConfig
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.ingest.media import TextUpdate
from bcaf_stream.ingest.sink import CallHandle
from bcaf_stream.types import AudioChunk, Words
from tests.tiny import tiny_checkpoint
from tests.unit.actors.local_runtime import LocalRuntime, demo_chunks, play, stream

FIRST = Words(5600, 10_400, "hello there", "customer", "w1")
SECOND = Words(14_700, 17_500, "four four seven", "customer", "w2")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EmotionEngine:
    torch.set_num_threads(1)
    folder = tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "words", modalities=("text",))
    return EmotionEngine(ModelConfig(checkpoint=str(folder)))


@pytest.fixture(scope="module")
def audio() -> list[AudioChunk]:
    return demo_chunks()


def test_the_sound_is_not_even_sent_and_nobody_looks_at_silence(engine: EmotionEngine, audio: list[AudioChunk]):
    runtime = LocalRuntime(engine)

    async def script(session: CallSession, line: CallHandle) -> None:
        line.accept(TextUpdate((FIRST, SECOND)))
        await stream(line, audio)
        line.end()

    play(lambda: runtime.session("given", live=LiveConfig(interim_ms=500)), script)
    assert runtime.asked
    assert all(utterance.samples is None and utterance.text for utterance in runtime.asked)
    assert not runtime.of("degraded")
    assert [event.text for event in runtime.of("emotion.final")] == ["hello there", "four four seven"]
