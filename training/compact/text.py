"""Fine-tuning of the text encoder on MELD: whole dialogues, so that utterance and context both teach it.

Each batch is a few dialogues; every utterance is encoded once, and two heads read its vector: a linear layer,
and a small causal transformer over the dialogue. Both heads are thrown away afterwards. A larger encoder is tuned
first in the same way; what its two heads say of the training utterances (its logits) then teaches those of the
encoder that ships, beside the labels.

Shape letters: H = 2 heads (dialogue, utterance), B dialogues, U utterances, N utterances of all dialogues of a
batch, W width, C classes.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcaf_stream.encoders.compact_text import pooled_text, spoken
from bcaf_stream.encoders.pooling import length_groups, pad_rows
from bcaf_stream.model.heads import IGNORED_LABEL
from training.compact.config import LABELS, TextTuning
from training.compact.dialogues import Spoken
from training.compact.noise import spoil_text
from training.config import LoopConfig
from training.metrics import Scored, weighted_f1
from training.objective import Group, Losses, distillation_loss, distilled
from training.source import Step, derive_seed, length_batches
from training.trainer import Trainer

HEAD_RATE = 1e-3
DECAY = 0.01
WARM_UP = 0.1  # of all steps
MOST_TOKENS = 48
DROPOUT = 0.3
CONTEXT = 16  # utterances
SCORED_AT_ONCE = 16  # dialogues


class DialogueHead(nn.Module):
    """A small causal transformer over the utterances of a dialogue, beside each utterance's own vector."""

    def __init__(self, in_features: int, width: int = 256) -> None:
        super().__init__()
        self._dropout = nn.Dropout(DROPOUT)
        self._projection = nn.Linear(in_features, width)
        self._layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, DROPOUT, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self._out = nn.Linear(width + in_features, len(LABELS))

    def forward(self, text_BUW: Tensor) -> Tensor:
        """(B, U, C); an utterance sees itself and the CONTEXT - 1 before it. Padding stands at the end."""
        position_U = torch.arange(text_BUW.shape[1])
        ago_UU = position_U[:, None] - position_U[None, :]
        hidden_UU = (ago_UU < 0) | (ago_UU >= CONTEXT)
        x_BUD = self._projection(self._dropout(text_BUW))
        for layer in self._layers:
            x_BUD = layer(x_BUD, src_mask=hidden_UU)
        logits_BUC: Tensor = self._out(self._dropout(torch.cat([x_BUD, text_BUW], dim=-1)))
        return logits_BUC


