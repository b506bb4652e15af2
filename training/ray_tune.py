"""The search of training/tune.py on Ray Tune."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from bcaf_stream.errors import DeploymentError
from training.config import Range, TrainConfig
from training.ray_jobs import ray_session, return_to
from training.state import storage
from training.trainer import Record

Trial = tuple[dict[str, Any], Record]  # the values by dotted key, and the last record


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
        return_to(cwd)
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
