"""bcaf-train: from a corpus to a checkpoint, and what it is worth."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bcaf_stream.config import load_config
from bcaf_stream.console import run, stderr_note, writing_to
from bcaf_stream.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from training.datasets.manifest import Manifest
    from training.trainer import Record
    from training.training_data import TrainingData

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file; see configs/train")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, over the file")]
Root = Annotated[Path, typer.Option(help="the corpus's folder, as it is published")]
ManifestFolder = Annotated[Path, typer.Option(help="folder for manifest.parquet")]

preparing = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    preparing, name="prepare", help="Read a corpus, listen to every clip, audit it, and write one manifest."
)


@app.callback()
def main_help() -> None:
    """Prepare a corpus, compute features, train, evaluate, ablate, search."""


@preparing.command()
def meld(root: Root, out: ManifestFolder) -> None:
    """MELD as it is published: MELD.Raw."""
    from training.datasets.meld import read_meld

    _prepare(read_meld(root), out)


@preparing.command()
def iemocap(
    root: Root,
    out: ManifestFolder,
    classes: Annotated[
        Literal["6", "4"], typer.Option(help="six emotions, or four (happy takes excited in)")
    ] = "6",
    keep_unlabelled: Annotated[bool, typer.Option(help="other labels stay as context")] = False,
) -> None:
    """IEMOCAP as it is published: IEMOCAP_full_release."""
    from training.datasets.iemocap import read_iemocap

    _prepare(read_iemocap(root, int(classes), keep_unlabelled), out)


@preparing.command("manifest")
def manifest_(
    root: Annotated[Path, typer.Option(help="the table (.jsonl, .parquet), or the folder that it lies in")],
    out: ManifestFolder,
    dev_share: Annotated[
        float, typer.Option(help="this share of the train dialogues becomes dev", min=0, max=0.5)
    ] = 0.0,
    name: Annotated[str | None, typer.Option(help="what to call the corpus")] = None,
    licence: Annotated[str, typer.Option(help="goes into the model card")] = "not stated",
    shared_speakers: Annotated[bool, typer.Option(help="speakers may stand in several splits")] = False,
    vectors: Annotated[list[str] | None, typer.Option(help="audio=NAME, text=NAME: their encoders")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="rename a label; OLD= takes it away")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="rename a split, as Development=dev")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="leave it out")] = None,
) -> None:
    """A table of your own: see training/datasets/table.py."""
    from training.datasets.table import read_table, with_dev

    if out.resolve() == (root if root.is_dir() else root.parent).resolve():
        raise UsageError(f"--out {out}: the table lies there; give another folder for the manifest")
    table = read_table(
        root,
        name=name,
        licence=licence,
        shared_speakers=shared_speakers,
        vectors=_encoders(vectors or []),
        labels=_renames("--label", label or []),
        splits=_splits(split or []),
        ignored=ignore or [],
    )
    _prepare(with_dev(table, dev_share) if dev_share else table, out)


def _prepare(manifest: "Manifest", out: Path) -> None:
    from training.datasets.audit import audit
    from training.datasets.manifest import write_manifest
    from training.datasets.sound import listen

    heard = listen(manifest, progress=lambda rows: _progress(rows, "listening", len(manifest.rows)))
    found = audit(heard)
    path = write_manifest(heard.manifest, out)
    _show_audit(heard.manifest, found)
    print(f"{path}: {len(heard.manifest.rows)} utterances, {' and '.join(heard.manifest.modalities)}")


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
    from training.config import TrainConfig  # torch and Ray load in seconds: not for --help
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
    dev = json.loads((settings.folder / RESULTS).read_text(encoding="utf-8"))["dev"]
    for line in compared(dev[settings.model.mode], dev["linear"]):
        print(line)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="a folder, a hub id, or compact")],
    manifest: Annotated[Path, typer.Option(help="what prepare wrote")],
    split: Annotated[Literal["train", "dev", "test"], typer.Option(help="which part of the corpus")] = "test",
    through: Annotated[
        Literal["batch", "analyzer"], typer.Option(help="whole dialogues, or the live path")
    ] = "batch",
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
    subject = open_subject(checkpoint, manifest, split, features, device, lambda x: _progress(x, "encoding"))
    for note in subject.notes:
        stderr_note(note)
    results = evaluate_streaming(subject, device) if through == "analyzer" else score(subject)
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


def _encoders(pairs: list[str]) -> dict[str, str]:
    named = dict(pair.partition("=")[::2] for pair in pairs)
    if not set(named) <= {"audio", "text"} or not all(named.values()):
        raise UsageError("--vectors must be audio=NAME or text=NAME")
    return named


def _renames(option: str, pairs: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for pair in pairs:
        old, sign, new = pair.partition("=")
        if not sign or old in names:
            raise UsageError(f"{option} {pair}: must be OLD=NEW, and each OLD once")
        names[old] = new
    return names


def _splits(pairs: list[str]) -> dict[str, str]:
    from training.datasets.manifest import SPLITS

    names = _renames("--split", pairs)
    for old, new in names.items():
        if new not in SPLITS:
            raise UsageError(f"--split {old}={new}: a split is {', '.join(SPLITS)}")
    return names


def _show_audit(manifest: "Manifest", found: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from training.datasets.manifest import SPLITS

    console = _console()
    # Not the table's own title: that is broken where it is wider than the table.
    console.print(f"{manifest.corpus.name}: utterances by label and split", markup=False, soft_wrap=True)
    table = Table()
    for column in ("label", *SPLITS):
        table.add_column(column, justify="left" if column == "label" else "right")
    rows = [*found.labels.items(), ("all", found.utterances), ("dialogues", found.calls)]
    rows += [("without sound", found.without_sound), ("without text", found.without_text)]
    for label, counts in rows:
        table.add_row(Text(label), *(str(counts[split]) for split in SPLITS))
    console.print(table)
    for note in (f"splits: {manifest.corpus.separation}", *manifest.corpus.notes):
        console.print(note, markup=False)
    for what, names in found.findings:
        stderr_note(f"{len(names)} {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")


def _show_results(numbers: Any, checkpoint: Any, corpus: str, split: str, out: Path) -> None:
    from training.report import overview, per_class, save_pictures

    console = _console()
    trained = checkpoint.model.config.mode
    title = f"{checkpoint.model_id} on {corpus}, {split} (trained for {trained} context)"
    console.print(overview(numbers, title))
    mode = trained if trained in numbers else next(iter(numbers))
    view = next(iter(numbers[mode]))
    console.print(per_class(numbers[mode][view], f"{mode} context, {view}: per class, and what it was taken for"))
    modes = {mode: views for mode, views in numbers.items() if mode != "linear"}
    for path in save_pictures(modes, out):
        console.print(str(path), markup=False)


def _into_card(folder: Path, split: str, numbers: Any) -> None:
    from training.card import with_results

    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else f"# {folder.name}\n"
    _write(path, with_results(card, split, numbers))


def _write(path: Path, text: str) -> None:
    from training.log import writing

    with writing(path):
        path.write_text(text, encoding="utf-8")


def _console() -> "Console":
    """Wide enough for the tables where nobody says how wide the terminal is."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def _progress(rows: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """A bar on standard error, so that what is printed stays clean in a pipe."""
    from rich.console import Console
    from rich.progress import track

    return track(rows, description=what, total=total, console=Console(stderr=True), transient=True)


def main() -> None:
    run(app, "bcaf-train")


if __name__ == "__main__":
    main()
