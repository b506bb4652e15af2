"""What each part of the model is worth: the paper's Figure 6 and Table II again, over several seeds.

Every variant is trained like the full model, chosen on dev, and scored once on the asked split. A difference
is counted only against the full model on the same draws of dialogues (paired bootstrap over all seeds).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bcaf_stream.errors import ConfigError, DataError, ModelError
from bcaf_stream.model.checkpoint import load_checkpoint
from training.config import TrainConfig, Variant
from training.datasets.manifest import Split
from training.fit import fit_here
from training.metrics import Scored, paired_difference, weighted_f1
from training.predict import predict, scored
from training.training_data import load_training_data

CHANGES: dict[Variant, dict[str, Any]] = {
    "full": {},
    "no_connection": {"model.connection_form": "off"},
    "no_bimodal": {"model.bimodal": False},
    "no_correlative": {"model.correlative": False},
    "jan": {"model.attention": "jan"},
    "self": {"model.attention": "self"},
    "cross": {"model.attention": "cross"},
    "printed": {"model.connection_form": "printed"},
    "fused_head": {"model.decision": "fused"},
    "mean_heads": {"model.decision": "mean"},
    "no_context": {"model.mode": "causal", "model.context": 1},
    "no_linear_path": {"model.linear_path": False},
    "bc_lstm": {"model.kind": "bc_lstm", "model.linear_path": False},
    "layers_1": {"model.layers": 1},
    "layers_2": {"model.layers": 2},
    "layers_3": {"model.layers": 3},
    "layers_4": {"model.layers": 4},
    "layers_5": {"model.layers": 5},
    "layers_6": {"model.layers": 6},
}
PAPER: dict[str, dict[str, float]] = {  # weighted F1: Table II, and Figure 6 by the drops that the text states
    "meld": {
        "full": 68.93, "no_connection": 66.12, "no_bimodal": 64.83, "no_correlative": 63.69,
        "jan": 66.08, "self": 67.21, "cross": 67.52,
    },
    "iemocap": {
        "full": 74.69, "no_connection": 71.86, "no_bimodal": 69.57, "no_correlative": 68.01,
        "jan": 71.35, "self": 72.16, "cross": 73.01,
    },
}  # fmt: skip
OURS, PAPERS = "#0072B2", "#D55E00"  # told apart by those who do not see red and green


@dataclass(frozen=True, slots=True)
class Run:
    """One variant with one seed; `score` is None where training broke off, and `why` says how."""

    variant: str
    seed: int
    score: Scored | None
    why: str = ""


def ablate(config: TrainConfig, split: Split, on_run: Callable[[Run], None] = lambda run: None) -> Path:
    """Train what is not trained yet; write results.json, table.md and ablation.png. Returns their folder.

    Raises:
        DataError, DeploymentError: as training.
    """
    if "full" not in config.ablate.variants:
        raise ConfigError("ablate.variants: full is missing, against which the others are measured")
    jobs = [(variant, seed) for variant in config.ablate.variants for seed in range(config.ablate.seeds)]
    runs: list[Run] = []

    def take(run: Run) -> None:
        runs.append(run)
        on_run(run)

    one = partial(run_variant, config, split)
    if config.ablate.parallel:
        from training.ray_jobs import map_on_ray

        map_on_ray(one, jobs, config.ray, config.ablate.parallel, take)
    else:
        for job in jobs:
            take(one(job))
    folder = config.folder / "ablate"
    _write(folder, summarise(runs, config), config, split)
    return folder


def run_variant(config: TrainConfig, split: Split, job: tuple[Variant, int]) -> Run:
    """Train and score one variant with one seed; a run that has finished is not trained again."""
    variant, seed = job
    torch.set_num_threads(max(1, int(config.ray.cpus_per_worker)))
    out = config.folder / "ablate" / variant / str(seed)
    changed = config.changed(
        {**CHANGES[variant], "loop.seed": seed, "out": str(out), "name": f"{config.name}-{variant}-{seed}"}
    )
    try:
        checkpoint = load_checkpoint(fit_here(changed, floor=False))
    except ModelError as error:  # `printed` is unbounded below: that it diverges is the result
        return Run(variant, seed, None, str(error))
    dialogues = load_training_data(changed, [split]).dialogues[split]
    return Run(
        variant, seed, scored(checkpoint.model, predict(checkpoint.model, dialogues), checkpoint.calibration)
    )


def summarise(runs: list[Run], config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Per variant: scores in percent, mean, sd, the paired difference to full, and the paper's number."""
    by_variant = {v: [run for run in runs if run.variant == v] for v in config.ablate.variants}
    full = {run.seed: run.score for run in by_variant["full"]}
    paper = PAPER.get(config.ablate.paper or "", {})
    found: dict[str, dict[str, Any]] = {}
    for variant, members in by_variant.items():
        good = [(run.score, full[run.seed]) for run in members if run.score is not None]
        values = [100 * weighted_f1(mine) for mine, _ in good]
        pairs = [(mine, theirs) for mine, theirs in good if theirs is not None]
        found[variant] = {
            "weighted_f1": values,
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "against_full": _against(pairs) if pairs and variant != "full" else None,
            "paper": paper.get(variant),
            "diverged": {run.seed: run.why for run in members if run.score is None},
        }
    return found


