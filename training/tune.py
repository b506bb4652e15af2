"""A search over the configuration's own keys, judged on dev alone; Ray Tune does the searching."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from bcaf_stream.errors import ConfigError, ModelError
from training.config import TrainConfig
from training.fit import build_trainer, device_for
from training.log import make_folder, writing
from training.trainer import Record
from training.training_data import load_training_data


def tune(config: TrainConfig, on_trial: Callable[[dict[str, Any]], None] = lambda trial: None) -> Path:
    """Search `config.tune.space`; writes trials.json and best.yaml. Returns their folder.

    `on_trial` gets each trial when it ends, as it will stand in trials.json.

    Raises:
        ConfigError: the space is empty, or names keys or values that the configuration does not have.
        DataError, DeploymentError: as training.
    """
    if not config.tune.space:
        raise ConfigError(
            "tune.space: is empty; name the keys to search, as in model.dropout: {low: 0.1, high: 0.5}"
        )
    for key, choice in config.tune.space.items():
        if not key.startswith(("model.", "loop.")):
            raise ConfigError(f"tune.space.{key}: only keys of model and loop can be searched")
        for value in choice.choices or (choice.low, choice.high):
            config.changed({key: value})
    load_training_data(config)  # what is wrong with the data is found before anything is started
    from training.ray_tune import search

    make_folder(config.folder / "tune")
    found = search(partial(run_trial, config), config.tune.space, config, lambda trial: on_trial(_plain(*trial)))
    folder = config.folder / "tune"
    best = config.changed(found[0][0]).model_dump(mode="json", exclude_defaults=True)
    with writing(folder):
        trials = [_plain(*trial) for trial in found]
        (folder / "trials.json").write_text(json.dumps(trials, indent=2) + "\n", encoding="utf-8")
        (folder / "best.yaml").write_text(yaml.safe_dump(best, sort_keys=False), encoding="utf-8")
    return folder


def _plain(values: dict[str, Any], record: Record) -> dict[str, Any]:
    return {"values": values, "dev_weighted_f1": record["dev_weighted_f1"], "epoch": record["epoch"]}


def run_trial(config: TrainConfig, values: dict[str, Any], report: Callable[[Record], None]) -> None:
    """One trial: the plain loop, whose best score so far is what counts."""
    torch.set_num_threads(max(1, int(config.ray.cpus_per_worker)))
    changed = config.changed(values)
    trainer = build_trainer(changed, load_training_data(changed), device_for(changed.ray.use_gpu))
    best = 0.0
    while not trainer.done:
        try:
            record = trainer.run_epoch()
        except ModelError:  # a learning rate that diverges is a bad value, not a broken search
            report({"epoch": trainer.epoch + 1, "dev_weighted_f1": best})
            return
        best = max(best, record["dev_weighted_f1"])
        report({**record, "dev_weighted_f1": best})
