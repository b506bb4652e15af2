"""Fine-tuning of the text encoder on MELD: whole dialogues, so that utterance and context both teach it.

Each batch is a few dialogues; every utterance is encoded once, and two heads read its vector: a linear layer,
and a small causal transformer over the dialogue. Both heads are thrown away afterwards. A larger encoder is tuned
first in the same way; what its two heads say of the training utterances (its logits) then teaches those of the
encoder that ships, beside the labels (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network").

Shape letters: H = 2 heads (dialogue, utterance), B dialogues, U utterances, N utterances of all dialogues of a
batch, W width, C classes.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.metrics import f1_score
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcaf_stream.encoders.compact_text import pooled_text, spoken
from bcaf_stream.encoders.pooling import length_groups, pad_rows
from bcaf_stream.model.heads import IGNORED_LABEL
from training.compact.config import LABELS, TextTuning
from training.compact.dialogues import Spoken
from training.compact.noise import spoil_text

log = logging.getLogger(__name__)

HEAD_RATE = 1e-3
MOST_TOKENS = 48
DROPOUT = 0.3
CONTEXT = 16  # utterances


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


class Example(NamedTuple):
    """One dialogue to learn from; `teacher_HUC` are the teacher's logits, where there is a teacher."""

    spoken: Spoken
    teacher_HUC: Tensor | None


class TextTuner:
    """One run from `encoder`, which is changed; `run()` gives it back after the last epoch.

    The seed counts from before the encoder was loaded: call `torch.manual_seed(config.seed)` first.
    """

    def __init__(self, config: TextTuning, encoder: PreTrainedModel, tokenizer: Tokenizer) -> None:
        self._config = config
        self._rng = random.Random(config.seed)
        self.model = encoder
        self._tokenizer = tokenizer
        width = self.model.config.hidden_size
        self._dialogue_head = DialogueHead(width)
        self._utterance_head = nn.Linear(width, len(LABELS))
        self._dropout = nn.Dropout(DROPOUT)

    def run(
        self, train: Sequence[Spoken], dev: Sequence[Spoken], teacher_logits: Sequence[Tensor] | None = None
    ) -> PreTrainedModel:
        examples = [
            Example(one, None if teacher_logits is None else teacher_logits[i]) for i, one in enumerate(train)
        ]
        heads = [*self._dialogue_head.parameters(), *self._utterance_head.parameters()]
        encoder = list(self.model.parameters())
        groups = [  # parameters, learning rate, weight decay; vectors (biases, norms) are not decayed
            ([p for p in encoder if p.dim() > 1], self._config.learning_rate, 0.01),
            ([p for p in encoder if p.dim() == 1], self._config.learning_rate, 0.0),
            (heads, HEAD_RATE, 0.01),
        ]
        optimizer = torch.optim.AdamW([{"params": params, "weight_decay": decay} for params, _, decay in groups])
        everything = [*encoder, *heads]
        steps = self._config.epochs * -(-len(train) // self._config.dialogues)
        step = 0
        for epoch in range(self._config.epochs):
            self._train_mode(True)
            total = 0.0
            for batch in self._batches(examples):
                step += 1
                share = min(step / (0.1 * steps), (steps - step) / (0.9 * steps))
                for group, (_, rate, _) in zip(optimizer.param_groups, groups, strict=True):
                    group["lr"] = rate * share
                loss = self._loss(batch)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(everything, 1.0)
                optimizer.step()
                total += float(loss.detach()) * len(batch) / len(train)
            log.info("text epoch %d: loss %.3f, dev %s", epoch, total, self._score(dev))
        return self.model.eval()

    @torch.inference_mode()
    def teacher_logits(self, dialogues: Sequence[Spoken]) -> list[Tensor]:
        """The logits of both heads for each dialogue, (H, U, C)."""
        self._train_mode(False)
        return [torch.stack(self._forward([one], 0.0)[:2]) for one in dialogues]

    def _batches(self, examples: Sequence[Example]) -> Iterator[list[Example]]:
        order, size = list(examples), self._config.dialogues
        self._rng.shuffle(order)
        pools = [
            sorted(order[at : at + 40 * size], key=lambda one: len(one.spoken))
            for at in range(0, len(order), 40 * size)
        ]
        batches = [pool[at : at + size] for pool in pools for at in range(0, len(pool), size)]
        self._rng.shuffle(batches)
        yield from batches

    def _forward(self, batch: Sequence[Spoken], noise: float) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the dialogue head and of the utterance head, and the labels: (N, C), (N, C), (N,)."""
        texts = [spoil_text(text, self._rng, noise) for dialogue in batch for text, _ in dialogue]
        vector_NW = encode(self.model, self._tokenizer, texts)
        labels_BU = nn.utils.rnn.pad_sequence(
            [torch.tensor([label for _, label in dialogue]) for dialogue in batch], True, IGNORED_LABEL
        )
        mask_BU = labels_BU != IGNORED_LABEL
        text_BUW = vector_NW.new_zeros(*mask_BU.shape, vector_NW.shape[1])
        text_BUW[mask_BU] = vector_NW
        utterance_NC = self._utterance_head(self._dropout(vector_NW))
        return self._dialogue_head(text_BUW)[mask_BU], utterance_NC, labels_BU[mask_BU]

    def _loss(self, batch: Sequence[Example]) -> Tensor:
        config = self._config
        *heads, labels_N = self._forward([one.spoken for one in batch], config.noise)
        loss = self._both(*(nn.functional.cross_entropy(logits_NC, labels_N) for logits_NC in heads))
        teacher_logits = [one.teacher_HUC for one in batch if one.teacher_HUC is not None]
        if not teacher_logits:
            return loss
        soft_HNC = (torch.cat(teacher_logits, dim=1) / config.temperature).softmax(-1)
        soft = self._both(
            *(
                nn.functional.cross_entropy(logits_NC / config.temperature, soft_NC)
                for logits_NC, soft_NC in zip(heads, soft_HNC, strict=True)
            )
        )
        return (1 - config.distillation_weight) * loss + config.distillation_weight * config.temperature**2 * soft

    def _both(self, dialogue: Tensor, utterance: Tensor) -> Tensor:
        return dialogue + self._config.utterance_weight * utterance

    def _train_mode(self, on: bool) -> None:
        for module in (self.model, self._dialogue_head, self._utterance_head, self._dropout):
            module.train(on)

    @torch.inference_mode()
    def _score(self, dialogues: Sequence[Spoken]) -> dict[str, float]:
        self._train_mode(False)
        ordered = sorted(dialogues, key=len)
        parts = [self._forward(ordered[at : at + 16], 0.0) for at in range(0, len(ordered), 16)]
        dialogue_NC, utterance_NC, labels_N = (torch.cat(column) for column in zip(*parts, strict=True))
        return {
            name: round(100 * f1_score(labels_N, logits.argmax(1), average="weighted"), 2)
            for name, logits in (("dialogue", dialogue_NC), ("utterance", utterance_NC))
        }


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
