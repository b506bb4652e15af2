"""BCAF on the frozen encoders' vectors, one model per seed; the one that is best on dev becomes the checkpoint.

Vectors are standardised for training, and the standardisation is folded into the input projections
afterwards, so that the checkpoint takes the encoders' vectors as they are.

Legend: B dialogues, U utterances, C classes, D width of BCAF, X width of a modality's vectors.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.model.decision import HEADS, Calibration, Case, CaseWeights, fit_case
from bcaf_stream.model.inputs import ModalityInput
from training.compact.clips import ANCHORS
from training.compact.config import LABELS, FusionTraining
from training.compact.mixing import (
    NEUTRAL,
    CompactSplit,
    Mixer,
    Script,
    Sound,
    Voices,
    as_batch,
    draw_case,
    draw_sound,
    joined,
)
from training.config import LoopConfig
from training.dialogues import Batch
from training.log import shown
from training.metrics import Scored, weighted_f1
from training.predict import Predictions, calibrate, scored
from training.source import Part, Step, derive_seed
from training.trainer import Trainer
from training.voice import fit_voice

log = logging.getLogger(__name__)
WARM_UP = 100  # steps
FEWEST_CLIPS = 3  # of one speaker and emotion, for a mean that says something


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Mean and deviation per feature, of the training vectors, and directions to take out, orthonormal rows."""

    mean_X: Tensor
    deviation_X: Tensor
    removed_KX: Tensor

    @staticmethod
    def of(vectors_NX: NDArray[np.float32]) -> "Scale":
        deviation_X = torch.from_numpy(vectors_NX.std(0))
        # A feature that hardly varies is not blown up.
        deviation_X = deviation_X.clamp_min(0.05 * float(deviation_X.median()))
        return Scale(torch.from_numpy(vectors_NX.mean(0)), deviation_X, torch.zeros(0, len(deviation_X)))

    @staticmethod
    def of_voices(voices: Voices, removed_directions: int) -> "Scale":
        """Without the directions in which speakers (and their rooms) differ most with the same emotion."""
        plain = Scale.of(voices.vectors_VNA.reshape(-1, voices.vectors_VNA.shape[-1]))
        vectors_NX = plain.apply(torch.from_numpy(voices.vectors_VNA.mean(0)))
        apart = []
        for label in set(voices.labels_N):
            same_N = voices.labels_N == label
            middle_X = vectors_NX[torch.from_numpy(same_N)].mean(0)
            for speaker in sorted(set(voices.speakers_N[same_N])):
                own_N = torch.from_numpy(same_N & (voices.speakers_N == speaker))
                if own_N.sum() >= FEWEST_CLIPS:
                    apart.append(vectors_NX[own_N].mean(0) - middle_X)
        if not removed_directions:
            return plain
        directions_XX = torch.linalg.svd(torch.stack(apart), full_matrices=False).Vh
        return replace(plain, removed_KX=directions_XX[:removed_directions])

    def fold_into(self, layer: ModalityInput) -> None:
        projection = layer.projection
        assert isinstance(projection, nn.Linear), "an encoder of BCAF's own width has no projection to fold into"
        with torch.no_grad():
            projection.weight.sub_(projection.weight @ self.removed_KX.T @ self.removed_KX)
            projection.weight.div_(self.deviation_X)
            projection.bias.sub_(projection.weight @ self.mean_X)

    def apply(self, x_BUX: Tensor) -> Tensor:
        x_BUX = (x_BUX - self.mean_X) / self.deviation_X
        return x_BUX - x_BUX @ self.removed_KX.T @ self.removed_KX


