"""THE TRAINING LOOP: plain PyTorch, one process or one of a group; Ray only starts it and keeps its state.

What is unusual: nothing random depends on what ran before. Order, dropout and modality dropout of an epoch
follow from (seed, epoch), so a resumed run computes what an uninterrupted one would have. `batch` counts the
dialogues of one optimiser step over all workers, so their number changes the speed and not what is learned: only
dropout is drawn by each, and the connection loss taken over each one's part.

Legend: B dialogues, U utterances, C classes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bcaf_stream.config import Config
from bcaf_stream.errors import DataError, ModelError
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.heads import IGNORED_LABEL
from training.dialogues import Batch, Dialogue, collate
from training.metrics import weighted_f1
from training.predict import calibrate, predict, scored

WINDOW = 8  # batches among which dialogues are sorted by length, so that little is padded
Record = dict[str, Any]  # one epoch, in plain values


class LoopConfig(Config):
    """The defaults are the paper's: Adam, lr 1e-4, L2 1e-4, patience 15.

    `class_weights`: `balanced` is inverse frequency, `sqrt` its root. `modality_dropout` is the share of
    dialogues that lose one modality for some or all utterances, so that the absent vectors are learned.
    `precision`: `auto` is bfloat16 on a GPU and float32 on the CPU. `clip` bounds the gradient's norm (0 = off).
    """

    epochs: int = Field(default=200, ge=1)
    patience: int = Field(default=15, ge=1)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    l2: float = Field(default=1e-4, ge=0)
    optimizer: Literal["adam", "adamw"] = "adam"
    clip: float = Field(default=0.0, ge=0)
    class_weights: Literal["none", "sqrt", "balanced"] = "none"
    modality_dropout: float = Field(default=0.2, ge=0, le=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(default=0, ge=0)


class Trainer:
    """Trains `model` on `train`, watches the weighted F1 on `dev`, and remembers the best weights.

    In a process group (torch.distributed) every process builds the same Trainer and calls it alike.

    Raises:
        ModelError: a loss or gradient that is not finite; the weights stay as they were.
    """

    def __init__(
        self,
        model: BCAF,
        config: LoopConfig,
        train: Sequence[Dialogue],
        dev: Sequence[Dialogue],
        device: torch.device | str = "cpu",
    ) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.config = config
        self._train, self._dev = train, dev
        self._runner: BCAF | DistributedDataParallel = self.model
        if self.world > 1:
            self._runner = DistributedDataParallel(
                self.model, gradient_as_bucket_view=True, broadcast_buffers=False
            )
        make = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        self._optimizer = make(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.l2, fused=True
        )
        self._weight_C = class_weights(train, self.model.config.classes, config.class_weights)
        self._bfloat16 = config.precision == "bfloat16" or (
            config.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.history: list[Record] = []
        self._best: dict[str, Tensor] = {}

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """The epoch of the best dev score, the first of equals; 0 before the first."""
        return max(self.history, key=lambda record: record["dev_weighted_f1"])["epoch"] if self.history else 0

    @property
    def done(self) -> bool:
        return self.epoch >= self.config.epochs or self.epoch - self.best_epoch >= self.config.patience

    def run_epoch(self) -> Record:
        """One pass over train and one over dev; returns what happened, and appends it to `history`."""
        started, number = time.perf_counter(), self.epoch + 1
        parts, utterances = self._train_pass(number)
        trained = time.perf_counter() - started
        predictions = predict(self.model, self._dev, sharded=self.world > 1)
        calibration = calibrate(self.model, [predictions])
        record = {
            "epoch": number,
            **{f"train_{name}": value for name, value in parts.items()},
            "dev_weighted_f1": weighted_f1(scored(self.model, predictions, calibration)),
            "utterances_per_s": round(utterances / trained, 1),
            "seconds": round(time.perf_counter() - started, 3),
            "workers": self.world,
        }
        self.history.append(record)
        if self.best_epoch == number:
            self._best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        return record

    def best_model(self) -> BCAF:
        """The model with the weights of the best epoch, in evaluation mode."""
        self.model.load_state_dict(self._best or self.model.state_dict())
        return self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "history": self.history,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = dict(state["best"])
        self.history = list(state["history"])

    def _train_pass(self, epoch: int) -> tuple[dict[str, float], int]:
        self.model.train()
        torch.manual_seed(derive_seed(self.config.seed, epoch, 1 + self.rank))
        totals: dict[str, Tensor] = {}
        weight, utterances = 0.0, 0
        for step, numbers in enumerate(batches(self._train, self.config.batch, self.config.seed, epoch)):
            share = self._mass(numbers)
            for name, value in self._step(epoch, step, numbers, share).items():
                totals[name] = totals.get(name, 0.0) + value * share
            weight += share
            utterances += sum(len(self._train[n]) for n in numbers)
        summed = torch.stack(list(totals.values()))
        if self.world > 1:
            dist.all_reduce(summed)
        means = (summed / max(weight, 1e-12) / self.world).tolist()
        return dict(zip(totals, means, strict=True)), utterances

    def _step(self, epoch: int, step: int, numbers: Sequence[int], whole_mass: float) -> dict[str, Tensor]:
        """One optimiser step on this process's part of the dialogues `numbers`.

        Losses are means over utterances, and the group averages gradients over processes: each process weighs
        its mean by its share of the utterances, so that the sum is the mean over the whole batch.
        """
        mine = sorted(numbers, key=lambda n: -len(self._train[n]))[self.rank :: self.world]
        batch = collate([self._train[n] for n in mine or numbers[:1]])
        batch = hide_modalities(batch, mine or numbers[:1], self.config.modality_dropout, self.config.seed, epoch)
        share = self.world * self._mass(mine) / max(whole_mass, 1e-12) if self.world > 1 else 1.0
        batch = batch.to(self.device)
        weight_C = None if self._weight_C is None else self._weight_C.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            output = self._runner(
                batch.audio_BUA, batch.text_BUT, batch.mask_BU, batch.audio_present_BU, batch.text_present_BU
            )
            loss, parts = self.model.loss(output, batch.label_BU, batch.mask_BU, weight_C)
        self._optimizer.zero_grad(set_to_none=True)
        (loss * share).backward()
        norm = self._clipped()
        # After the backward pass, because there the group has shared what one process found.
        if not bool(torch.isfinite(loss.detach()) & torch.isfinite(norm)):
            raise ModelError(_not_finite(epoch, step, parts, self.model.config.connection_form))
        self._optimizer.step()
        return {name: value.double().cpu() * share for name, value in parts.items()}

    def _clipped(self) -> Tensor:
        """The gradient's norm before it was clipped; without `clip` nothing is written."""
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        if self.config.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip, norm)
        return norm

    def _mass(self, numbers: Sequence[int]) -> float:
        """What the mean over these dialogues is divided by: labelled utterances, or the sum of their weights."""
        labels = [self._train[n].label_U for n in numbers]
        if not labels:
            return 0.0
        label_N = torch.cat(labels)
        label_N = label_N[label_N != IGNORED_LABEL]
        return float(len(label_N) if self._weight_C is None else self._weight_C[label_N].sum())


