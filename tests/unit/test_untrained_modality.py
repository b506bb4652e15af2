"""A model that was trained on one modality says nothing of the other, and says that it does not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.encoders.base import AudioEncoderConfig
from bcaf_stream.errors import CheckpointError, EncoderError, UsageError
from bcaf_stream.model.checkpoint import EncoderSpecs, load_checkpoint, save_checkpoint
from bcaf_stream.recording import Analysis, Recording
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.types import SAMPLE_RATE, Utterance
from tests.tiny import tiny_checkpoint

RECORDING = Recording.open(str(CALL), {}, {}, "one")


@pytest.fixture(scope="module")
def words_alone(tmp_path_factory: pytest.TempPathFactory) -> AnalyzerConfig:
    torch.set_num_threads(1)
    folder = tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "words", modalities=("text",))
    return AnalyzerConfig(model=ModelConfig(checkpoint=str(folder)))


def test_words_are_judged_and_the_sound_is_not(words_alone: AnalyzerConfig):
    analysis = Analysis(RECORDING, words_alone, "given", RECORDING.transcript(SCRIPT))
    (caveat,) = analysis.engine.caveats
    assert caveat.endswith("was trained on text alone and judges nothing else")
    finals = [event for event in analysis if event.type == "emotion.final"]
    assert len(finals) >= 15
    assert {event.modalities for event in finals} == {("text",)}
    assert all(event.audio_probs is None for event in finals)


def test_speech_without_words_is_left_alone_and_no_words_at_all_are_refused(words_alone: AnalyzerConfig):
    words = RECORDING.transcript(SCRIPT)
    some = [word for word in words if word.start_ms < 20_000]
    found = list(Analysis(RECORDING, words_alone, "given", some))
    finals = [event for event in found if event.type == "emotion.final"]
    assert finals
    assert all(event.text for event in finals)
    assert {event.type for event in found} == {"call.start", "emotion.final", "call.end"}
    with pytest.raises(UsageError, match="judges words alone: give --transcript or --text asr"):
        Analysis(RECORDING, words_alone, "none")


@pytest.mark.parametrize(
    ("modalities", "policies"),
    [
        (("audio", "text"), {"agent": "off", "customer": "text_only"}),
        (("text",), {"agent": "off", "customer": "text_only", "speaker": "text_only"}),
        (("audio",), {"agent": "off", "customer": "off", "speaker": "fused"}),
    ],
)
def test_a_role_is_judged_by_what_its_policy_permits_and_the_model_knows(modalities: tuple, policies: dict):
    config = TextConfig(policy={"agent": "off", "customer": "text_only"})
    assert config.for_model(modalities).policy == policies


def test_the_encoder_of_the_other_one_is_not_even_loaded(words_alone: AnalyzerConfig):
    folder = Path(words_alone.model.checkpoint)
    (folder / "encoders" / "audio" / "weights.safetensors").write_bytes(b"broken")
    assert EmotionEngine(words_alone.model).modalities == ("text",)
    other = words_alone.model.model_copy(update={"audio_encoder": AudioEncoderConfig()})
    with pytest.raises(CheckpointError, match=r"model.audio_encoder: .* was not trained on it"):
        EmotionEngine(other)


def test_a_model_of_nothing_is_refused(tiny: Path, tmp_path: Path):
    model = load_checkpoint(tiny).model
    with pytest.raises(CheckpointError, match="trained on neither audio nor text"):
        save_checkpoint(tmp_path / "none", model, encoders=EncoderSpecs(audio=None, text=None))


def test_without_words_the_text_encoder_is_not_loaded(tiny: Path):
    engine = EmotionEngine(ModelConfig(checkpoint=str(tiny)), words=False)
    utterance = Utterance("c", "mono", "speaker", 0, 0, 1000, np.zeros(SAMPLE_RATE, np.int16), None, "none")
    assert engine.modalities == ("audio", "text")
    (features,) = engine.encode([utterance])
    assert features.audio is not None
    assert features.text is None
    people = engine.encode([replace(utterance, speaker=name) for name in ("S1", "S2", "S1")])
    assert features.voice == "mono"
    assert len({one.voice for one in (features, *people)}) == 3, (
        "one who shares a channel has a voice of their own"
    )
    with pytest.raises(EncoderError, match="not loaded"):
        engine.encode([replace(utterance, text="so what", text_source="given")])
