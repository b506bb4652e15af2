"""Fine-tuning of a text encoder: what the teacher says beside the labels is learnt, and read back."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.tiny import tiny_checkpoint
from training.compact.config import LABELS, TextTuning
from training.compact.text import TextTuner, load_tokenizer

JOY, ANGER = LABELS.index("joy"), LABELS.index("anger")
DIALOGUES = [
    [("oh no", JOY), ("so it is", JOY)],
    [("aeiou", JOY)],
    [("not a tree", JOY), ("rest", JOY), ("it", JOY)],
]


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny") / "encoders" / "text"


def tuned(folder: Path, distillation_weight: float, epochs: int = 12) -> TextTuner:
    config = TextTuning(epochs=epochs, dialogues=2, distillation_weight=distillation_weight, learning_rate=1e-3)
    torch.manual_seed(config.seed)
    encoder = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
    tuner = TextTuner(config, encoder, load_tokenizer(folder))
    sure = torch.full((2, 6, len(LABELS)), -4.0)
    sure[..., ANGER] = 4.0
    teacher_logits = list(sure.split([len(one) for one in DIALOGUES], dim=1))
    tuner.run(DIALOGUES, DIALOGUES, teacher_logits)
    return tuner


@pytest.mark.parametrize(("distillation_weight", "said"), [(0.0, JOY), (1.0, ANGER)])
def test_labels_and_teacher_logits_weigh_as_the_configuration_says(
    text_folder: Path, distillation_weight: float, said: int
) -> None:
    heads = torch.cat(tuned(text_folder, distillation_weight).teacher_logits(DIALOGUES), dim=1)
    assert heads.shape == (2, 6, len(LABELS))
    assert (heads.argmax(-1) == said).all()


def test_the_same_seed_gives_the_same_encoder(text_folder: Path) -> None:
    first, second = (tuned(text_folder, 0.7, epochs=2).model.state_dict() for _ in range(2))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)
