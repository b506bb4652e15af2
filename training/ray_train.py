"""The loop of training/trainer.py on Ray Train: 1..N workers, on CPUs or GPUs, kept alive over failures.

Ray starts the workers and their process group, moves each epoch's state to `storage_path`, and restarts from
the last committed one. What is unusual: a report that has returned is not yet committed. The log is written
by Ray's controller once it is, and a worker ends only when its last one is. An error that a second try cannot
mend is returned by the workers instead of raised, because Ray would try again.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train.torch
import torch
from ray.exceptions import RayError, RayTaskError

# `ray.train` picks between two APIs when it runs; from here the type checker sees the one that runs.
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from bcaf_stream import errors
from bcaf_stream.errors import BcafError, DataError, DeploymentError, ModelError
from training.config import Range, RayConfig, TrainConfig
from training.fit import OnData, OnEpoch, build_trainer, finish
from training.log import EpochLog, following, make_folder, read_epochs
from training.state import load_state, save_state, storage
from training.trainer import Record, Trainer
from training.training_data import TrainingData, load_training_data

Trial = tuple[dict[str, Any], Record]  # the values by dotted key, and the last record
J = TypeVar("J")
R = TypeVar("R")
POLL_S = "0.2"  # how often the controller looks at its workers; each report waits for a look


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
    with ray_session(config.ray):
        _check_resources(config.ray)
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
    _return_to(parameters["cwd"])
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


def _return_to(cwd: str) -> None:
    """Ray gives its workers a folder of their own; relative paths of the configuration belong to the user's.

    A machine of a cluster may not have that one: there, whatever is relative is missed by name.
    """
    with suppress(OSError):
        os.chdir(cwd)


def _restore(trainer: Trainer, data: TrainingData, checkpoint: Checkpoint | None) -> None:
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


def map_on_ray(
    function: Callable[[J], R], jobs: Sequence[J], config: RayConfig, parallel: int, on_result: Callable[[R], None]
) -> None:
    """Run `function` on every job, `parallel` at a time; results come as they are ready.

    Raises:
        BcafError: what `function` raised.
        DeploymentError: Ray cannot be started, or a worker was lost.
    """
    with ray_session(config):
        options = {"num_cpus": config.cpus_per_worker, "num_gpus": float(config.use_gpu), "max_retries": 1}
        task: Any = ray.remote(_call).options(**options)
        waiting = list(reversed(jobs))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < parallel:
                running.append(task.remote(function, waiting.pop()))
            ready, running = ray.wait(running, num_returns=1)
            try:
                on_result(ray.get(ready[0]))
            except RayTaskError as error:
                if isinstance(error.cause, BcafError):
                    raise error.cause from None
                raise DeploymentError(f"a run failed: {str(error.cause).splitlines()[0]}") from None
            except RayError as error:
                raise DeploymentError(f"a run was lost: {str(error).splitlines()[0]}") from None


def _call(function: Callable[[J], R], job: J) -> R:
    return function(job)


def search(
    trial: Callable[[dict[str, Any], Callable[[Record], None]], None],
    space: Mapping[str, Range],
    config: TrainConfig,
    on_trial: Callable[[Trial], None],
) -> list[Trial]:
    """Ray Tune: what was tried with its last record, the best on dev first. ASHA stops weak trials early.

    `trial` gets the chosen values by dotted key, and a function that takes each epoch's record; `on_trial` gets
    each trial that has come to its end.

    Raises:
        DeploymentError: Ray cannot be started, or no trial came to an end.
    """
    from ray import tune

    class OnTrial(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            on_trial((dict(trial.config), dict(trial.last_result)))

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints boxes even where it is told to be silent
    metric, mode, cwd = "dev_weighted_f1", "max", os.getcwd()

    def run(values: dict[str, Any]) -> None:
        _return_to(cwd)
        trial(values, tune.report)

    filesystem, path = storage(config.ray.storage_path or str(config.folder / "ray"))
    with ray_session(config.ray):
        tuner = tune.Tuner(
            tune.with_resources(
                run,
                {"cpu": config.ray.cpus_per_worker, "gpu": float(config.ray.use_gpu)},
            ),
            param_space={key: _domain(choice) for key, choice in space.items()},
            tune_config=tune.TuneConfig(
                metric=metric,
                mode=mode,
                num_samples=config.tune.samples,
                max_concurrent_trials=config.tune.parallel,
                search_alg=tune.search.BasicVariantGenerator(random_state=config.loop.seed),
                scheduler=tune.schedulers.ASHAScheduler(
                    time_attr="epoch",
                    max_t=config.loop.epochs,
                    grace_period=min(config.tune.grace_epochs, config.loop.epochs),
                ),
            ),
            run_config=tune.RunConfig(
                name=f"{config.name}-tune",
                storage_path=path,
                storage_filesystem=filesystem,
                callbacks=[OnTrial()],
                verbose=0,
            ),
        )
        grid = tuner.fit()
        results = [
            grid[i] for i in range(len(grid)) if grid[i].error is None and metric in (grid[i].metrics or {})
        ]
    if not results:
        raise DeploymentError(f"{config.name}: no trial came to an end; see the logs under {path}")
    tried = [(dict(result.config or {}), dict(result.metrics or {})) for result in results]
    return sorted(tried, key=lambda one: -one[1][metric])


def _domain(choice: Range) -> Any:
    from ray import tune

    if choice.choices:
        return tune.choice(list(choice.choices))
    assert choice.low is not None
    assert choice.high is not None
    return tune.loguniform(choice.low, choice.high) if choice.log else tune.uniform(choice.low, choice.high)


def _plain(error: TrainingFailedError, config: TrainConfig) -> BcafError:
    """The reason in one line: a worker's own BcafError where there is one."""
    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    for failure in failures:
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, BcafError):
            return cause
    lines = [line.strip() for line in str(failures[0] if failures else error).splitlines() if line.strip()]
    again = f"{config.name}: given up after {config.ray.max_failures} restarts (ray.max_failures)"
    reason = lines[-1] if lines else type(error).__name__
    place = config.ray.storage_path or config.folder / "ray"
    return DeploymentError(f"{again}: {reason}; its epochs are kept in {place}: run it again to resume")


def _named(error: BcafError) -> dict[str, str]:
    return {"kind": type(error).__name__, "message": str(error)}


def _rebuilt(kind: str, message: str) -> BcafError:
    found: type[BcafError] = getattr(errors, kind, ModelError)
    return found(message)
