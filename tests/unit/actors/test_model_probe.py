"""Which weights may take over the running calls of a deployment, and what their dialogues become."""

from pathlib import Path

import pytest
import torch

from actors.model_probe import probe
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import CheckpointError
from bcaf_stream.types import Features
from tests.tiny import tiny_checkpoint


def engine(folder: Path) -> EmotionEngine:
    return EmotionEngine(ModelConfig(checkpoint=str(folder), threads=1))


@pytest.fixture(scope="module")
def present(tiny: Path) -> EmotionEngine:
    return engine(tiny)


def test_weights_of_the_same_kind_pass_and_are_compared(present: EmotionEngine, tmp_path: Path):
    other = engine(tiny_checkpoint(tmp_path / "other", model_seed=1))
    assert other.model_id != present.model_id
    same, found = probe(present, present), probe(other, present)
    assert same.agreed == same.judged == same.utterances >= 15
    assert found.judged == same.judged
    assert found.agreed < found.judged


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("labels", {"labels": ("anger", "joy", "neutral"), "model_seed": 1}),
        ("modalities", {"modalities": ("audio",), "model_seed": 1}),
        ("encoders", {"seed": 1}),
    ],
)
def test_what_cannot_go_on_with_running_calls_is_refused(
    present: EmotionEngine, tmp_path: Path, what: str, changes: dict[str, object]
):
    with pytest.raises(CheckpointError, match=f"has other {what} than"):
        probe(engine(tiny_checkpoint(tmp_path / "other", **changes)), present)  # type: ignore[arg-type]


def test_what_says_the_same_of_everything_is_refused(present: EmotionEngine, tmp_path: Path):
    dull = engine(tiny_checkpoint(tmp_path / "dull", model_seed=1))
    for parameter in dull._dialogue._model.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(CheckpointError, match="the same answer to every utterance"):
        probe(dull, present)


def test_what_gives_no_numbers_is_refused(present: EmotionEngine, tmp_path: Path):
    broken = engine(tiny_checkpoint(tmp_path / "broken", model_seed=1))
    for parameter in broken._dialogue._model.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(CheckpointError, match=r"judges no utterance of the demo call: .*not finite"):
        probe(broken, present)


def test_a_rebuilt_state_is_the_one_that_there_would_be(present: EmotionEngine):
    generator = torch.Generator().manual_seed(0)

    def features() -> Features:
        audio, text = (
            torch.randn(width, generator=generator).numpy()
            for width in (present._dialogue._model.config.audio_width, present._dialogue._model.config.text_width)
        )
        return Features(audio, text)

    past = [features() for _ in range(3 * present.reach)]
    state = present.initial_state()
    for one in past:
        _, (state,) = present.step([state], [one])
    rebuilt = present.rebuilt_state(past[-present.reach :])
    (expected, found), _ = present.step([state, rebuilt], [past[0], past[0]])
    assert found.probs == pytest.approx(expected.probs, abs=1e-6)
