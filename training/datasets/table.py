"""A corpus of one's own: JSON lines (.jsonl), or a Parquet table with the same columns, one utterance each.

    {"split": "train", "call": "c1", "utterance": "c1-0", "channel": "customer", "start_ms": 0, "end_ms": 1800,
     "text": "hello?", "label": "neutral", "audio": "clips/c1-0.wav"}

Required: split (train, dev or test), call, utterance; of text, audio, audio_vector and text_vector at least one.
A column may be left out, and a cell may be null, wherever it is not required. Whole numbers count as names and
labels: 1 and 1.0 are "1". The lines of a call stand in its order.

    label           null is context: heard by the model, never trained on or scored
    speaker         who speaks, for the leak check; null where nobody knows, since every name is taken for a person
    channel         the side of the call; without one it is the speaker's name, or "speaker"
    start_ms        and end_ms: when in the call, where somebody knows
    audio           relative to the table's folder; audio_start_ms and audio_end_ms cut the utterance out of it
    audio_vector    and text_vector: features that somebody computed already, of any one width; in Parquet lists
                    of any size or of a fixed one, of floats (16, 32 or 64 bits) or of whole numbers

A split may be missing: fit needs train and dev, evaluate the one that it scores. Labels and splits with other
names are renamed, and columns that are not listed here are left out, only where the caller says so; but the index
that pandas writes into a Parquet file goes by itself, with a note.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import DataError
from training.datasets.cells import NAME, cells_of, find_table, is_pandas_index, shown
from training.datasets.manifest import SPLITS, VECTORS, Corpus, Manifest, Row, Split, content_key

EXACT = 2**53  # floats beyond it are not told apart from their neighbours
LISTED = 20  # names that there are instead of one that there is not


def _whole(value: Any) -> Any:
    """Whole numbers become floats in a table with gaps."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < EXACT else value


def _named(value: Any) -> Any:
    value = _whole(value)
    return str(value) if type(value) is int else value


def _encodable(value: str) -> str:
    value.encode()  # JSON can spell half a character; a UnicodeEncodeError is a ValueError
    return value


Words = Annotated[str, AfterValidator(_encodable)]
Name = Annotated[Words, BeforeValidator(_named), Field(min_length=1)]
Ms = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=EXACT)]


class Record(Config):
    """One line of the table; its vectors are checked already."""

    split: Split
    call: Name
    utterance: Name
    channel: Name | None = None
    start_ms: Ms = 0
    end_ms: Ms = 0
    text: Words | None = None
    label: Name | None = None
    speaker: Name | None = None
    audio: Words | None = None
    audio_start_ms: Ms | None = None
    audio_end_ms: Ms | None = None
    audio_vector: Any = None
    text_vector: Any = None

    @model_validator(mode="after")
    def _fits(self) -> "Record":
        if self.end_ms < self.start_ms:
            raise ValueError(f"end_ms lies before start_ms: {self.end_ms} before {self.start_ms}")
        if (self.audio_start_ms is None) != (self.audio_end_ms is None):
            raise ValueError("audio_start_ms and audio_end_ms go together")
        if self.text is None and self.audio is None and self.audio_vector is None and self.text_vector is None:
            raise ValueError("at least one of text, audio, text_vector and audio_vector is needed")
        return self


WAYS = {  # what a column must hold, and the way out
    "split": "must be train, dev or test; --split OLD=NEW renames one",
    "label": "must be a name; null is an utterance without a label, and --label OLD= makes it so",
    "speaker": "must be a name; null is a speaker who is not known",
    "channel": "must be a name, or null",
    "call": "must be a name or a whole number",
    "utterance": "must be a name or a whole number",
    "text": "must be a string of whole characters, or null",
}


def read_table(
    root: Path,
    *,
    name: str | None = None,
    licence: str = "not stated",
    shared_speakers: bool = False,
    vectors: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
    ignored: Collection[str] = (),
) -> Manifest:
    """Read a table, given its file or the folder with manifest.jsonl or manifest.parquet.

    `vectors` names the encoders that precomputed vectors came from. `labels` and `splits` rename, a label to ""
    takes it away, and the columns `ignored` are left out. Labels are those that then occur, sorted.

    Raises:
        DataError: there is no table, a line of it is wrong (the line is named), or what is to be renamed or
            left out does not occur.
    """
    path = find_table(root)
    new: dict[str, Mapping[str, str]] = {"label": labels or {}, "split": splits or {}}
    there: dict[str, set[str]] = {"label": set(), "split": set(), "column": set()}
    rows: list[Row] = []
    calls: dict[str, int] = {}
    for where, data in cells_of(path, ignored, there["column"]):
        for column in new:
            _rename(data, column, new[column], there[column])
        record = _parse(where, data)
        rows.append(_row(record, calls.setdefault(record.call, 0)))
        calls[record.call] += 1
    if not rows:
        raise DataError(f"{path}: holds no utterance")
    for option, asked, known in (
        ("--label", new["label"], there["label"]),
        ("--split", new["split"], there["split"]),
        ("--ignore", ignored, there["column"]),
    ):
        _refuse_absent(path, option, asked, known)
    pairs = tuple((a, b) for i, a in enumerate(SPLITS) for b in SPLITS[i + 1 :])
    corpus = Corpus(
        name=name or path.resolve().parent.name,
        labels=tuple(sorted({row.label for row in rows if row.label is not None})),
        licence=licence,
        source=path.name,
        root=str(path.resolve().parent),
        separation=_separation(rows, shared_speakers),
        speakers_apart=() if shared_speakers else pairs,
        notes=_notes(new["label"], new["split"], [*ignored, *sorted(filter(is_pandas_index, there["column"]))]),
        vectors=vectors or {},
    )
    return Manifest(corpus, tuple(rows))


