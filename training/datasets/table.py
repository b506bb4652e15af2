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
names are renamed, and columns that are not listed here are left out, only where the caller says so.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pat
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import DataError
from bcaf_stream.types import VectorD
from training.datasets.manifest import (
    SPLITS,
    VECTORS,
    Corpus,
    Manifest,
    Row,
    Split,
    content_key,
    read_parquet,
    vectors_in,
)

NAMES = ("manifest.jsonl", "manifest.parquet")
JSON_LINES = (".jsonl", ".ndjson", ".json")
EXACT = 2**53  # floats beyond it are not told apart from their neighbours
SHOWN = 60  # characters of a wrong value
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


WAYS = {
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
    path = _find(root)
    new: dict[str, Mapping[str, str]] = {"label": labels or {}, "split": splits or {}}
    there: dict[str, set[str]] = {"label": set(), "split": set(), "column": set()}
    rows: list[Row] = []
    calls: dict[str, int] = {}
    for where, data in _records(path, ignored, there["column"]):
        for column in new:
            _rename(data, column, new[column], there[column])
        record = _parse(where, data)
        rows.append(_row(record, calls.setdefault(record.call, 0)))
        calls[record.call] += 1
    if not rows:
        raise DataError(f"{path}: holds no utterance")
    for option, wanted, known in (
        ("--label", new["label"], there["label"]),
        ("--split", new["split"], there["split"]),
        ("--ignore", ignored, there["column"]),
    ):
        _refuse_absent(path, option, wanted, known)
    pairs = tuple((a, b) for i, a in enumerate(SPLITS) for b in SPLITS[i + 1 :])
    corpus = Corpus(
        name=name or path.resolve().parent.name,
        labels=tuple(sorted({row.label for row in rows if row.label is not None})),
        licence=licence,
        source=path.name,
        root=str(path.resolve().parent),
        separation=_separation(rows, shared_speakers),
        speakers_apart=() if shared_speakers else pairs,
        notes=_notes(new["label"], new["split"], ignored),
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


def _find(root: Path) -> Path:
    if root.is_file():
        return root
    found = [root / name for name in NAMES if (root / name).is_file()]
    if not found:
        raise DataError(f"{root}: holds neither {' nor '.join(NAMES)}")
    if len(found) > 1:
        raise DataError(f"{root}: holds both {' and '.join(NAMES)}; name the one to read")
    return found[0]


def _records(path: Path, ignored: Collection[str], columns: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each utterance stands, and its cells with the vectors as arrays; `columns` collects their names."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet_rows(path, ignored, columns)
    if kind in JSON_LINES:
        return _json_lines(path, ignored, columns)
    raise DataError(
        f"{path}: is neither JSON lines (.jsonl) nor a Parquet table (.parquet); "
        "convert it, as pandas does: read_csv(...).to_parquet(...)"
    )


def _parquet_rows(path: Path, ignored: Collection[str], columns: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    table = read_parquet(path)
    columns.update(table.column_names)
    table = table.drop_columns(sorted(columns & set(ignored)))
    names = [name for name in VECTORS if name in table.column_names]
    vectors = [_vector_column(path, name, table[name]) for name in names]
    table = table.drop_columns(names)  # what the vectors were copied from is not needed any more
    for number, record in enumerate(table.to_pylist()):
        record |= {name: column[number] for name, column in zip(names, vectors, strict=True)}
        yield f"{path}: row {number}", record


def _vector_column(path: Path, name: str, column: pa.ChunkedArray) -> list[VectorD | None]:
    kind = column.type
    lists = pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind)
    numbers = lists and (pat.is_floating(kind.value_type) or pat.is_integer(kind.value_type))
    if numbers and not any(chunk.flatten().null_count for chunk in column.chunks):
        return vectors_in(column)
    return [_vector(f"{path}: row {number}", name, cell.as_py()) for number, cell in enumerate(column)]


def _json_lines(path: Path, ignored: Collection[str], columns: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                data = _object(where, line)
                columns.update(data)
                data = {key: value for key, value in data.items() if key not in ignored}
                yield where, data | {key: _vector(where, key, data[key]) for key in VECTORS if key in data}
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8; write it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        return data
    way = (
        "write what is in the array one a line" if line.lstrip().startswith("[") else "each line holds a whole one"
    )
    raise DataError(f"{where}: not a JSON object; {way}")


def _vector(where: str, key: str, value: Any) -> VectorD | None:
    if value is None:
        return None
    wrong = [one for one in value if type(one) not in (float, int)] if isinstance(value, list) else [value]
    if wrong:
        # A string may be what somebody said, in the wrong column.
        given = type(wrong[0]).__name__ if isinstance(wrong[0], str | list | dict) else _shown(wrong[0])
        raise DataError(f"{where}: {key}: {given} given; a vector is one flat list of numbers, or null")
    try:
        with np.errstate(over="ignore"):  # becomes infinite, and that is refused by name
            return np.asarray(value, dtype=np.float32)
    except OverflowError:
        raise DataError(f"{where}: {key}: holds a number beyond float32; compute it again") from None


def _rename(data: dict[str, Any], column: str, new: Mapping[str, str], there: set[str]) -> None:
    old = _named(data.get(column))
    if isinstance(old, str):
        there.add(old)
        if old in new:
            data[column] = new[old] or None


def _refuse_absent(path: Path, option: str, wanted: Collection[str], there: Collection[str]) -> None:
    absent = [one for one in wanted if one not in there]
    if absent:
        shown = ", ".join(sorted(there)[:LISTED]) + (", ..." if len(there) > LISTED else "")
        raise DataError(f"{path}: {option} {absent[0]!r} does not occur; there are: {shown or 'none'}")


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
        shown = key if key.isidentifier() else repr(key)
        known = ", ".join(Record.model_fields)
        return f"{shown} is no column of a manifest; known: {known}; --ignore {shown} leaves it out"
    given = type(first["input"]).__name__ if key == "text" else _shown(first["input"])
    return f"{key}: {given} given; {WAYS.get(key) or first['msg'][0].lower() + first['msg'][1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


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
