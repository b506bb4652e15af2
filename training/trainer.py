"""THE TRAINING LOOP: plain PyTorch, one process or one of a group; Ray only starts it and keeps its state.

Whatever is trained goes through it: a data source gives each step's parts (source.py), an objective makes losses
of them (objective.py).

What is unusual: nothing random depends on what ran before (see source.py; the dropout of an epoch follows from its
seed and number too), so a resumed run computes what an uninterrupted one would have. `batch` counts the dialogues
of one optimiser step over all workers, so their number changes the speed and not what is learned: only dropout is
drawn by each, and the connection loss taken over each one's part.

Nothing in a step waits for a GPU: losses are summed there, and whether all were finite is asked once in INTERVAL
steps and before the epoch counts. So the weights in memory may be spoiled when a loss was not finite, but neither
the best ones nor a stored state ever are. On a CPU, where asking is free, every step is asked before its update.

Legend: P parts of the loss.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bcaf_stream.errors import ModelError
from training.config import LoopConfig
from training.objective import DialogueObjective, Objective
from training.source import DataSource, Step, derive_seed

INTERVAL = 50  # steps between two looks at what a GPU has summed
Record = dict[str, Any]  # one epoch, in plain values
M = TypeVar("M", bound=nn.Module)


class Trainer(Generic[M]):
    """Trains `model` on what `source` gives, watches its score on dev, and remembers the best (or last) weights.

    `interval`: steps between two looks whether all was finite; None = 1 on a CPU, INTERVAL on a GPU. `objective`:
    what a step minimises; None = the loss of a model over dialogues.
    In a process group (torch.distributed) every process builds the same Trainer and calls it alike.

    Raises:
        ModelError: a loss or gradient that is not finite; the epoch does not count, and its weights are not kept.
    """

    def __init__(
        self,
        model: M,
        config: LoopConfig,
        source: DataSource[M],
        device: torch.device | str = "cpu",
        interval: int | None = None,
        objective: Objective | None = None,
    ) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.config = config
        self._objective: Objective = objective or DialogueObjective(self.model, config)
        self._source = source
        self._interval = interval or (INTERVAL if self.device.type == "cuda" else 1)
        self._runner: nn.Module = self.model
        if self.world > 1:
            self._runner = DistributedDataParallel(
                self.model, gradient_as_bucket_view=True, forward_sync_buffers=False
            )
        make = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        groups = [
            {"params": list(one.parameters), "weight_decay": one.weight_decay, "rate": one.rate}
            for one in self._objective.groups()
        ]
        self._optimizer = make(groups, lr=config.learning_rate, fused=True)
        self._mean: AveragedModel | None = None
        if config.ema_decay:
            self._mean = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
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
        """The epoch whose weights are kept: the first with the best dev score, or the last; 0 = none yet."""
        if not self.history or self.config.keep == "last":
            return self.epoch
        return int(max(self.history, key=lambda record: record["dev_weighted_f1"])["epoch"])

    @property
    def done(self) -> bool:
        return self.epoch >= self.config.epochs or self.epoch - self.best_epoch >= self.config.patience

    def run_epoch(self) -> Record:
        """One pass over train and one over dev; returns what happened, and appends it to `history`."""
        started, number = time.perf_counter(), self.epoch + 1
        parts, utterances = self._train_pass(number)
        trained = time.perf_counter() - started
        record = {
            "epoch": number,
            **{f"train_{name}": value for name, value in parts.items()},
            "dev_weighted_f1": self._source.score(self._averaged(), self.world > 1),
            "utterances_per_s": round(utterances / trained, 1),
            "seconds": round(time.perf_counter() - started, 3),
            "workers": self.world,
        }
        self.history.append(record)
        if self.best_epoch == number:
            state = self._averaged().state_dict()
            self._best = {name: value.detach().cpu().clone() for name, value in state.items()}
        return record

    def best_model(self) -> M:
        """The model with the weights that are kept, in evaluation mode."""
        self.model.load_state_dict(self._best or self.model.state_dict())
        return self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "mean": None if self._mean is None else self._mean.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "history": self.history,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self._mean is not None:
            self._mean.load_state_dict(state["mean"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = dict(state["best"])
        self.history = list(state["history"])

    def _averaged(self) -> M:
        """The running mean of the weights, once it has begun."""
        if self._mean is None or not int(self._mean.n_averaged):
            return self.model
        return cast(M, self._mean.module)

    def _train_pass(self, epoch: int) -> tuple[dict[str, float], int]:
        self.model.train()
        torch.manual_seed(derive_seed(self.config.seed, epoch, 1 + self.rank))
        sums = _Sums(self._objective.names, self.device)
        utterances = 0
        for number, step in enumerate(self._source.epoch(epoch, self.rank, self.world), 1):
            now = rate(self.config, (epoch - 1) * self._source.steps + number, self._source.steps)
            for group in self._optimizer.param_groups:
                group["lr"] = now * group["rate"]
            self._backward(step, sums)
            norm = self._clipped()
            # After the backward pass, because there the group has shared what one process found.
            sums.note(number, norm)
            if number % self._interval == 0:
                self._check(epoch, sums)
            self._optimizer.step()
            if self._mean is not None and (epoch - 1) * self._source.steps + number >= self.config.warm_up:
                self._mean.update_parameters(self.model)
            utterances += step.utterances
        self._check(epoch, sums)
        return sums.means(self.world), utterances

    def _backward(self, step: Step, sums: "_Sums") -> None:
        """Gradients of the mean over the step's parts; the group exchanges them once, with the last part."""
        self._optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(step.parts, 1):
            last = number == len(step.parts)
            alone = isinstance(self._runner, DistributedDataParallel) and not last
            with self._runner.no_sync() if alone else nullcontext():  # type: ignore[operator]
                loss, parts = self._objective(self._runner, part, self.device, self._precision())
                (loss * (part.share / len(step.parts))).backward()
            sums.add(parts, part.share, part.mass)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16)

    def _clipped(self) -> Tensor:
        """The gradient's norm before it was clipped; without `clip` nothing is written."""
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        if self.config.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip, norm)
        return norm

    def _check(self, epoch: int, sums: "_Sums") -> None:
        step, shown = sums.first_bad()
        if step:
            raise ModelError(_not_finite(epoch, step, shown, self.model))


