"""The model card: what a checkpoint was made of, how good it is, and what it must not be used for."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.config import TrainConfig
from training.datasets.manifest import SPLITS, calls_of
from training.dialogues import View
from training.linear import compared
from training.training_data import MODALITIES, TrainingData

RESULTS = "## Test results"
FLOOR = "linear floor: logistic regression on the same vectors, utterance by utterance"
DECIDES_ALONE = "the linear path decides alone; with the network's heads it was no better on dev"
FRONT_MATTER = """---
library_name: bcaf-stream
tags: [speech-emotion-recognition, emotion-recognition-in-conversation]
---"""
LIMITS = """\
## What it must not be used for

- Inferring the emotions of people at work or in education: prohibited in the European Union
  (Regulation 2024/1689, Art. 5(1)(f)). The policy `off` for agents exists for this.
- Decisions about a person: credit, employment, care, police, migration, justice.
- Medical or psychological diagnosis.
- People who have not been told that their voice or words are analysed.

It recognises what annotators perceived in the corpus above, not what anybody felt. Other languages, cultures,
ages, microphones and situations are untested unless a number below says otherwise. Rare classes are weak:
read the table per class, and use the confidence to abstain.
"""


def model_card(
    config: TrainConfig,
    data: TrainingData,
    best_epoch: int,
    dev: Mapping[str, Any],
    linear: Mapping[str, Any],
    plain: Sequence[View] = (),
) -> str:
    """Markdown with the hub's front matter; `dev` maps a view to its summary, `linear` to that of the floor.

    `plain`: the views that the linear path decides alone.
    """
    corpus = data.manifest.corpus
    parts = [
        FRONT_MATTER,
        f"# {config.name}",
        f"Bimodal connection attention fusion (BCAF) over dialogues, `{config.model.mode}` context"
        + (f" of {config.model.context} utterances" if config.model.mode == "causal" else "")
        + f". Labels: {', '.join(config.model.labels)}.",
        "## Data",
        f"{corpus.name} ({corpus.source}). Licence of the data: {corpus.licence}. Splits: {corpus.separation}.",
        *(f"Note: {note}." for note in corpus.notes),
        _splits(data),
        f"Trained on {' and '.join(config.data.modalities)}.",
        "## Encoders",
        _encoders(data),
        "## Training",
        f"Seed {config.loop.seed}, best of dev at epoch {best_epoch}; {config.loop.optimizer}, learning rate "
        f"{config.loop.learning_rate:g}, L2 {config.loop.l2:g}, dropout {config.model.dropout:g}, patience "
        f"{config.loop.patience}, {config.loop.batch} dialogues a step, modality dropout "
        f"{config.loop.modality_dropout:g}, class weights {config.loop.class_weights}{_options(config)}. "
        "The decision was fitted on dev.",
        *(f"{view}: {DECIDES_ALONE}." for view in plain),
        "## Dev results",
        "These chose the epoch and fitted the decision, so they flatter.",
        scores(dev),
        *(
            [f"### {FLOOR}", scores(linear), "\n".join(f"- {line}" for line in compared(dev, linear))]
            if linear
            else []
        ),
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def scores(views: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per view, and F1 per class of the first."""
    lines = [
        "| shown | n | weighted F1 | 95 % | macro F1 | unweighted recall | ECE |",
        "|---|---|---|---|---|---|---|",
    ]
    for view, s in views.items():
        low, high = s["ci95"]["weighted_f1"]
        lines.append(
            f"| {view} | {s['n']} | {100 * s['weighted_f1']:.2f} | {100 * low:.1f} to {100 * high:.1f} |"
            f" {100 * s['macro_f1']:.2f} | {100 * s['unweighted_recall']:.2f} | {100 * s['ece']:.2f} |"
        )
    first = next(iter(views.values()))
    lines += ["", "| class | n | precision | recall | F1 |", "|---|---|---|---|---|"]
    for label, c in first["per_class"].items():
        lines.append(
            f"| {label} | {c['n']} | {100 * c['precision']:.1f} | {100 * c['recall']:.1f} | {100 * c['f1']:.1f} |"
        )
    return "\n".join(lines)


def with_results(card: str, split: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The card with a section of results, in the place of the one it had."""
    kept = card.split(f"\n{RESULTS}\n", 1)[0].rstrip()
    parts = [
        f"### {split}, {FLOOR if mode == 'linear' else f'{mode} context'}\n\n{scores(views)}"
        for mode, views in results.items()
        if views
    ]
    return f"{kept}\n\n{RESULTS}\n\n" + "\n\n".join(parts) + "\n"


def _options(config: TrainConfig) -> str:
    """The parts of the loop that are on, as they continue a list."""
    loop = config.loop
    chosen = {
        "vectors standardised by the train split": config.data.standardize and config.init is None,
        f"weights of {config.init} to start from": config.init,
        f"warm-up of {loop.warm_up} steps": loop.warm_up,
        f"learning rate falling to 0 over {loop.epochs} epochs": loop.schedule == "linear",
        f"running mean of the weights, decay {loop.ema_decay:g}": loop.ema_decay,
        f"feature dropout {loop.feature_dropout:g}": loop.feature_dropout,
        f"distilled from {config.teacher} (weight {loop.distillation_weight:g})": config.teacher,
        "the last epoch's weights": loop.keep == "last",
    }
    return "".join(f", {text}" for text, on in chosen.items() if on)


def _splits(data: TrainingData) -> str:
    lines = ["| split | dialogues | utterances | labelled |", "|---|---|---|---|"]
    for split in SPLITS:
        rows = data.manifest.split(split)
        labelled = sum(row.label is not None for row in rows)
        lines.append(f"| {split} | {sum(1 for _ in calls_of(rows))} | {len(rows)} | {labelled} |")
    return "\n".join(lines)


def _encoders(data: TrainingData) -> str:
    lines = []
    for modality in MODALITIES:
        spec = data.specs.of(modality)
        if spec is None:
            lines.append(f"- {modality}: none; the model was not trained on it and does not look at it")
            continue
        weights = f"weights {spec.sha256[:16]}" if spec.sha256 else "weights not verified"
        lines.append(f"- {modality}: {spec.kind} `{spec.name}`, {spec.width}-d, {weights}")
    return "\n".join(lines)
