"""The loop of training/loop.py on Ray Train: 1..N workers, on CPUs or GPUs, kept alive over failures.

Ray starts the workers and their process group, moves each epoch's state to `storage_path`, and restarts from
the last committed one. What is unusual: a report that has returned is not yet committed. The log is written
by Ray's controller once it is, and a worker ends only when its last one is. An error that a second try cannot
mend is returned by the workers instead of raised, because Ray would try again.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.fs
import ray
import ray.train.torch
import torch

# `ray.train` picks between two APIs when it runs; from here the type checker sees the one that runs.
from ray.train import Checkpoint
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from bcaf_stream import errors
from bcaf_stream.errors import BcafError, DeploymentError, ModelError
from training.config import RayConfig, TrainConfig
from training.fit import OnEpoch, build_trainer, finish
from training.log import EpochLog, read_epochs
from training.loop import Record, Trainer
from training.material import Material, load_material
from training.state import load_state, save_state

POLL_S = 0.5  # how often the controller looks at its workers; each report waits for a look


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Ray, as the configuration wants it; one that runs in this process already is used and left running.

    Raises:
        DeploymentError: it cannot be started or reached.
    """
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=config.address or "local",
            num_cpus=None if config.address else config.num_cpus,
            include_dashboard=None if config.address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = (
            f"the Ray cluster at {config.address} cannot be reached" if config.address else "Ray cannot be started"
        )
        raise DeploymentError(f"{where}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def fit_on_ray(config: TrainConfig, on_epoch: OnEpoch = lambda record: None) -> Path:
    """Train on Ray; the same name and storage_path resume. Returns the checkpoint's folder.

    Raises:
        BcafError: whatever a worker met that no second try can mend.
        DeploymentError: Ray lacks the resources, or workers were lost more often than ray.max_failures allows.
    """
    material = load_material(config)  # what is wrong with the data is found before anything is started
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    with ray_session(config.ray):
        _check_resources(config.ray)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"config": config.model_dump_json()},
            scaling_config=_scaling(config.ray),
            run_config=_run_config(config),
        )
        try:
            with _following(config.folder, on_epoch):
                result = trainer.fit()
        except TrainingFailedError as error:
            raise _plain(error, config) from None
        failed: dict[str, str] | None = getattr(result, "return_value", None)  # not in the type of `fit`
        if failed:
            raise _rebuilt(**failed)
        if result.checkpoint is None:
            raise DeploymentError(f"{config.name}: ended without a committed epoch; see the logs of Ray")
        return _finish(config, material, result.checkpoint)


def train_worker(parameters: dict[str, str]) -> dict[str, str] | None:
    """What each worker runs; returns the error that ends the run, if there is one."""
    config = TrainConfig.model_validate_json(parameters["config"])
    torch.set_num_threads(max(1, int(config.ray.cpus_per_worker)))
    trainer = build_trainer(config, load_material(config), ray.train.torch.get_device())
    _restore(trainer, config, ray.train.get_checkpoint())
    while not trainer.done:
        try:
            record = trainer.run_epoch()
        except ModelError as error:  # every worker meets it in the same step
            return {"kind": type(error).__name__, "message": str(error)}
        _report(record, lambda folder: save_state(trainer, config.identity(), folder))
    ray.train.get_all_reported_checkpoints()
    return None


def _restore(trainer: Trainer, config: TrainConfig, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = load_state(Path(folder), config.identity())
        if state is not None:
            trainer.load_state_dict(state)


def _report(record: Record, write: Callable[[Path], object]) -> None:
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(record)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        ray.train.report(record, checkpoint=Checkpoint.from_directory(folder))


def _finish(config: TrainConfig, material: Material, checkpoint: Checkpoint) -> Path:
    trainer = build_trainer(config, material, torch.device("cpu"))
    _restore(trainer, config, checkpoint)
    return finish(config, material, trainer)


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
            self._log = EpochLog(self._folder, kept)
        self._log.add(record)
        self._last = record["epoch"]


@contextmanager
def _following(folder: Path, on_epoch: OnEpoch) -> Iterator[None]:
    """Call `on_epoch` for what the controller appends to the log while the run goes on."""
    over = threading.Event()
    seen = {record["epoch"] for record in read_epochs(folder)}

    def look() -> None:
        for record in read_epochs(folder):
            if record["epoch"] not in seen:
                seen.add(record["epoch"])
                on_epoch(record)

    def follow() -> None:
        while not over.wait(POLL_S):
            look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


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


def storage(place: str) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """A folder or URL as Ray takes it; what pyarrow does not know goes through fsspec.

    Raises:
        DeploymentError: nobody knows the URL's protocol, or its package is not installed.
    """
    if "://" not in place:
        return None, str(Path(place).absolute())
    try:
        return pyarrow.fs.FileSystem.from_uri(place)
    except (pa.ArrowException, OSError):
        pass
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise DeploymentError(f"ray.storage_path {place.split('://')[0]}://: {error}") from None
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path


def _check_resources(config: RayConfig) -> None:
    """Without this, Ray waits for ever for CPUs that no autoscaler will bring."""
    if config.address is not None:
        return
    least = config.num_workers if isinstance(config.num_workers, int) else config.num_workers[0]
    there = ray.cluster_resources()
    for kind, each in (("CPU", config.cpus_per_worker), ("GPU", float(config.use_gpu))):
        if least * each > there.get(kind, 0.0):
            raise DeploymentError(
                f"training needs {least * each:g} {kind}s and Ray has {there.get(kind, 0.0):g}: "
                "lower ray.num_workers or ray.cpus_per_worker"
            )


def _plain(error: TrainingFailedError, config: TrainConfig) -> BcafError:
    """The reason in one line: a worker's own BcafError where there is one."""
    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    for failure in failures:
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, BcafError):
            return cause
    lines = [line.strip() for line in str(failures[0] if failures else error).splitlines() if line.strip()]
    again = f"{config.name}: given up after {config.ray.max_failures} restarts (ray.max_failures)"
    return DeploymentError(f"{again}: {lines[-1] if lines else type(error).__name__}; run it again to resume")


def _rebuilt(kind: str, message: str) -> BcafError:
    found: type[BcafError] = getattr(errors, kind, ModelError)
    return found(message)
