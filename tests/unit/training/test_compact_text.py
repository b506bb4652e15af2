"""Fine-tuning of a text encoder: what the teacher says beside the labels is learnt, and read back."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.tiny import tiny_checkpoint
from training.compact.config import LABELS, TextTuning
from training.compact.text import TunedText, build_text, load_tokenizer, teacher_logits

JOY, ANGER = LABELS.index("joy"), LABELS.index("anger")
DIALOGUES = [
    [("oh no", JOY), ("so it is", JOY)],
    [("aeiou", JOY)],
    [("not a tree", JOY), ("rest", JOY), ("it", JOY)],
]


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny") / "encoders" / "text"


def tuned(folder: Path, distillation_weight: float, epochs: int = 12) -> TunedText:
    config = TextTuning(epochs=epochs, dialogues=2, distillation_weight=distillation_weight, learning_rate=1e-3)
    torch.manual_seed(config.seed)
    encoder = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
    sure = torch.full((2, 6, len(LABELS)), -4.0)
    sure[..., ANGER] = 4.0
    logits = list(sure.split([len(one) for one in DIALOGUES], dim=1))
    trainer = build_text(config, encoder, load_tokenizer(folder), DIALOGUES, DIALOGUES, logits)
    while not trainer.done:
        trainer.run_epoch()
    return trainer.best_model()


@pytest.mark.parametrize(("distillation_weight", "said"), [(0.0, JOY), (1.0, ANGER)])
def test_labels_and_teacher_logits_weigh_as_the_configuration_says(
    text_folder: Path, distillation_weight: float, said: int
) -> None:
    heads = torch.cat(teacher_logits(tuned(text_folder, distillation_weight), DIALOGUES), dim=1)
    assert heads.shape == (2, 6, len(LABELS))
    assert (heads.argmax(-1) == said).all()


def test_the_same_seed_gives_the_same_encoder(text_folder: Path) -> None:
    first, second = (tuned(text_folder, 0.7, epochs=2).encoder.state_dict() for _ in range(2))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)