def _against(pairs: list[tuple[Scored, Scored]]) -> dict[str, float]:
    found = paired_difference([theirs for _, theirs in pairs], [mine for mine, _ in pairs])
    return {name: value if name == "not_above_zero" else 100 * value for name, value in found.items()}


def table(found: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """Markdown, ours beside the paper's."""
    full_in_paper = found["full"]["paper"]
    lines = [
        f"# {title}",
        "",
        "| variant | weighted F1, mean | sd | to full | 95 % (paired) | paper | paper, to full |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant, v in found.items():
        against = v["against_full"]
        cells = [
            variant,
            "diverged" if v["mean"] is None else f"{v['mean']:.2f}",
            "" if v["sd"] is None else f"{v['sd']:.2f}",
            "" if against is None else f"{against['difference']:+.2f}",
            "" if against is None else f"{against['low']:+.2f} to {against['high']:+.2f}",
            "" if v["paper"] is None else f"{v['paper']:.2f}",
            "" if v["paper"] is None or variant == "full" else f"{v['paper'] - full_in_paper:+.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    diverged = [
        f"- {variant}, seed {seed}: {why}" for variant, v in found.items() for seed, why in v["diverged"].items()
    ]
    return "\n".join([*lines, *(["", "Broke off:", *diverged] if diverged else [])]) + "\n"


def _write(folder: Path, found: Mapping[str, Mapping[str, Any]], config: TrainConfig, split: Split) -> None:
    title = f"{config.name}, {split}, {config.model.mode} context, {config.ablate.seeds} seeds"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / "table.md").write_text(table(found, title), encoding="utf-8")
        picture(found, title).savefig(folder / "ablation.png", dpi=120)
    except OSError as error:
        raise DataError(f"{folder}: the results cannot be written: {error.strerror or error}") from None


def picture(found: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """Above, every seed and the mean; below, the difference to the full model with its 95 % interval.

    The paper's number is a mark where it has one. Points, not bars: the axes do not begin at zero.
    """
    shown = {variant: v for variant, v in found.items() if v["mean"] is not None}
    figure = Figure(figsize=(2.5 + 0.8 * len(shown), 6), layout="constrained")
    scores, drops = figure.subplots(2, 1, sharex=True)
    for x, (variant, v) in enumerate(shown.items()):
        seeds, against = v["weighted_f1"], v["against_full"]
        scores.plot([x] * len(seeds), seeds, "o", color=OURS, alpha=0.4, markersize=5)
        scores.plot(x, v["mean"], "_", color=OURS, markersize=18, markeredgewidth=2)
        if against is not None:
            drops.plot([x, x], [against["low"], against["high"]], color=OURS)
            drops.plot(x, against["difference"], "o", color=OURS)
        if v["paper"] is not None:
            scores.plot(x, v["paper"], "D", color=PAPERS)
            if variant != "full":
                drops.plot(x, v["paper"] - found["full"]["paper"], "D", color=PAPERS)
    drops.axhline(0, color="grey", linewidth=0.8)
    scores.set(title=title, ylabel="weighted F1 (%)")
    drops.set(ylabel="difference to full (points)")
    drops.set_xticks(range(len(shown)), list(shown), rotation=30, ha="right")
    marks = [Line2D([], [], color=OURS, marker="o", linestyle="", label="here")]
    if any(v["paper"] is not None for v in shown.values()):
        marks.append(Line2D([], [], color=PAPERS, marker="D", linestyle="", label="paper"))
    figure.legend(handles=marks, loc="outside right upper")
    return figure
