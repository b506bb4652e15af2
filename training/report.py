"""The pictures and tables of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bcaf_stream.errors import DataError

mpl.use("Agg", force=False)
Summaries = Mapping[str, Mapping[str, Mapping[str, Any]]]  # mode, view, summary


def overview(summaries: Summaries, title: str) -> Table:
    """One row per mode and view."""
    table = Table(title=title, title_justify="left")
    for column in (
        "context",
        "shown",
        "n",
        "weighted F1",
        "95 %",
        "macro F1",
        "recall",
        "ECE",
        "at 50 % coverage",
    ):
        table.add_column(column, justify="left" if column in ("context", "shown") else "right")
    for mode, views in summaries.items():
        for view, s in views.items():
            low, high = s["ci95"]["weighted_f1"]
            half = next(p["accuracy"] for p in s["risk_coverage"] if p["coverage"] == 0.5)
            table.add_row(
                mode,
                view,
                str(s["n"]),
                f"{100 * s['weighted_f1']:.2f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{100 * s['macro_f1']:.2f}",
                f"{100 * s['unweighted_recall']:.2f}",
                f"{100 * s['ece']:.2f}",
                f"{100 * half:.1f}",
            )
    return table


def per_class(summary: Mapping[str, Any], title: str) -> Table:
    """Precision, recall and F1 of each class, and what it was taken for."""
    table = Table(title=title, title_justify="left")
    labels = list(summary["per_class"])
    for column in ("class", "n", "precision", "recall", "F1", *(f"-> {label[:4]}" for label in labels)):
        table.add_column(column, justify="left" if column == "class" else "right")
    for (label, c), row in zip(summary["per_class"].items(), summary["confusion"], strict=True):
        shares = (f"{100 * c[key]:.1f}" for key in ("precision", "recall", "f1"))
        table.add_row(label, str(c["n"]), *shares, *map(str, row))
    return table


def save_pictures(summaries: Summaries, folder: Path) -> list[Path]:
    """A confusion matrix per mode and view, and one picture of what abstaining buys.

    Raises:
        DataError: the folder cannot be written.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    risks = figure.add_subplot()
    saved = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for mode, views in summaries.items():
            for view, summary in views.items():
                _risk(risks, summary, f"{mode}, {view}")
                saved.append(folder / f"confusion_{mode}_{view}.png")
                _confusion(summary, f"{mode} context, {view}").savefig(saved[-1], dpi=120)
        _finish_risks(risks)
        saved.append(folder / "risk_coverage.png")
        figure.savefig(saved[-1], dpi=120)
    except OSError as error:
        raise DataError(f"{folder}: the pictures cannot be written: {error.strerror or error}") from None
    return saved


def _confusion(summary: Mapping[str, Any], title: str) -> Figure:
    labels: Sequence[str] = list(summary["per_class"])
    counts_CC = np.array(summary["confusion"])
    share_CC = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(1.6 + 0.75 * len(labels), 1.4 + 0.65 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share_CC, vmin=0, vmax=1, cmap="Blues")
    axes.set(title=title, xlabel="decided", ylabel="annotated")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    for row, column in np.ndindex(*counts_CC.shape):
        dark = share_CC[row, column] > 0.5
        axes.text(
            column,
            row,
            f"{100 * share_CC[row, column]:.0f} %\n{counts_CC[row, column]}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )
    return figure


def _risk(axes: Axes, summary: Mapping[str, Any], name: str) -> None:
    points = summary["risk_coverage"]
    axes.plot([100 * p["coverage"] for p in points], [100 * p["accuracy"] for p in points], marker=".", label=name)


def _finish_risks(axes: Axes) -> None:
    axes.set(xlabel="coverage: most confident utterances kept (%)", ylabel="accuracy of those (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