def with_dev(manifest: Manifest, share: float) -> Manifest:
    """The manifest with a dev split: `share` of the train dialogues, in the order of a hash of their names.

    A speaker may then be in train and in dev, but still not in either and in test.

    Raises:
        DataError: it has one already, or train has no two dialogues.
    """
    if manifest.split("dev"):
        raise DataError("there is a dev split already; leave --dev-share out")
    calls = sorted({row.call for row in manifest.split("train")}, key=lambda call: content_key(call.encode()))
    if len(calls) < 2:
        raise DataError(
            f"--dev-share draws dev from the train dialogues, and there are {len(calls)}; leave it out"
        )
    taken = set(calls[: math.ceil(share * len(calls))])
    rows = tuple(replace(row, split="dev") if row.call in taken else row for row in manifest.rows)
    corpus = manifest.corpus
    apart = tuple(pair for pair in corpus.speakers_apart if pair != ("train", "dev"))
    shared = "" if apart == corpus.speakers_apart else "; but dev may share speakers with train"
    note = f"dev: {len(taken)} of the {len(calls)} train dialogues, drawn by a hash of their names"
    corpus = replace(
        corpus, speakers_apart=apart, separation=corpus.separation + shared, notes=(*corpus.notes, note)
    )
    return Manifest(corpus, rows)


def _separation(rows: list[Row], shared_speakers: bool) -> str:
    if shared_speakers:
        return "by dialogue; speakers may be shared"
    known = all(row.speaker is not None for row in rows)
    return "by dialogue and by speaker" if known else "by dialogue; not every speaker is named"


def _notes(labels: Mapping[str, str], splits: Mapping[str, str], ignored: Collection[str]) -> tuple[str, ...]:
    changes = {
        "labels renamed": [f"{old} to {new}" for old, new in labels.items() if new],
        "labels taken away": [old or "(empty)" for old, new in labels.items() if not new],
        "splits renamed": [f"{old} to {new}" for old, new in splits.items()],
        "columns left out": list(ignored),
    }
    return tuple(f"{what}: {', '.join(names)}" for what, names in changes.items() if names)


def _rename(data: dict[str, Any], column: str, new: Mapping[str, str], there: set[str]) -> None:
    old = _named(data.get(column))
    if isinstance(old, str):
        there.add(old)
        if old in new:
            data[column] = new[old] or None


def _refuse_absent(path: Path, option: str, asked: Collection[str], there: Collection[str]) -> None:
    absent = [one for one in asked if one not in there]
    if absent:
        names = ", ".join(shown(one).strip("'") for one in sorted(there)[:LISTED]) + (
            ", ..." if len(there) > LISTED else ""
        )
        raise DataError(f"{path}: {option} {absent[0]!r} does not occur; there are: {names or 'none'}")


def _parse(where: str, data: dict[str, Any]) -> Record:
    known = {key: value for key, value in data.items() if value is not None or key not in Record.model_fields}
    try:
        return Record.model_validate(known)
    except ValidationError as error:
        raise DataError(f"{where}: {_why(error)}") from None


def _why(error: ValidationError) -> str:
    """What is wrong with a line; values are shown, but never what somebody said."""
    missing = [str(one["loc"][0]) for one in error.errors() if one["type"] == "missing"]
    if missing:
        return f"without {', '.join(missing)}"
    first = error.errors()[0]
    if not first["loc"]:
        return str(first["ctx"]["error"])
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = ", ".join(Record.model_fields)
        name = key if key.isidentifier() and len(key) <= NAME else shown(key)
        return f"{name} is no column of a manifest; known: {known}; --ignore {name} leaves it out"
    given = type(first["input"]).__name__ if key == "text" else shown(first["input"])
    return f"{key}: {given} given; {WAYS.get(key) or first['msg'][0].lower() + first['msg'][1:]}"


def _row(record: Record, order: int) -> Row:
    """Utterances of a call stand in the table in their order."""
    cut = None
    if record.audio_start_ms is not None and record.audio_end_ms is not None:
        cut = (record.audio_start_ms, record.audio_end_ms)
    return Row(
        **record.model_dump(exclude={"channel", "audio_start_ms", "audio_end_ms", *VECTORS}),
        channel=record.channel or record.speaker or "speaker",
        order=order,
        cut_ms=cut,
        audio_vector=record.audio_vector,
        text_vector=record.text_vector,
    )
