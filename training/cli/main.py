"""bcaf-train: from a corpus to a checkpoint, and what it is worth."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bcaf_stream.config import load_config
from bcaf_stream.console import run, stderr_note
from training.cli.adapt import adapt
from training.cli.evaluate import evaluate
from training.cli.prepare import preparing

if TYPE_CHECKING:
    from training.trainer import Record
    from training.training_data import TrainingData

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file; see configs/train")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, over the file")]

app.add_typer(
    preparing, name="prepare", help="Read a corpus, listen to every clip, audit it, and write one manifest."
)
app.command()(evaluate)
app.command()(adapt)


@app.callback()
def main_help() -> None:
    """Prepare a corpus, compute features, train, adapt, evaluate, ablate, search."""


@app.command()
def features(config: ConfigFile, set_: Overrides = None) -> None:
    """Encode a manifest's sound and words; what is there already is not computed again."""
    from rich.console import Console
    from rich.progress import Progress

    from training.config import TrainConfig
    from training.features import compute_features

    settings = load_config(TrainConfig, config, set_ or ())
    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def advance(modality: str, done: int, total: int) -> None:
            if modality not in tasks:
                tasks[modality] = bars.add_task(modality, total=total)
            bars.update(tasks[modality], completed=done)

        found = compute_features(settings, advance)
    for done in found:
        print(f"{done.modality}: {done.total} vectors, {done.new} of them computed now: {done.folder}")
    if not found:
        print("the manifest carries its vectors; nothing to encode")


@app.command()
def fit(config: ConfigFile, set_: Overrides = None) -> None:
    """Train; a run that was cut short goes on where it stopped."""
    from training.card import DECIDES_ALONE  # torch and Ray load in seconds: not for --help
    from training.config import TrainConfig
    from training.fit import RESULTS, fit_here
    from training.linear import compared
    from training.log import read_epochs, shown

    settings = load_config(TrainConfig, config, set_ or ())
    train: Callable[..., Path] = fit_here
    if settings.ray.num_workers != 0:
        from training.ray_train import fit_on_ray

        train = fit_on_ray
    done = len(read_epochs(settings.folder))

    def show(record: "Record") -> None:
        nonlocal done
        if done and record["epoch"] > 1:
            stderr_note(f"{settings.folder}: goes on after epoch {record['epoch'] - 1}")
        done = 0
        print(shown(record), flush=True)

    def look(data: "TrainingData") -> None:
        from training.inspection import inspect

        for line in inspect(data):
            stderr_note(line)

    folder = train(settings, show, look)
    if done:
        stderr_note(f"{settings.folder}: all {done} epochs were trained already")
    print(f"checkpoint: {folder}")
    results = json.loads((settings.folder / RESULTS).read_text(encoding="utf-8"))
    dev = results["dev"]
    for view in results["decided_by_linear_path"]:
        print(f"{view}: {DECIDES_ALONE}")
    for line in compared(dev[settings.model.mode], dev["linear"]):
        print(line)


@app.command()
def ablate(
    config: ConfigFile,
    set_: Overrides = None,
    split: Annotated[Literal["dev", "test"], typer.Option(help="what the variants are scored on")] = "test",
) -> None:
    """Train the model without each of its parts, over several seeds, beside the paper's numbers."""
    from training.ablate import Run
    from training.ablate import ablate as run_all
    from training.config import TrainConfig
    from training.metrics import weighted_f1

    def show(run: Run) -> None:
        found = run.why if run.score is None else f"weighted F1 {100 * weighted_f1(run.score):.2f}"
        print(f"{run.variant}, seed {run.seed}: {found}", flush=True)

    folder = run_all(load_config(TrainConfig, config, set_ or ()), split, show)
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"{folder}/table.md, ablation.png, results.json")


@app.command()
def tune(config: ConfigFile, set_: Overrides = None) -> None:
    """Search the values that the configuration names, judged on dev."""
    from training.config import TrainConfig
    from training.tune import tune as search

    def show(trial: dict[str, Any]) -> None:
        values = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in trial["values"].items()
        )
        print(f"dev weighted F1 {100 * trial['dev_weighted_f1']:.2f}  {values}", flush=True)

    folder = search(load_config(TrainConfig, config, set_ or ()), show)
    best, *_ = json.loads((folder / "trials.json").read_text(encoding="utf-8"))
    print("the best of all:")
    show(best)
    print(f"{folder}/best.yaml, trials.json")


def main() -> None:
    run(app, "bcaf-train")