def batches(dialogues: Sequence[Dialogue], batch: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Every dialogue once, in an order that (seed, epoch) decides; neighbours in length share a batch."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, 0))
    order = torch.randperm(len(dialogues), generator=generator).tolist()
    window = batch * WINDOW
    groups: list[list[int]] = []
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda n: len(dialogues[n]))
        groups += [near[i : i + batch] for i in range(0, len(near), batch)]
    for number in torch.randperm(len(groups), generator=generator).tolist():
        yield groups[number]


def hide_modalities(batch: Batch, numbers: Sequence[int], share: float, seed: int, epoch: int) -> Batch:
    """Withhold audio or text from a `share` of the dialogues: half of them wholly, half for some utterances.

    Never where the other modality is absent. What is hidden depends on (seed, epoch, dialogue) alone.
    """
    if share == 0.0:
        return batch
    present = {"audio": batch.audio_present_BU.clone(), "text": batch.text_present_BU.clone()}
    both_BU = batch.audio_present_BU & batch.text_present_BU
    for row, number in enumerate(numbers):
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch, 1_000_003 + number))
        chance, which, whole, rate = torch.rand(4, generator=generator).tolist()
        if chance < share:
            drawn_U = torch.rand(both_BU.shape[1], generator=generator)
            hidden_U = both_BU[row] & (drawn_U < (1.0 if whole < 0.5 else rate))
            present["audio" if which < 0.5 else "text"][row] &= ~hidden_U
    return batch._replace(audio_present_BU=present["audio"], text_present_BU=present["text"])


def class_weights(dialogues: Sequence[Dialogue], classes: int, kind: str) -> Tensor | None:
    """Weight per class, 1 on average over the utterances.

    Raises:
        DataError: no utterance has a label.
    """
    label_N = torch.cat([dialogue.label_U for dialogue in dialogues])
    count_C = torch.bincount(label_N[label_N != IGNORED_LABEL], minlength=classes).double()
    if not count_C.sum():
        raise DataError("the train split has no labelled utterance; there is nothing to learn")
    if kind == "none":
        return None
    weight_C = count_C.clamp_min(1).reciprocal()
    weight_C = weight_C.sqrt() if kind == "sqrt" else weight_C
    return (weight_C * count_C.sum() / (weight_C * count_C).sum()).float()


def derive_seed(*numbers: int) -> int:
    """One seed from several numbers, such that no two of a run are alike."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = ((state ^ number) * 0xBF58476D1CE4E5B9) % 2**64
        state ^= state >> 31
    return state % 2**63


def _not_finite(epoch: int, step: int, parts: Mapping[str, Tensor], form: str) -> str:
    shown = ", ".join(f"{name} {float(value):.3g}" for name, value in parts.items())
    why = "connection_form: printed is unbounded below; use stable" if form == "printed" else "lower learning_rate"
    return f"the loss is not finite in epoch {epoch}, step {step + 1} ({shown}); stopped before the update; {why}"
