"""BCAF on the frozen encoders' vectors, one model per seed; the one that is best on dev becomes the checkpoint.

Vectors are standardised for training, and the standardisation is folded into the input projections
afterwards, so that the checkpoint takes the encoders' vectors as they are.

Legend: B dialogues, U utterances, C classes, D width of BCAF, X width of a modality's vectors.
"""

import copy
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcaf_stream.model.bcaf import BCAF, BCAFConfig
from bcaf_stream.model.decision import HEADS, Calibration, Case, CaseWeights, HeadLogits, fit_case
from bcaf_stream.model.inputs import ModalityInput
from training.compact.config import LABELS, FusionTraining
from training.compact.mixing import Material, Mixer, Voices, as_batch, draw_case, joined
from training.dialogues import Batch
from training.metrics import Scored, summary, weighted_f1
from training.predict import Predictions, scored

log = logging.getLogger(__name__)
WARM_UP = 100  # steps


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Mean and deviation per feature, of the training vectors."""

    mean_X: Tensor
    deviation_X: Tensor

    @staticmethod
    def of(vectors_NX: NDArray[np.float32]) -> "Scale":
        deviation_X = torch.from_numpy(vectors_NX.std(0))
        # A feature that hardly varies is not blown up.
        return Scale(
            torch.from_numpy(vectors_NX.mean(0)), deviation_X.clamp_min(0.05 * float(deviation_X.median()))
        )

    def fold_into(self, door: ModalityInput) -> None:
        projection = door.projection
        assert isinstance(projection, nn.Linear), "an encoder of BCAF's own width has no projection to fold into"
        with torch.no_grad():
            projection.weight.div_(self.deviation_X)
            projection.bias.sub_(projection.weight @ self.mean_X)

    def apply(self, x_BUX: Tensor) -> Tensor:
        return (x_BUX - self.mean_X) / self.deviation_X


class Fusion:
    """Trains one seed on `train`, chooses the epoch on `dev`, and fits the decision there."""

    def __init__(self, config: FusionTraining, train: Material, dev: Material, seed: int) -> None:
        torch.manual_seed(seed)
        self._config, self._train, self._dev = config, train, dev
        self._dice = random.Random(seed)
        self._mixer = Mixer(train.voices, seed, config.mismatch)
        self._audio = Scale.of(train.voices.vectors_VNA.reshape(-1, train.voices.vectors_VNA.shape[-1]))
        self._text = Scale.of(np.concatenate([script.vectors_VUT[0] for script in train.scripts]))
        self._text_width = len(self._text.mean_X)
        self.model = BCAF(
            BCAFConfig(
                labels=LABELS,
                audio_width=len(self._audio.mean_X),
                text_width=self._text_width,
                width=config.width,
                latent=config.width // 2,
                layers=config.layers,
                heads=config.heads,
                feed_forward=2 * config.width,
                dropout=config.dropout,
                context=config.context,
            )
        )
        self.best = 0.0

    def run(self) -> tuple[BCAF, Calibration]:
        config = self._config
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        steps = config.epochs * (len(self._train.scripts) // config.batch)
        kept, step = copy.deepcopy(self.model.state_dict()), 0
        for epoch in range(config.epochs):
            self.model.train()
            total = 0.0
            for batch in self._batches():
                step += 1
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * min(1.0, step / WARM_UP) * (1 - step / (steps + 1))
                total += self._step(batch, optimizer) * config.epochs / steps
            found = self._on_dev()
            mean = float(np.mean(list(found.values())))
            shown = {name: round(100 * score, 2) for name, score in found.items()}
            log.info("fusion epoch %d: loss %.3f, dev %s, mean %.4f", epoch, total, shown, mean)
            if mean > self.best:
                self.best, kept = mean, copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(kept)
        self._audio.fold_into(self.model.audio_input)
        self._text.fold_into(self.model.text_input)
        self.model.eval()
        return self.model, fit_decision(self.model, self._dev, config.decision_mismatch)

    def _batches(self) -> list[list[Batch]]:
        order, size = list(self._train.scripts), self._config.batch
        self._dice.shuffle(order)
        batches = []
        for at in range(0, len(order) - size + 1, size):
            dialogues = [self._mixer.spoken(s, draw_case(self._dice, self._config)) for s in order[at : at + size]]
            alone = round(size * self._config.clips_alone)
            batches.append(dialogues + [self._mixer.clips_alone(self._text_width) for _ in range(alone)])
        return batches

    def _step(self, dialogues: list[Batch], optimizer: torch.optim.Optimizer) -> float:
        batch = joined(dialogues)
        drop = self._config.feature_dropout
        audio_BUA = nn.functional.dropout(self._audio.apply(batch.audio_BUA), drop)
        text_BUT = nn.functional.dropout(self._text.apply(batch.text_BUT), drop)
        output = self.model(audio_BUA, text_BUT, batch.mask_BU, batch.audio_present_BU, batch.text_present_BU)
        loss, _ = self.model.loss(output, batch.label_BU, batch.mask_BU)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    def _on_dev(self) -> dict[str, float]:
        """Weighted F1 with words alone and with both, unweighted recall of clips alone; heads alike."""
        probe = copy.deepcopy(self.model)
        self._audio.fold_into(probe.audio_input)
        self._text.fold_into(probe.text_input)
        probe.eval()
        calibration = Calibration.unfitted("weighted")
        found = {
            case: weighted_f1(scored(probe, speak(probe, spoken(self._dev, case)), calibration))
            for case in ("text_only", "both")
        }
        clips = scored(probe, speak(probe, single_clips(self._dev.voices, self._text_width)), calibration)
        return found | {"clips": summary(clips, draws=2)["unweighted_recall"]}


def spoken(material: Material, case: Case, seed: int = 0, mismatch: float = 0.0) -> list[Batch]:
    """MELD's dialogues in that case of presence, joined with clips, the same ones each time.

    The clips have the utterances' labels, but for a share of `mismatch`, which have any.
    """
    mixer = Mixer(material.voices, seed, mismatch)
    return [mixer.spoken(script, case) for script in material.scripts]


def single_clips(voices: Voices, text_width: int, view: int | None = None) -> list[Batch]:
    """Every clip as a dialogue of its own, in one view, or in all of them."""
    views = range(len(voices.vectors_VNA)) if view is None else (view,)
    nothing_1T, there = np.zeros((1, text_width), dtype=np.float32), np.ones(1, dtype=bool)
    return [
        as_batch(voices.vectors_VNA[v, i : i + 1], nothing_1T, voices.labels_N[i : i + 1], there, ~there)
        for v in views
        for i in range(len(voices))
    ]


@torch.inference_mode()
def speak(model: BCAF, dialogues: Sequence[Batch]) -> Predictions:
    """Logits of all utterances of `dialogues`."""
    order = sorted(range(len(dialogues)), key=lambda i: dialogues[i].mask_BU.shape[1])
    parts = []
    for at in range(0, len(order), 32):
        numbers = order[at : at + 32]
        batch = joined([dialogues[i] for i in numbers])
        output = model(*batch[:5])
        keep_BU = batch.mask_BU
        call_BU = torch.tensor(numbers)[:, None].expand_as(keep_BU)
        columns = (
            output.audio_BUC, output.text_BUC, output.fused_BUC,
            batch.audio_present_BU, batch.text_present_BU, batch.label_BU, call_BU,
        )  # fmt: skip
        parts.append(Predictions(*(x[keep_BU] for x in columns)))
    whole = Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return whole.where(torch.argsort(whole.call_N, stable=True))


def fit_decision(model: BCAF, dev: Material, mismatch: float) -> Calibration:
    """Weights and temperature of each case of presence, on dev.

    With `mismatch`, because acted clips that always fit their words would teach the decision to believe sound
    more than a real call deserves, and more surely.
    """
    fitted: dict[Case, CaseWeights] = {}
    for case in HEADS:
        found = speak(model, spoken(dev, case, mismatch=mismatch))
        fitted[case] = fit_case(HeadLogits(found.audio_NC, found.text_NC, found.fused_NC), found.label_N, case)
    return Calibration(**fitted)


def judge(model: BCAF, calibration: Calibration, dialogues: Sequence[Batch]) -> Scored:
    """Calibrated predictions beside the truth."""
    return scored(model, speak(model, dialogues), calibration)
