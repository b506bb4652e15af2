"""A checkpoint fitted to somebody's own calls: the network learns on from where it stands, the encoders stay.

Before and after are judged on utterances that were not learned from: the test split where the manifest has one,
else dev, which then also chose the epoch and the decision and flatters the latter. What is not better is refused.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bcaf_stream.errors import ModelError
from bcaf_stream.model.checkpoint import Checkpoint, EncoderSpec, find_checkpoint, load_checkpoint
from training.config import TrainConfig
from training.datasets.manifest import SPLITS, Split, read_manifest
from training.evaluate import Progress, Subject, evaluate, open_subject
from training.fit import OnData, OnEpoch, fit_here
from training.log import make_folder, writing
from training.metrics import Scored, paired_difference

FILE_NAME = "adapt.yaml"
LOOP: Mapping[str, Any] = {  # small steps from weights that are good already, on little data
    "epochs": 30,
    "patience": 8,
    "batch": "auto",
    "learning_rate": 2e-4,
    "optimizer": "adamw",
    "l2": 0.01,
    "clip": 1.0,
    "warm_up": 10,
    "ema_decay": 0.9,
    "class_weights": "sqrt",
}


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """`before` and `after` by view, on `split`; `difference` of the weighted F1 of the first view, see metrics."""

    split: Split
    before: Mapping[str, Scored]
    after: Mapping[str, Scored]
    difference: Mapping[str, float]
    folder: Path


def write_adaptation(checkpoint: str, manifest: Path, out: Path) -> Path:
    """The training run that goes on from `checkpoint`, as a configuration in `out`, which `fit` would take too.

    Raises:
        CheckpointError: it cannot be loaded.
        DataError: `out` cannot be written.
    """
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    data = {
        "name": out.absolute().name,
        "out": str(out),
        "data": {"manifest": str(manifest), "modalities": list(loaded.encoders.modalities)},
        "encoders": _encoders(loaded),
        "encoders_from": str(loaded.folder),
        "init": str(loaded.folder),
        "model": loaded.model.config.model_dump(mode="json"),
        "loop": dict(LOOP),
    }
    make_folder(out)
    path = out / FILE_NAME
    with writing(out):
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def adapt(
    config: TrainConfig,
    on_epoch: OnEpoch = lambda record: None,
    on_data: OnData = lambda data: None,
    progress: Progress = iter,
) -> Adapted:
    """Encode what has no vectors yet, train, and compare. A checkpoint that is not better is taken away again.

    Raises:
        ModelError: the adapted weights are not better.
        DataError, CheckpointError, EncoderError: see open_subject and fit_here.
    """
    assert config.init is not None, "an adaptation starts from a checkpoint"
    manifest = Path(config.data.manifest)
    there = [split for split in SPLITS if read_manifest(manifest).split(split)]
    subjects = {one: open_subject(config.init, manifest, one, progress=progress) for one in there}
    folder = _fit(config, on_epoch, on_data)
    split: Split = "test" if "test" in subjects else "dev"
    before = _scores(subjects[split], subjects[split].checkpoint)
    after = _scores(subjects[split], load_checkpoint(folder))
    shown = next(iter(before))
    difference = paired_difference([before[shown]], [after[shown]])
    if difference["difference"] <= 0:
        shutil.rmtree(folder)
        raise ModelError(
            f"{config.out}: not adapted: the weighted F1 on {split} would change by "
            f"{100 * difference['difference']:+.1f} points ({100 * difference['low']:+.1f} to "
            f"{100 * difference['high']:+.1f}); use {config.init} as it is, or give more labelled calls"
        )
    return Adapted(split, before, after, difference, folder)


def _fit(config: TrainConfig, on_epoch: OnEpoch, on_data: OnData) -> Path:
    if config.ray.num_workers == 0:
        return fit_here(config, on_epoch, on_data)
    from training.ray_train import fit_on_ray

    return fit_on_ray(config, on_epoch, on_data)


def _scores(subject: Subject, checkpoint: Checkpoint) -> dict[str, Scored]:
    """In the mode that the checkpoint is for."""
    same = Subject(checkpoint, subject.manifest, subject.dialogues)
    mode = checkpoint.model.config.mode
    return evaluate(same, (mode,))[mode]


def _encoders(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Those of the checkpoint as a configuration; None for vectors that are given."""
    found: dict[str, Any] = {
        name: _encoder(checkpoint.encoders.of(name)) for name in checkpoint.encoders.modalities
    }
    return found if any(found.values()) else None


def _encoder(spec: EncoderSpec | None) -> dict[str, Any] | None:
    if spec is None or spec.kind not in ("compact", "pretrained"):
        return None
    if spec.kind == "compact":
        return {"kind": "compact", **spec.options}
    return {"kind": "pretrained", "model": spec.name, **spec.options}
