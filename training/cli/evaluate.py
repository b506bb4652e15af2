"""bcaf-train evaluate: what a checkpoint is worth on a split."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bcaf_stream.console import stderr_note, writing_to
from bcaf_stream.errors import UsageError
from training.cli.show import console, progress


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="a folder, a hub id, compact or compact-open")],
    manifest: Annotated[Path, typer.Option(help="what prepare wrote")],
    split: Annotated[Literal["train", "dev", "test"], typer.Option(help="which part of the corpus")] = "test",
    through: Annotated[
        Literal["batch", "analyzer"], typer.Option(help="whole dialogues, or the live path")
    ] = "batch",
    adaptation: Annotated[
        bool,
        typer.Option("--adaptation", help="adapt to each channel's voice, as calls do; with --through analyzer"),
    ] = False,
    features: Annotated[Path | None, typer.Option(help="where vectors lie; default: beside the manifest")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("evaluation"),
    json_: Annotated[Path | None, typer.Option("--json", help="write every number there")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="write there what was predicted for each labelled utterance, as JSON lines")
    ] = None,
    card: Annotated[bool, typer.Option(help="write the results into the checkpoint's model card")] = False,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="where it runs")] = "cpu",
) -> None:
    """Score a checkpoint: causal and offline context, both modalities and each alone."""
    if adaptation and through != "analyzer":
        raise UsageError("--adaptation goes utterance by utterance; add --through analyzer")
    if json_ is not None and not json_.absolute().parent.is_dir():
        raise UsageError(f"--json {json_}: no such folder as {json_.absolute().parent}")
    if predictions is not None and not predictions.absolute().parent.is_dir():
        raise UsageError(f"--predictions {predictions}: no such folder as {predictions.absolute().parent}")
    from training.evaluate import evaluate as score
    from training.evaluate import evaluate_streaming, floor_for, open_subject, predictions_of
    from training.linear import compared
    from training.log import make_folder
    from training.metrics import summary

    make_folder(out)
    subject = open_subject(checkpoint, manifest, split, features, device, lambda x: progress(x, "encoding"))
    for note in subject.notes:
        stderr_note(note)
    results = evaluate_streaming(subject, device, adaptation) if through == "analyzer" else score(subject)
    numbers = {mode: {view: summary(s) for view, s in views.items()} for mode, views in results.items()}
    floor, why = floor_for(subject, manifest, features)
    if floor is None:
        stderr_note(why)
    linear = {view: summary(s) for view, s in floor.score(subject.dialogues).items()} if floor else {}
    if linear:
        numbers["linear"] = linear
    if json_ is not None:
        _write(json_, json.dumps(numbers, indent=2) + "\n")
    if predictions is not None:
        with writing_to(predictions, "--predictions") as lines:
            for prediction in predictions_of(subject, results):
                lines.write(json.dumps(prediction, ensure_ascii=False) + "\n")
    if card:
        _into_card(subject.checkpoint.folder, split, numbers)
    _show_results(numbers, subject.checkpoint, subject.manifest.corpus.name, split, out)
    trained = subject.checkpoint.model.config.mode
    for line in compared(numbers.get(trained, {}), linear):
        print(line)


def _show_results(numbers: Any, checkpoint: Any, corpus: str, split: str, out: Path) -> None:
    from training.report import overview, per_class, save_pictures

    screen = console()
    trained = checkpoint.model.config.mode
    title = f"{checkpoint.model_id} on {corpus}, {split} (trained for {trained} context)"
    screen.print(overview(numbers, title))
    mode = trained if trained in numbers else next(iter(numbers))
    view = next(iter(numbers[mode]))
    screen.print(per_class(numbers[mode][view], f"{mode} context, {view}: per class, and what it was taken for"))
    modes = {mode: views for mode, views in numbers.items() if mode != "linear"}
    for path in save_pictures(modes, out):
        screen.print(str(path), markup=False)


def _into_card(folder: Path, split: str, numbers: Any) -> None:
    from training.card import with_results

    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else f"# {folder.name}\n"
    _write(path, with_results(card, split, numbers))


def _write(path: Path, text: str) -> None:
    from training.log import writing

    with writing(path):
        path.write_text(text, encoding="utf-8")
