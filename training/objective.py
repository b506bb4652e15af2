"""What a step minimises: the seam between THE TRAINING LOOP (trainer.py) and the model that it trains.

The loop knows steps, schedule, averages, groups of processes and states; an objective knows how one part of a step
becomes a loss, and which parameters learn at which rate. So BCAF, bc-LSTM and the text encoder of the compact
checkpoint go through one loop.

Legend: B dialogues, U utterances, C classes.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import LoopConfig
from training.source import Part

Losses = tuple[Tensor, dict[str, Tensor]]  # what is minimised, and its parts by name, detached


class Group(NamedTuple):
    """Parameters that learn at `rate` times the run's learning rate."""

    parameters: Sequence[nn.Parameter]
    weight_decay: float
    rate: float = 1.0


class Objective(Protocol):
    """`names`: of the parts of the loss, `total` first. `precision` is the loop's autocast."""

    @property
    def names(self) -> Sequence[str]: ...

    def groups(self) -> Sequence[Group]: ...

    def __call__(
        self, runner: nn.Module, part: Any, device: torch.device, precision: AbstractContextManager[None]
    ) -> Losses:
        """The mean loss of `part`; `runner` is the model, or what wraps it in a group of processes."""
        ...


class DialogueObjective:
    """The model's own loss over dialogues (see BCAF.loss), and a teacher's logits beside the labels.

    `model` has `loss`, and inputs whose `feature_dropout` the configuration sets.
    """

    names = ("total", "connection", "audio", "text", "fused", "distillation")

    def __init__(self, model: Any, config: LoopConfig) -> None:
        self._model, self._config = model, config
        for layer in (model.audio_input, model.text_input):
            layer.feature_dropout = config.feature_dropout

    def groups(self) -> Sequence[Group]:
        return [Group(list(self._model.parameters()), self._config.l2)]

    def __call__(
        self, runner: nn.Module, part: Part, device: torch.device, precision: AbstractContextManager[None]
    ) -> Losses:
        batch = part.batch.to(device)
        weight_C = None if part.weight_C is None else part.weight_C.to(device, non_blocking=True)
        with precision:
            output = runner(
                batch.audio_BUA, batch.text_BUT, batch.mask_BU, batch.audio_present_BU, batch.text_present_BU
            )
            loss, parts = self._model.loss(output, batch.label_BU, batch.mask_BU, weight_C)
            if part.teacher_BUC is None or not self._config.distillation_weight:
                return loss, parts
            teacher_BUC = part.teacher_BUC.to(device, non_blocking=True)
            mask_BU = batch.mask_BU
            soft = distillation_loss(output.fused_BUC[mask_BU], teacher_BUC[mask_BU], self._config.temperature)
        return distilled(loss, soft, parts, self._config.distillation_weight)


def distilled(loss: Tensor, soft: Tensor, parts: Mapping[str, Tensor], weight: float) -> Losses:
    """Labels and teacher together; `weight` is the teacher's share."""
    loss = (1 - weight) * loss + weight * soft
    return loss, {**parts, "total": loss.detach(), "distillation": soft.detach()}


def distillation_loss(logits_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    """Cross-entropy with the teacher's probabilities, both softened (Hinton et al. 2015, "Distilling the Knowledge
    in a Neural Network", eq. 1), times the temperature squared, so that its gradients keep their size."""
    soft_NC = (teacher_NC.float() / temperature).softmax(-1)
    return temperature**2 * F.cross_entropy(logits_NC.float() / temperature, soft_NC)
