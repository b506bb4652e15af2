"""A whole run: data, loop, checkpoint. In this process here; `training/ray_train.py` spreads the loop."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcaf_stream.errors import CheckpointError, DataError
from bcaf_stream.model.bcaf import BCAF, build_model
from bcaf_stream.model.checkpoint import (
    ENCODERS_NAME,
    EncoderSpecs,
    find_checkpoint,
    load_calibration,
    load_checkpoint,
    save_checkpoint,
)
from bcaf_stream.model.inputs import ModalityInput, scale_of
from training.card import model_card
from training.config import TrainConfig
from training.dialogues import vectors_of
from training.linear import FILE_NAME, fit_floor
from training.log import EpochLog, writing
from training.metrics import summary
from training.predict import VIEW_OF, DialogueModel, calibrate_on, fused_logits, predict, scored
from training.source import DialogueSource
from training.state import load_state, save_state
from training.trainer import Record, Trainer
from training.training_data import MODALITIES, TrainingData, load_training_data
from training.voice import fit_voice

CHECKPOINT = "checkpoint"
RESULTS = "results.json"
OnData = Callable[[TrainingData], None]
OnEpoch = Callable[[Record], None]


def fit_here(
    config: TrainConfig,
    on_epoch: OnEpoch = lambda record: None,
    on_data: OnData = lambda data: None,
    floor: bool = True,
) -> Path:
    """Train in this process; resumes what lies in `config.out`. Returns the checkpoint's folder.

    `on_data` sees the data before anything is trained. `floor`: fit the linear floor too (see linear.py).

    Raises:
        DataError, CheckpointError, ModelError: see load_training_data, build_trainer, Trainer, save_state.
    """
    data = load_training_data(config)
    on_data(data)
    trainer = build_trainer(config, data, device_for(config.ray.use_gpu))
    state = load_state(config.folder, data.identity)
    if state is not None:
        trainer.load_state_dict(state)
    log = EpochLog(config.folder, kept=trainer.history)
    try:
        while not trainer.done:
            record = trainer.run_epoch()
            save_state(trainer, data.identity, config.folder)
            log.add(record)
            on_epoch(record)
    finally:
        log.close()
    return finish(config, data, trainer, floor)


def build_trainer(config: TrainConfig, data: TrainingData, device: torch.device) -> Trainer[DialogueModel]:
    """The trainer at its first epoch: every process and every run builds the same weights from the seed.

    Raises:
        CheckpointError: the weights to start from, or to learn from, have other labels or another shape.
    """
    start = None if config.init is None else load_checkpoint(find_checkpoint(config.init))
    standardize = config.data.standardize if start is None else start.model.config.standardize
    torch.manual_seed(config.loop.seed)
    model = build_model(config.model.model_copy(update={"standardize": standardize}))
    if start is not None:
        if start.labels != config.model.labels:
            raise CheckpointError(
                f"{start.folder}: was trained on the labels {', '.join(start.labels)}, "
                f"not on {', '.join(config.model.labels)}; start from another checkpoint, or from none"
            )
        try:
            model.load_state_dict(start.model.state_dict())
        except RuntimeError:
            raise CheckpointError(f"{start.folder}: has another architecture than model: says") from None
    elif standardize:
        for modality in MODALITIES:
            layer: ModalityInput = getattr(model, f"{modality}_input")
            layer.set_scale(*scale_of(vectors_of(data.train, modality)))
    teacher = None if config.teacher is None else _teacher_logits(config, data)
    source = DialogueSource(config.loop, config.model.classes, data.train, data.dev, teacher)
    return Trainer(model, config.loop, source, device)


def _teacher_logits(config: TrainConfig, data: TrainingData) -> list[Tensor]:
    """What the teacher's fused head says of each train dialogue, (U, C)."""
    assert config.teacher is not None
    teacher = load_checkpoint(find_checkpoint(config.teacher))
    taken = (teacher.labels, teacher.model.config.audio_width, teacher.model.config.text_width)
    if taken != (config.model.labels, config.model.audio_width, config.model.text_width):
        raise CheckpointError(
            f"{teacher.folder}: cannot teach: its labels or the widths of its vectors are not those of model:"
        )
    return [fused_logits(teacher.model, dialogue) for dialogue in data.train]


def device_for(use_gpu: bool) -> torch.device:
    if use_gpu and not torch.cuda.is_available():
        raise DataError("ray.use_gpu is set and there is no GPU here; set it to false")
    return torch.device("cuda" if use_gpu else "cpu")


def finish(config: TrainConfig, data: TrainingData, trainer: Trainer[DialogueModel], floor: bool = True) -> Path:
    """Fit the decision of the best weights on dev; write the checkpoint with its card, and `results.json`.

    The floor lies in the checkpoint, so that whatever scores the one scores the other on the same utterances; a
    linear path is made of it.
    """
    model = trainer.best_model()
    with_path = isinstance(model, BCAF) and model.linear_path is not None
    linear = fit_floor(config.model.labels, data.train, data.dev) if floor or with_path else None
    if linear is not None and isinstance(model, BCAF):
        linear.install(model)
    calibration = calibrate_on(model, data.dev)
    if config.init is not None:  # measured on other speech than dev, and still about these labels
        known = load_calibration(find_checkpoint(config.init))
        kept = {"decided_from": known.decided_from, "affect": known.affect}
        calibration = calibration.model_copy(update=kept)
        if known.voice is not None:
            heard = scored(model, predict(model, data.dev, "audio"), calibration)
            calibration = calibration.model_copy(update={"voice": fit_voice([heard], known.voice)})
    numbers: dict[str, Any] = {}
    views = VIEW_OF.values() if len(config.data.modalities) > 1 else config.data.modalities
    for view in views:
        found = predict(model, data.dev, view)
        if len(found.label_N):
            numbers[view] = summary(scored(model, found, calibration))
    beside = {view: summary(one) for view, one in linear.score(data.dev).items()} if linear else {}
    plain = [VIEW_OF[case] for case in calibration.by_linear_path if VIEW_OF[case] in numbers]
    results = {"dev": {config.model.mode: numbers, "linear": beside}, "decided_by_linear_path": plain}
    with writing(config.folder):
        (config.folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    source = data.encoders_folder
    trained_on = " and ".join(config.data.modalities)
    return save_checkpoint(
        config.folder / CHECKPOINT,
        model.cpu(),
        encoders=data.specs,
        calibration=calibration,
        name=config.name,
        note=f"trained on {trained_on} of {data.manifest.corpus.name}; best epoch {trainer.best_epoch}",
        card=model_card(config, data, trainer.best_epoch, numbers, beside, plain),
        files={FILE_NAME: linear.to_bytes()} if linear else None,
        write_encoders=None if source is None else lambda folder: _copy_encoders(source, data.specs, folder),
    )


def with_seed(config: TrainConfig, seed: int) -> TrainConfig:
    return config.model_copy(update={"loop": config.loop.model_copy(update={"seed": seed})})


def _copy_encoders(source: Path, specs: EncoderSpecs, folder: Path) -> None:
    for modality in specs.modalities:
        spec = specs.of(modality)
        if spec is not None and spec.kind == "compact":
            shutil.copytree(source / ENCODERS_NAME / modality, folder / modality)
