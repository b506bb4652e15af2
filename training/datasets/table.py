"""A corpus of one's own: JSON lines, or a Parquet table with the same columns, one utterance each.

    {"split": "train", "call": "c1", "utterance": "c1-0", "channel": "customer", "start_ms": 0, "end_ms": 1800,
     "text": "hello?", "label": "neutral", "audio": "clips/c1-0.wav"}

Required: split, call, utterance, channel; of text, audio, audio_vector and text_vector at least one. Numbers
count as names and labels; `label` may be null (context). The lines of a call stand in its order; `start_ms` and
`end_ms` say when, where somebody knows. `audio` is relative to the table's folder; without `audio_start_ms` and
`audio_end_ms` the whole file is the utterance. `speaker` says who speaks, for the leak check. `text_vector`
and `audio_vector` are features that somebody computed already, of any width.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import DataError
from training.datasets.manifest import SPLITS, Corpus, Manifest, Row, Split, content_key, vector

NAMES = ("manifest.jsonl", "manifest.parquet")


def _numbered(value: Any) -> Any:
    return str(value) if type(value) is int else value


Name = Annotated[str, BeforeValidator(_numbered), Field(min_length=1)]


class Record(Config):
    """One line of the table."""

    split: Split
    call: Name
    utterance: Name
    channel: Name
    start_ms: int = Field(default=0, ge=0)
    end_ms: int = Field(default=0, ge=0)
    text: str | None = None
    label: Name | None = None
    speaker: Name | None = None
    audio: str | None = None
    audio_start_ms: int | None = Field(default=None, ge=0)
    audio_end_ms: int | None = None
    audio_vector: list[float] | None = None
    text_vector: list[float] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Record":
        if self.end_ms < self.start_ms:
            raise ValueError("end_ms lies before start_ms")
        if (self.audio_start_ms is None) != (self.audio_end_ms is None):
            raise ValueError("audio_start_ms and audio_end_ms go together")
        if self.text is None and self.audio is None and self.audio_vector is None and self.text_vector is None:
            raise ValueError("at least one of text, audio, text_vector and audio_vector is needed")
        return self


def read_table(
    root: Path,
    *,
    name: str | None = None,
    licence: str = "not stated",
    shared_speakers: bool = False,
    vectors: dict[str, str] | None = None,
) -> Manifest:
    """Read a table, given its file or the folder with manifest.jsonl or manifest.parquet.

    `vectors` names the encoders that precomputed vectors came from. Labels are those that occur, sorted.

    Raises:
        DataError: there is no table, or a line of it is wrong; the line is named.
    """
    path = _find(root)
    rows: list[Row] = []
    calls: dict[str, int] = {}
    for where, data in _records(path):
        record = _parse(where, data)
        rows.append(_row(record, calls.setdefault(record.call, 0)))
        calls[record.call] += 1
    if not rows:
        raise DataError(f"{path}: holds no utterance")
    pairs = tuple((a, b) for i, a in enumerate(SPLITS) for b in SPLITS[i + 1 :])
    corpus = Corpus(
        name=name or path.resolve().parent.name,
        labels=tuple(sorted({row.label for row in rows if row.label is not None})),
        licence=licence,
        source=path.name,
        root=str(path.resolve().parent),
        separation=_separation(rows, shared_speakers),
        speakers_apart=() if shared_speakers else pairs,
        vectors=vectors or {},
    )
    return Manifest(corpus, tuple(rows))


def with_dev(manifest: Manifest, share: float) -> Manifest:
    """The manifest with a dev split: `share` of the train dialogues, in the order of a hash of their names.

    Raises:
        DataError: it has one already.
    """
    if manifest.split("dev"):
        raise DataError("there is a dev split already; leave --dev-share out")
    calls = sorted({row.call for row in manifest.split("train")}, key=lambda call: content_key(call.encode()))
    taken = set(calls[: math.ceil(share * len(calls))])
    rows = tuple(replace(row, split="dev") if row.call in taken else row for row in manifest.rows)
    note = f"dev: {len(taken)} of the {len(calls)} train dialogues, drawn by a hash of their names"
    return Manifest(replace(manifest.corpus, notes=(*manifest.corpus.notes, note)), rows)


def _separation(rows: list[Row], shared_speakers: bool) -> str:
    if shared_speakers:
        return "by dialogue; speakers may be shared"
    known = all(row.speaker is not None for row in rows)
    return "by dialogue and by speaker" if known else "by dialogue; not every speaker is named"


def _find(root: Path) -> Path:
    if root.is_file():
        return root
    found = [root / name for name in NAMES if (root / name).is_file()]
    if not found:
        raise DataError(f"{root}: holds neither {' nor '.join(NAMES)}")
    if len(found) > 1:
        raise DataError(f"{root}: holds both {' and '.join(NAMES)}; name the one to read")
    return found[0]


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix == ".parquet":
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: no Parquet table: {str(error).splitlines()[0]}") from None
        yield from ((f"{path}: row {number}", record) for number, record in enumerate(table.to_pylist()))
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except ValueError:
                raise DataError(f"{path}:{number}: not a JSON object") from None


def _parse(where: str, data: dict[str, Any]) -> Record:
    try:
        return Record.model_validate_json(json.dumps(data))
    except ValidationError as error:
        missing = [str(one["loc"][0]) for one in error.errors() if one["type"] == "missing"]
        if missing:
            raise DataError(f"{where}: without {', '.join(missing)}") from None
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise DataError(
                f"{where}: {key} is no column of a manifest; known: {', '.join(Record.model_fields)}"
            ) from None
        raise DataError(f"{where}: {key + ': ' if key else ''}{first['msg']}") from None


def _row(record: Record, order: int) -> Row:
    """Utterances of a call stand in the table in their order."""
    cut = None
    if record.audio_start_ms is not None and record.audio_end_ms is not None:
        cut = (record.audio_start_ms, record.audio_end_ms)
    return Row(
        **record.model_dump(exclude={"audio_start_ms", "audio_end_ms", "audio_vector", "text_vector"}),
        order=order,
        cut_ms=cut,
        audio_vector=vector(record.audio_vector),
        text_vector=vector(record.text_vector),
    )
