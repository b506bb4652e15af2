"""bcaf-train adapt: a checkpoint learns on from somebody's own calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcaf_stream.console import stderr_note
from training.cli.show import console, progress

if TYPE_CHECKING:
    from training.metrics import Scored
    from training.training_data import TrainingData


def adapt(
    checkpoint: Annotated[str, typer.Argument(help="a folder, a hub id, compact or compact-open")],
    manifest: Annotated[Path, typer.Option(help="what prepare wrote: a few hundred labelled utterances")],
    out: Annotated[Path, typer.Option(help="folder for the checkpoint and the log")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="dotted.key=value of a training configuration")
    ] = None,
) -> None:
    """Fit a checkpoint to your own calls: its network learns on, its encoders stay; refused if it is no better."""
    from bcaf_stream.config import load_config
    from training.adapt import adapt as run
    from training.adapt import write_adaptation
    from training.config import TrainConfig
    from training.inspection import inspect
    from training.log import shown

    def look(data: "TrainingData") -> None:
        for line in inspect(data):
            stderr_note(line)

    config = load_config(TrainConfig, write_adaptation(checkpoint, manifest, out), set_ or ())
    found = run(
        config, lambda record: print(shown(record), flush=True), look, lambda rows: progress(rows, "encoding")
    )
    if found.split == "dev":
        stderr_note("there is no test split: dev chose the epoch and fitted the decision, so `after` is flattered")
    _show(found.split, found.before, found.after, found.difference)
    print(f"checkpoint: {found.folder}")


def _show(
    split: str, before: Mapping[str, "Scored"], after: Mapping[str, "Scored"], difference: Mapping[str, Any]
) -> None:
    from rich.table import Table

    from training.metrics import summary

    table = Table(title=f"{split}, before and after", title_justify="left")
    for column in ("shown", "", "n", "weighted F1", "95 %", "recall", "ECE"):
        table.add_column(column, justify="left" if column in ("shown", "") else "right")
    for view in before:
        for when, scored in (("before", before[view]), ("after", after[view])):
            s = summary(scored)
            low, high = s["ci95"]["weighted_f1"]
            table.add_row(
                view,
                when,
                str(s["n"]),
                f"{100 * s['weighted_f1']:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{100 * s['unweighted_recall']:.1f}",
                f"{100 * s['ece']:.1f}",
            )
    console().print(table)
    first, low, high = next(iter(before)), 100 * difference["low"], 100 * difference["high"]
    sure = "" if low > 0 else "; the interval holds 0, so it may be luck"
    gain = 100 * difference["difference"]
    print(f"{first}, weighted F1: {gain:+.1f} ({low:+.1f} to {high:+.1f}, paired over dialogues){sure}")
