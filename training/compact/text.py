"""Fine-tuning of the text encoder on MELD: whole dialogues, so that utterance and context both teach it.

Each batch is a few dialogues; every utterance is encoded once, and two heads read its vector: a linear layer,
and a small text-only BCAF over the dialogue (causal). Both heads are thrown away afterwards. Runs of different
seeds and rates start from the same weights, so the mean of their weights is a model again, and a better one:
a greedy soup, judged on dev (Wortsman et al. 2022).

Shape letters: B dialogues, U utterances, N utterances of all dialogues of a batch, W width, C classes.
"""

import copy
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel

from bcaf_stream.encoders.compact_text import pooled_text, spoken
from bcaf_stream.encoders.pooling import length_groups, pad_rows
from bcaf_stream.model.bcaf import BCAF, BCAFConfig
from bcaf_stream.model.heads import IGNORED_LABEL
from training.compact.config import LABELS, TextRun, TextTuning
from training.compact.dialogues import Spoken
from training.compact.noise import spoil_text
from training.compact.starts import minilm
from training.datasets.manifest import Split

log = logging.getLogger(__name__)

HEAD_RATE = 1e-3
MOST_TOKENS = 48
NO_AUDIO = 1  # width of the audio input that the throw-away BCAF never hears


class TextTuner:
    """One run; `run()` gives the encoder after the last epoch."""

    def __init__(self, config: TextTuning, run: TextRun, start: Path) -> None:
        torch.manual_seed(run.seed)
        self._config, self._run = config, run
        self._dice = random.Random(run.seed)
        self.model = minilm(start)
        self._tokenizer = load_tokenizer(start)
        width = self.model.config.hidden_size
        self._dialogue_head = BCAF(
            BCAFConfig(
                labels=LABELS, audio_width=NO_AUDIO, text_width=width, width=128, latent=64, layers=2, heads=4,
                feed_forward=256, context=16, connection_form="off",
            )
        )  # fmt: skip
        self._utterance_head = nn.Linear(width, len(LABELS))
        self._dropout = nn.Dropout(0.3)

    def run(self, train: Sequence[Spoken], dev: Sequence[Spoken]) -> BertModel:
        groups = self._parameter_groups()
        optimizer = torch.optim.AdamW([{"params": params} for params, _ in groups], weight_decay=0.01)
        everything = [p for params, _ in groups for p in params]
        steps = self._config.epochs * -(-len(train) // self._config.dialogues)
        step = 0
        for epoch in range(self._config.epochs):
            self._train_mode(True)
            total = 0.0
            for batch in self._batches(train):
                step += 1
                share = min(step / (0.1 * steps), (steps - step) / (0.9 * steps))
                for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
                    group["lr"] = rate * share
                loss = self._loss(batch)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(everything, 1.0)
                optimizer.step()
                total += float(loss.detach()) * len(batch) / len(train)
            log.info("text epoch %d: loss %.3f, dev %s", epoch, total, self._score(dev))
        return self.model.eval()

    def _parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        layers = self.model.config.num_hidden_layers
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            found = re.search(r"layer\.(\d+)\.", name)
            groups.setdefault(layers if found is None else layers - 1 - int(found[1]), []).append(parameter)
        rated = [(params, self._run.learning_rate * self._run.decay**depth) for depth, params in groups.items()]
        heads = [*self._dialogue_head.parameters(), *self._utterance_head.parameters()]
        return [*rated, (heads, HEAD_RATE)]

    def _batches(self, dialogues: Sequence[Spoken]) -> Iterator[list[Spoken]]:
        order, size = list(dialogues), self._config.dialogues
        self._dice.shuffle(order)
        pools = [sorted(order[at : at + 40 * size], key=len) for at in range(0, len(order), 40 * size)]
        batches = [pool[at : at + size] for pool in pools for at in range(0, len(pool), size)]
        self._dice.shuffle(batches)
        yield from batches

    def _forward(self, batch: Sequence[Spoken], noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Dialogue head's loss, its logits (fused + text), utterance logits, labels; all of them (N, C)."""
        texts = [spoil_text(text, self._dice, noise) for dialogue in batch for text, _ in dialogue]
        vector_NW = self._dropout(encode(self.model, self._tokenizer, texts))
        labels_BU = nn.utils.rnn.pad_sequence(
            [torch.tensor([label for _, label in dialogue]) for dialogue in batch], True, IGNORED_LABEL
        )
        mask_BU = labels_BU != IGNORED_LABEL
        text_BUW = vector_NW.new_zeros(*mask_BU.shape, vector_NW.shape[1])
        text_BUW[mask_BU] = vector_NW
        nothing_BU1 = vector_NW.new_zeros(*mask_BU.shape, NO_AUDIO)
        output = self._dialogue_head(nothing_BU1, text_BUW, mask_BU, torch.zeros_like(mask_BU), mask_BU)
        loss, _ = self._dialogue_head.loss(output, labels_BU, mask_BU)
        dialogue_BUC = output.fused_BUC.log_softmax(-1) + output.text_BUC.log_softmax(-1)
        return loss, dialogue_BUC[mask_BU], self._utterance_head(vector_NW), labels_BU[mask_BU]

    def _loss(self, batch: Sequence[Spoken]) -> Tensor:
        dialogue_loss, _, utterance_NC, labels_N = self._forward(batch, self._config.noise)
        alone = nn.functional.cross_entropy(utterance_NC, labels_N, label_smoothing=self._run.smoothing)
        return dialogue_loss + self._config.utterance_weight * alone

    def _train_mode(self, on: bool) -> None:
        for module in (self.model, self._dialogue_head, self._utterance_head, self._dropout):
            module.train(on)

    @torch.inference_mode()
    def _score(self, dialogues: Sequence[Spoken]) -> dict[str, float]:
        self._train_mode(False)
        ordered = sorted(dialogues, key=len)
        parts = [self._forward(ordered[at : at + 16], 0.0)[1:] for at in range(0, len(ordered), 16)]
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


def encode(model: BertModel, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """(N, W), differentiable, in batches of like length, in bfloat16 where that is safe."""
    rows = [torch.tensor(one.ids) for one in tokenizer.encode_batch([spoken(text) for text in texts])]
    parts, order = [], []
    for group in length_groups([len(row) for row in rows], 64):
        ids_BT, mask_BT = pad_rows([rows[i] for i in group])
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(pooled_text(model, ids_BT, mask_BT))
        order += group
    return torch.cat(parts)[torch.tensor(order).argsort()]


def soup(models: Sequence[BertModel], start: Path, dialogues: Mapping[Split, Sequence[Spoken]]) -> BertModel:
    """The mean of the models' weights, as long as each that is added helps a linear probe on dev."""
    probe = [(model, probe_score(model, start, dialogues)) for model in models]
    ranked = sorted(probe, key=lambda pair: pair[1], reverse=True)
    chosen, best = [ranked[0][0]], ranked[0][1]
    for model, score in ranked[1:]:
        found = probe_score(mean_weights([*chosen, model]), start, dialogues)
        log.info("soup of %d: dev %.2f, alone %.2f, before %.2f", len(chosen) + 1, found, score, best)
        if found >= best:
            chosen, best = [*chosen, model], found
    return mean_weights(chosen)


def probe_score(model: BertModel, start: Path, dialogues: Mapping[Split, Sequence[Spoken]]) -> float:
    """Weighted F1 on dev, in per cent, of a logistic regression on the vectors of train."""
    tokenizer = load_tokenizer(start)
    parts = {}
    for split in ("train", "dev"):
        texts = [text for dialogue in dialogues[split] for text, _ in dialogue]
        with torch.inference_mode():
            vectors_NW = encode(model.eval(), tokenizer, texts).numpy()
        parts[split] = vectors_NW, [label for dialogue in dialogues[split] for _, label in dialogue]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=300)).fit(*parts["train"])
    return 100 * float(f1_score(parts["dev"][1], probe.predict(parts["dev"][0]), average="weighted"))


def mean_weights(models: Sequence[BertModel]) -> BertModel:
    """The model whose every weight is the mean of theirs."""
    mixed = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    mixed.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    return mixed.eval()