class _Sums:
    """The parts of the loss summed on the device, and the first step at which something was not finite."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._all, self._names = names, set[str]()
        self._total_P = torch.zeros(len(names), dtype=torch.float64, device=device)
        self._zero = torch.zeros((), device=device)
        self._last_P = self._total_P
        self._step_P = self._total_P  # of the first bad step, what the parts were
        self._bad = torch.zeros((), dtype=torch.long, device=device)
        self._mass = 0.0

    def add(self, parts: Mapping[str, Tensor], share: float, mass: float) -> None:
        self._last_P = torch.stack([parts.get(name, self._zero).double() for name in self._all])
        self._names |= parts.keys()
        self._total_P += self._last_P * (share * mass)
        self._mass += mass

    def note(self, step: int, norm: Tensor) -> None:
        bad = ~(torch.isfinite(self._last_P).all() & torch.isfinite(norm)) & (self._bad == 0)
        self._bad += bad * step
        self._step_P = torch.where(bad, self._last_P, self._step_P)

    def first_bad(self) -> tuple[int, dict[str, float]]:
        """Its number, 0 = none, and its losses. This waits for the device."""
        step = int(self._bad)
        return step, self._named(self._step_P) if step else {}

    def means(self, world: int) -> dict[str, float]:
        """Over all processes."""
        total_P = self._total_P.clone()
        if world > 1:
            dist.all_reduce(total_P)
        return self._named(total_P / max(self._mass, 1e-12) / world)

    def _named(self, value_P: Tensor) -> dict[str, float]:
        return {name: x for name, x in zip(self._all, value_P.tolist(), strict=True) if name in self._names}


def rate(config: LoopConfig, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 1) of a run whose epochs have `steps` each."""
    warm = min(1.0, step / config.warm_up) if config.warm_up else 1.0
    if config.schedule == "constant":
        return config.learning_rate * warm
    return config.learning_rate * warm * (1 - step / (config.epochs * steps + 1))


def _not_finite(epoch: int, step: int, parts: Mapping[str, float], model: nn.Module) -> str:
    form = getattr(getattr(model, "config", None), "connection_form", None)
    shown = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
    why = "connection_form: printed is unbounded below; use stable" if form == "printed" else "lower learning_rate"
    return f"the loss is not finite in epoch {epoch}, step {step} ({shown}); its weights are not kept; {why}"
