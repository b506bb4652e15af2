"""The loop of training/trainer.py on Ray Train: 1..N workers, on CPUs or GPUs, kept alive over failures.

Ray starts the workers and their process group, moves each epoch's state to `storage_path`, and restarts from
the last committed one. What is unusual: a report that has returned is not yet committed. The log is written
by Ray's controller once it is, and a worker ends only when its last one is. An error that a second try cannot
mend is returned by the workers instead of raised, because Ray would try again.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train.torch
import torch

# `ray.train` picks between two APIs when it runs; from here the type checker sees the one that runs.
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from actors.cluster import plain
from bcaf_stream import errors
from bcaf_stream.errors import BcafError, DataError, DeploymentError, ModelError
from training.config import RayConfig, TrainConfig
from training.fit import OnData, OnEpoch, build_trainer, finish
from training.log import EpochLog, following, make_folder, read_epochs
from training.predict import DialogueModel
from training.ray_jobs import ray_session, return_to
from training.state import load_state, save_state, storage
from training.trainer import Record, Trainer
from training.training_data import TrainingData, load_training_data

POLL_S = "0.2"  # how often the controller looks at its workers; each report waits for a look


def fit_on_ray(
    config: TrainConfig, on_epoch: OnEpoch = lambda record: None, on_data: OnData = lambda data: None
) -> Path:
    """Train on Ray; the same name and storage_path resume. Returns the checkpoint's folder.

    Raises:
        BcafError: whatever a worker met that no second try can mend.
        DeploymentError: Ray lacks the resources, or workers were lost more often than ray.max_failures allows.
    """
    data = load_training_data(config)  # what is wrong with the data is found before anything is started
    on_data(data)
    make_folder(config.folder)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    with ray_session(config.ray) as cluster:
        if config.ray.address is None:  # a cluster may grow
            remedy = "lower ray.num_workers or ray.cpus_per_worker"
            cluster.require(_least_needed(config.ray), "training", remedy)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"config": config.model_dump_json(), "cwd": os.getcwd()},
            scaling_config=_scaling(config.ray),
            run_config=_run_config(config),
        )
        try:
            with following(config.folder, on_epoch):
                result = trainer.fit()
        except TrainingFailedError as error:
            raise _plain(error, config) from None
        failed: dict[str, str] | None = getattr(result, "return_value", None)  # not in the type of `fit`
        if failed:
            raise _rebuilt(**failed)
        if result.checkpoint is None:
            raise DeploymentError(f"{config.name}: ended without a committed epoch; see the logs of Ray")
        return _finish(config, data, result.checkpoint)


def train_worker(parameters: dict[str, str]) -> dict[str, str] | None:
    """What each worker runs; returns the error that ends the run, if there is one."""
    config = TrainConfig.model_validate_json(parameters["config"])
    return_to(parameters["cwd"])
    torch.set_num_threads(max(1, int(config.ray.cpus_per_worker)))
    data = load_training_data(config)
    trainer = build_trainer(config, data, ray.train.torch.get_device())
    try:
        _restore(trainer, data, ray.train.get_checkpoint())
    except DataError as error:
        return _named(error)
    while not trainer.done:
        try:
            record = trainer.run_epoch()
        except ModelError as error:  # every worker meets it in the same step
            return _named(error)
        _report(record, lambda folder: save_state(trainer, data.identity, folder))
    ray.train.get_all_reported_checkpoints()
    return None


def _restore(trainer: Trainer[DialogueModel], data: TrainingData, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = load_state(Path(folder), data.identity)
        if state is not None:
            trainer.load_state_dict(state)


def _report(record: Record, write: Callable[[Path], object]) -> None:
    """Hand an epoch over; it is moved and committed while the next one is trained.

    One at a time: where the storage is slower than an epoch, training waits for it, and no states pile up.
    """
    ray.train.get_all_reported_checkpoints()
    checkpoint = None
    if ray.train.get_context().get_world_rank() == 0:
        folder = tempfile.mkdtemp()  # Ray deletes it when it has been moved
        write(Path(folder))
        checkpoint = Checkpoint.from_directory(folder)
    ray.train.report(record, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)


def _finish(config: TrainConfig, data: TrainingData, checkpoint: Checkpoint) -> Path:
    trainer = build_trainer(config, data, torch.device("cpu"))
    _restore(trainer, data, checkpoint)
    return finish(config, data, trainer)


class EpochCallback(UserCallback):
    """Writes the log, on the machine that started the run, when an epoch has been committed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log: EpochLog | None = None
        self._last = 0

    def after_report(self, run_context: Any, metrics: list[Record], checkpoint: Checkpoint | None) -> None:
        record = metrics[0]
        if self._log is None or record["epoch"] != self._last + 1:
            kept = [old for old in read_epochs(self._folder) if old["epoch"] < record["epoch"]]
            if self._log is not None:
                self._log.close()
            self._log = EpochLog(self._folder, kept)
        self._log.add(record)
        self._last = record["epoch"]


def _least_needed(config: RayConfig) -> dict[str, float]:
    least = config.num_workers if isinstance(config.num_workers, int) else config.num_workers[0]
    return {"CPU": least * config.cpus_per_worker, "GPU": least * float(config.use_gpu)}


def _scaling(config: RayConfig) -> ScalingConfig:
    return ScalingConfig(
        num_workers=config.num_workers,
        use_gpu=config.use_gpu,
        resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        elastic_resize_monitor_interval_s=config.resize_every_s,
    )


def _run_config(config: TrainConfig) -> RunConfig:
    filesystem, path = storage(config.ray.storage_path or str(config.folder / "ray"))
    return RunConfig(
        name=config.name,
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=FailureConfig(max_failures=config.ray.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=config.ray.keep),
        callbacks=[EpochCallback(config.folder)],
    )


def _plain(error: TrainingFailedError, config: TrainConfig) -> BcafError:
    """The reason in one line: a worker's own BcafError where there is one."""
    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    place = config.ray.storage_path or config.folder / "ray"
    return plain(
        failures[0] if failures else error,
        f"{config.name}: given up after {config.ray.max_failures} restarts (ray.max_failures); its epochs are kept"
        f" in {place}: run it again to resume",
    )


def _named(error: BcafError) -> dict[str, str]:
    return {"kind": type(error).__name__, "message": str(error)}


def _rebuilt(kind: str, message: str) -> BcafError:
    found: type[BcafError] = getattr(errors, kind, ModelError)
    return found(message)
