"""bcaf-train prepare: from a corpus as it is published, or a table of one's own, to a manifest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bcaf_stream.console import stderr_note
from bcaf_stream.errors import UsageError
from training.cli.show import console, progress

if TYPE_CHECKING:
    from training.datasets.manifest import Manifest

Root = Annotated[Path, typer.Option(help="the corpus's folder, as it is published")]
ManifestFolder = Annotated[Path, typer.Option(help="folder for manifest.parquet")]

preparing = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


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

    heard = listen(manifest, progress=lambda rows: progress(rows, "listening", len(manifest.rows)))
    found = audit(heard)
    path = write_manifest(heard.manifest, out)
    _show_audit(heard.manifest, found)
    print(f"{path}: {len(heard.manifest.rows)} utterances, {' and '.join(heard.manifest.modalities)}")


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

    screen = console()
    # Not the table's own title: that is broken where it is wider than the table.
    screen.print(f"{manifest.corpus.name}: utterances by label and split", markup=False, soft_wrap=True)
    table = Table()
    for column in ("label", *SPLITS):
        table.add_column(column, justify="left" if column == "label" else "right")
    rows = [*found.labels.items(), ("all", found.utterances), ("dialogues", found.calls)]
    rows += [("without sound", found.without_sound), ("without text", found.without_text)]
    for label, counts in rows:
        table.add_row(Text(label), *(str(counts[split]) for split in SPLITS))
    screen.print(table)
    for note in (f"splits: {manifest.corpus.separation}", *manifest.corpus.notes):
        screen.print(note, markup=False)
    for what, names in found.findings:
        stderr_note(f"{len(names)} {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
