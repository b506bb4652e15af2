"""What a step of training is made of: a data source gives each step's parts, the trainer learns from them.

A part is dialogues of one kind under one set of class weights. A manifest's dialogues are one part, see
DialogueSource; a mixture of corpora gives several, see training/compact/fusion.py. The step's loss is their mean.

Nothing random depends on what ran before: order and hidden modalities of an epoch follow from (seed, epoch), on
every process alike, and each takes its share of what all have drawn. So a resumed run, and one on other workers,
sees what an uninterrupted one does.

Legend: B dialogues, U utterances, C classes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from bcaf_stream.errors import DataError
from bcaf_stream.model.heads import IGNORED_LABEL
from training.config import LoopConfig
from training.dialogues import Batch, Dialogue, collate
from training.metrics import weighted_f1
from training.predict import DialogueModel, calibrate, predict, scored

M_contra = TypeVar("M_contra", contravariant=True)  # the model that is trained
UTTERANCES = 64  # of a step, where batch is auto
WINDOW = 8  # batches among which dialogues are sorted by length, so that little is padded


class Share(Protocol):
    """What the loop asks of a part, whatever it holds: see Part."""

    @property
    def share(self) -> float: ...

    @property
    def mass(self) -> float: ...


class Part(NamedTuple):
    """This process's share of one part of a step.

    `share` weighs its mean loss: world size times its part of the whole mass, so that the mean over the processes
    is the mean over the whole part. `mass`: what the whole part's mean is divided by. `teacher_BUC`: logits of a
    teacher for the same utterances, None where there is none.
    """

    batch: Batch
    weight_C: Tensor | None = None
    share: float = 1.0
    mass: float = 1.0
    teacher_BUC: Tensor | None = None


class Step(NamedTuple):
    """One optimiser step; `utterances` counts those of all processes."""

    parts: Sequence[Share]
    utterances: int


class DataSource(Protocol[M_contra]):
    """What is trained on, and how well a model does on dev."""

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch."""
        ...

    def epoch(self, number: int, rank: int, world: int) -> Iterator[Step]:
        """The steps of epoch `number` (from 1), as process `rank` of `world` sees them."""
        ...

    def score(self, model: M_contra, sharded: bool) -> float:
        """The weighted F1 on dev; with `sharded`, each process of the group takes a part and gets the whole."""
        ...


class DialogueSource:
    """The dialogues of a manifest: every one once in an epoch, neighbours in length share a batch.

    `teacher` holds a teacher's logits (U, C) of each dialogue of train.

    Raises:
        DataError: no utterance of train has a label.
    """

    def __init__(
        self,
        config: LoopConfig,
        classes: int,
        train: Sequence[Dialogue],
        dev: Sequence[Dialogue],
        teacher: Sequence[Tensor] | None = None,
    ) -> None:
        self._config, self._train, self._dev, self._teacher = config, train, dev, teacher
        self._weight_C = class_weights(train, classes, config.class_weights)
        self._batch = automatic_batch(train) if config.batch == "auto" else config.batch

    @property
    def steps(self) -> int:
        return -(-len(self._train) // self._batch)

    def epoch(self, number: int, rank: int, world: int) -> Iterator[Step]:
        for numbers in batches(self._train, self._batch, self._config.seed, number):
            yield Step([self._part(numbers, number, rank, world)], sum(len(self._train[n]) for n in numbers))

    def score(self, model: DialogueModel, sharded: bool) -> float:
        predictions = predict(model, self._dev, sharded=sharded)
        return weighted_f1(scored(model, predictions, calibrate(model, [predictions])))

    def _part(self, numbers: Sequence[int], epoch: int, rank: int, world: int) -> Part:
        """Losses are means over utterances, and the group averages gradients over processes: see Part.share."""
        mine = sorted(numbers, key=lambda n: -len(self._train[n]))[rank::world]
        shown = mine or numbers[:1]
        batch = collate([self._train[n] for n in shown])
        batch = hide_modalities(batch, shown, self._config.modality_dropout, self._config.seed, epoch)
        whole = self._mass(numbers)
        share = world * self._mass(mine) / max(whole, 1e-12) if world > 1 else 1.0
        teacher_BUC = None
        if self._teacher is not None:
            teacher_BUC = torch.nn.utils.rnn.pad_sequence([self._teacher[n] for n in shown], batch_first=True)
        return Part(batch, self._weight_C, share, whole, teacher_BUC)

    def _mass(self, numbers: Sequence[int]) -> float:
        """Labelled utterances of these dialogues, or the sum of their weights."""
        labels = [self._train[n].label_U for n in numbers]
        if not labels:
            return 0.0
        label_N = torch.cat(labels)
        label_N = label_N[label_N != IGNORED_LABEL]
        return float(len(label_N) if self._weight_C is None else self._weight_C[label_N].sum())


def automatic_batch(dialogues: Sequence[Dialogue]) -> int:
    """As many dialogues as hold UTTERANCES, so that a step learns from as much in every corpus."""
    return max(1, round(UTTERANCES * len(dialogues) / sum(map(len, dialogues))))


def batches(dialogues: Sequence[Dialogue], batch: int, seed: int, epoch: int) -> Iterator[list[int]]:
    return length_batches([len(one) for one in dialogues], batch, seed, epoch)


def length_batches(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Every dialogue once, in an order that (seed, epoch) decides; neighbours in length share a batch."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, 0))
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = batch * WINDOW
    groups: list[list[int]] = []
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda n: lengths[n])
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