class TunedText(nn.Module):
    """The encoder that is fine-tuned, with the two heads that teach it."""

    def __init__(self, encoder: PreTrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder, self._tokenizer = encoder, tokenizer
        width = encoder.config.hidden_size
        self._dialogue_head = DialogueHead(width)
        self._utterance_head = nn.Linear(width, len(LABELS))
        self._dropout = nn.Dropout(DROPOUT)

    def forward(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Logits of the dialogue head and of the utterance head, (H, N, C); `texts` are those of each dialogue."""
        vector_NW = encode(self.encoder, self._tokenizer, [text for one in texts for text in one])
        mask_BU = nn.utils.rnn.pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in texts], True)
        text_BUW = vector_NW.new_zeros(*mask_BU.shape, vector_NW.shape[1])
        text_BUW[mask_BU] = vector_NW
        utterance_NC = self._utterance_head(self._dropout(vector_NW))
        return torch.stack((self._dialogue_head(text_BUW)[mask_BU], utterance_NC))

    def groups(self, learning_rate: float) -> list[Group]:
        """The encoder at the run's rate, without decay of its vectors (biases, norms); the heads at their own."""
        encoder = list(self.encoder.parameters())
        heads = [*self._dialogue_head.parameters(), *self._utterance_head.parameters()]
        return [
            Group([one for one in encoder if one.dim() > 1], DECAY),
            Group([one for one in encoder if one.dim() == 1], 0.0),
            Group(heads, DECAY, HEAD_RATE / learning_rate),
        ]


class TextPart(NamedTuple):
    """Dialogues of one step: their words (spoiled), labels (N,), and a teacher's logits (H, N, C) or None."""

    texts: list[list[str]]
    label_N: Tensor
    teacher_HNC: Tensor | None
    share: float = 1.0

    @property
    def mass(self) -> float:
        return float((self.label_N != IGNORED_LABEL).sum())


class TextSource:
    """Every dialogue of train once in an epoch; neighbours in length share a batch."""

    def __init__(
        self,
        config: TextTuning,
        train: Sequence[Spoken],
        dev: Sequence[Spoken],
        teacher_logits: Sequence[Tensor] | None = None,
    ) -> None:
        self._config, self._train, self._dev, self._teacher = config, train, dev, teacher_logits

    @property
    def steps(self) -> int:
        return -(-len(self._train) // self._config.dialogues)

    def epoch(self, number: int, rank: int, world: int) -> Iterator[Step]:
        config, lengths = self._config, [len(one) for one in self._train]
        for drawn in length_batches(lengths, config.dialogues, config.seed, number):
            mine = drawn[rank::world] or drawn[:1]
            whole, own = (sum(lengths[n] for n in numbers) for numbers in (drawn, drawn[rank::world]))
            yield Step([self._part(mine, number, world * own / whole)], whole)

    def _part(self, numbers: Sequence[int], epoch: int, share: float) -> TextPart:
        rng = random.Random(derive_seed(self._config.seed, epoch, 1 + numbers[0]))
        spoken = [self._train[n] for n in numbers]
        teacher_HNC = None if self._teacher is None else torch.cat([self._teacher[n] for n in numbers], dim=1)
        texts = [[spoil_text(text, rng, self._config.noise) for text, _ in one] for one in spoken]
        return TextPart(texts, _labels(spoken), teacher_HNC, share)

    def score(self, model: TunedText, sharded: bool) -> float:
        return text_scores(model, self._dev)["dialogue"]


class TextObjective:
    """Cross-entropy of both heads, and with the teacher's probabilities where there is a teacher."""

    names = ("total", "dialogue", "utterance", "distillation")

    def __init__(self, model: TunedText, config: TextTuning) -> None:
        self._model, self._config = model, config

    def groups(self) -> Sequence[Group]:
        return self._model.groups(self._config.learning_rate)

    def __call__(
        self, runner: nn.Module, part: TextPart, device: torch.device, precision: AbstractContextManager[None]
    ) -> Losses:
        config = self._config
        logits_HNC = runner(part.texts)
        dialogue, utterance = (nn.functional.cross_entropy(logits_NC, part.label_N) for logits_NC in logits_HNC)
        loss = dialogue + config.utterance_weight * utterance
        parts = {"total": loss.detach(), "dialogue": dialogue.detach(), "utterance": utterance.detach()}
        if part.teacher_HNC is None:
            return loss, parts
        pairs = zip(logits_HNC, part.teacher_HNC, strict=True)
        of_dialogue, of_utterance = (distillation_loss(mine, theirs, config.temperature) for mine, theirs in pairs)
        return distilled(
            loss, of_dialogue + config.utterance_weight * of_utterance, parts, config.distillation_weight
        )


def build_text(
    config: TextTuning,
    encoder: PreTrainedModel,
    tokenizer: Tokenizer,
    train: Sequence[Spoken],
    dev: Sequence[Spoken],
    teacher_logits: Sequence[Tensor] | None = None,
) -> Trainer[TunedText]:
    """The one trainer on MELD's words; `encoder` is changed, and the last epoch's weights are kept.

    The seed counts from before the encoder was loaded: call `torch.manual_seed(config.seed)` first.
    """
    source = TextSource(config, train, dev, teacher_logits)
    model = TunedText(encoder, tokenizer)
    loop = LoopConfig(
        epochs=config.epochs,
        batch=config.dialogues,
        learning_rate=config.learning_rate,
        optimizer="adamw",
        clip=1.0,
        schedule="linear",
        warm_up=round(WARM_UP * config.epochs * source.steps),
        keep="last",
        precision="float32",  # the encoder has its own autocast
        seed=config.seed,
    )
    return Trainer(model, loop, source, objective=TextObjective(model, config))


@torch.inference_mode()
def teacher_logits(model: TunedText, dialogues: Sequence[Spoken]) -> list[Tensor]:
    """The logits of both heads for each dialogue, (H, U, C)."""
    model.eval()
    return [model([[text for text, _ in one]]) for one in dialogues]


@torch.inference_mode()
def text_scores(model: TunedText, dialogues: Sequence[Spoken]) -> dict[str, float]:
    """The weighted F1 of each head."""
    was_training = model.training
    model.eval()
    ordered = sorted(dialogues, key=len)
    groups = [ordered[at : at + SCORED_AT_ONCE] for at in range(0, len(ordered), SCORED_AT_ONCE)]
    logits_HNC = torch.cat([model([[text for text, _ in one] for one in group]) for group in groups], dim=1)
    model.train(was_training)
    truth_N = _labels(ordered).numpy()
    heads = zip(("dialogue", "utterance"), logits_HNC.double().softmax(-1).numpy(), strict=True)
    return {
        name: weighted_f1(Scored(LABELS, probs_NC, truth_N, np.zeros_like(truth_N))) for name, probs_NC in heads
    }


def _labels(dialogues: Sequence[Spoken]) -> Tensor:
    return torch.tensor([label for one in dialogues for _, label in one])


def load_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    return tokenizer


def encode(model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """(N, W), differentiable, in batches of like length, in bfloat16 where that is safe."""
    rows = [torch.tensor(one.ids) for one in tokenizer.encode_batch([spoken(text) for text in texts])]
    parts, order = [], []
    for group in length_groups([len(row) for row in rows], 64):
        ids_BT, mask_BT = pad_rows([rows[i] for i in group])
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(
                input_ids=ids_BT, attention_mask=mask_BT.long(), output_hidden_states=True
            ).hidden_states
            parts.append(pooled_text(hidden, mask_BT))
        order += group
    return torch.cat(parts)[torch.tensor(order).argsort()]