class MixedSource:
    """Dialogues of MELD and dialogues of clips, as Mixer draws them: two parts of each step.

    They are apart because the latter are much shorter, and because the words of MELD are mostly neutral and clips
    are not: only there do the classes need weights. Vectors come standardised.
    """

    def __init__(self, config: FusionTraining, train: CompactSplit, dev: CompactSplit, seed: int) -> None:
        self._config, self._train, self._dev, self._seed = config, train, dev, seed
        self.audio = Scale.of_voices(train.voices, config.removed_directions)
        self.text = Scale.of(np.concatenate([script.vectors_VUT[0] for script in train.scripts]))
        count_C = np.bincount(np.concatenate([s.labels_U for s in train.scripts]), minlength=len(LABELS))
        self.weight_C = torch.from_numpy((count_C.clip(1) ** -config.class_weight_power).astype(np.float32))

    @property
    def steps(self) -> int:
        return len(self._train.scripts) // self._config.batch

    def epoch(self, number: int, rank: int, world: int) -> Iterator[Step]:
        """All processes draw the same dialogues, and each takes its share of them."""
        config, size = self._config, self._config.batch
        rng = random.Random(derive_seed(self._seed, number, 0))
        mixer = Mixer(self._train, config.corpora, derive_seed(self._seed, number, 1))
        order = list(self._train.scripts)
        rng.shuffle(order)
        for at in range(0, len(order) - size + 1, size):
            dialogues = [
                mixer.spoken(script, draw_case(rng, config), draw_sound(rng, config))
                for script in order[at : at + size]
            ]
            clips = [mixer.clips(worded=False) for _ in range(round(size * config.clips))]
            clips += [mixer.clips(worded=True) for _ in range(round(size * config.worded))]
            parts = [self._part(dialogues, self.weight_C, rank, world)]
            parts += [self._part(clips, None, rank, world)] if clips else []
            yield Step(parts, sum(one.mask_BU.shape[1] for one in dialogues + clips))

    def score(self, model: BCAF, sharded: bool) -> float:
        """On the words of MELD, with clips that fit them; every process does all of it."""
        was_training = model.training
        predictions = speak(model.eval(), [self._standardized(one) for one in spoken(self._dev, "both")])
        model.train(was_training)
        return weighted_f1(scored(model, predictions, calibrate(model, [predictions])))

    def _part(self, drawn: Sequence[Batch], weight_C: Tensor | None, rank: int, world: int) -> Part:
        mine = sorted(drawn, key=lambda one: -one.mask_BU.shape[1])[rank::world] if world > 1 else drawn
        whole, own = (sum(_mass(one, weight_C) for one in some) for some in (drawn, mine))
        share = world * own / max(whole, 1e-12) if world > 1 else 1.0
        return Part(self._standardized(joined(mine or drawn[:1])), weight_C, share, whole)

    def _standardized(self, batch: Batch) -> Batch:
        return batch._replace(
            audio_BUA=self.audio.apply(batch.audio_BUA), text_BUT=self.text.apply(batch.text_BUT)
        )


def _mass(batch: Batch, weight_C: Tensor | None) -> float:
    label_N = batch.label_BU[batch.mask_BU]
    return float(len(label_N) if weight_C is None else weight_C[label_N].sum())


def build_fusion(config: FusionTraining, train: CompactSplit, dev: CompactSplit, seed: int) -> Trainer[BCAF]:
    """The one trainer on the mixture; the running mean of the weights after the last epoch is what is kept."""
    source = MixedSource(config, train, dev, seed)
    torch.manual_seed(seed)
    model = BCAF(
        BCAFConfig(
            labels=LABELS,
            audio_width=len(source.audio.mean_X),
            text_width=len(source.text.mean_X),
            width=config.width,
            latent=config.width // 2,
            layers=config.layers,
            heads=config.heads,
            feed_forward=2 * config.width,
            dropout=config.dropout,
            context=config.context,
        )
    )
    loop = LoopConfig(
        epochs=config.epochs,
        batch=config.batch,
        learning_rate=config.learning_rate,
        optimizer="adamw",
        l2=config.weight_decay,
        clip=1.0,
        schedule="linear",
        warm_up=WARM_UP,
        ema_decay=config.ema_decay,
        feature_dropout=config.feature_dropout,
        keep="last",
        seed=seed,
    )
    return Trainer(model, loop, source)


def train_fusion(
    config: FusionTraining, train: CompactSplit, dev: CompactSplit, seed: int
) -> tuple[BCAF, Calibration]:
    """One seed; the checkpoint takes the encoders' vectors as they are; dev fits decision and voices' prior."""
    trainer = build_fusion(config, train, dev, seed)
    while not trainer.done:
        record = trainer.run_epoch()
        log.info("fusion, seed %d: %s", seed, shown(record))
    model = trainer.best_model()
    source = MixedSource(config, train, dev, seed)
    source.audio.fold_into(model.audio_input)
    source.text.fold_into(model.text_input)
    calibration = fit_decision(model, dev, config)
    corpora = sorted(set(dev.voices.corpora_N) - {ANCHORS})
    heard = [
        judge(model, calibration, single_clips(dev.voices.where(dev.voices.corpora_N == one))) for one in corpora
    ]
    return model, calibration.model_copy(update={"voice": fit_voice(heard)})


def spoken(
    data: CompactSplit, case: Case, sound: Sound = "matched", config: FusionTraining = FusionTraining()
) -> list[Batch]:
    """MELD's dialogues in that case of presence, joined with clips, the same ones each time."""
    mixer = Mixer(data, config.corpora, seed=0)
    return [mixer.spoken(script, case, sound) for script in data.scripts]


def single_clips(
    voices: Voices, view: int | None = None, words_NT: NDArray[np.float32] | None = None
) -> list[Batch]:
    """Every clip as a dialogue of its own, in one view, or in all of them; without words, or with these."""
    views = range(len(voices.vectors_VNA)) if view is None else (view,)
    there = np.ones(1, dtype=bool)
    spoken_NT = voices.words_NT if words_NT is None else words_NT
    return [
        as_batch(
            voices.vectors_VNA[v, i : i + 1],
            spoken_NT[i : i + 1],
            voices.labels_N[i : i + 1],
            there,
            there & (words_NT is not None),
        )
        for v in views
        for i in range(len(voices))
    ]


def neutral_lines(scripts: Sequence[Script], many: int) -> NDArray[np.float32]:
    """Vectors (many, T) of neutral utterances of MELD, evenly spread."""
    lines_KT = np.concatenate([script.vectors_VUT[0, script.labels_U == NEUTRAL] for script in scripts])
    return lines_KT[np.linspace(0, len(lines_KT) - 1, many).astype(int)]


@torch.inference_mode()
def speak(model: BCAF, dialogues: Sequence[Batch]) -> Predictions:
    """Logits of all utterances of `dialogues`."""
    order = sorted(range(len(dialogues)), key=lambda i: dialogues[i].mask_BU.shape[1])
    parts = []
    for at in range(0, len(order), 32):
        numbers = order[at : at + 32]
        batch = joined([dialogues[i] for i in numbers])
        output = model(*batch[:5])
        parts.append(Predictions.of(output, batch, torch.tensor(numbers)))
    whole = Predictions.joined(parts)
    return whole.where(torch.argsort(whole.call_N, stable=True))


def fit_decision(model: BCAF, dev: CompactSplit, config: FusionTraining) -> Calibration:
    """Weights and temperature of each case of presence, on dev, over every kind of sound that training has.

    Acted clips that always fit their words would alone teach the decision to believe sound more, and more
    surely, than a real call deserves.
    """
    fitted: dict[Case, CaseWeights] = {}
    worded = dev.voices.where(dev.voices.said_N)
    for case in HEADS:
        dialogues = spoken(dev, case, "matched", config)
        if case != "text_only":
            dialogues += spoken(dev, case, "half", config)
        if case == "audio_only":
            dialogues += single_clips(dev.voices)
        if case == "both":
            dialogues = 2 * dialogues + spoken(dev, case, "everyday", config)
            for words_NT in (worded.words_NT, neutral_lines(dev.scripts, len(worded))):
                dialogues += single_clips(worded, words_NT=words_NT)
        found = speak(model, dialogues)
        fitted[case] = fit_case(found.heads, found.label_N, case)
    return Calibration.model_validate(fitted)


def judge(model: BCAF, calibration: Calibration, dialogues: Sequence[Batch]) -> Scored:
    """Calibrated predictions beside the truth."""
    return scored(model, speak(model, dialogues), calibration)
