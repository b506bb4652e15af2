"""The manifest: one Parquet table of utterances, whatever corpus they came from, with what must be known of it.

The table's own metadata (key `bcaf`) says which corpus it is, its labels, its licence, what separates its
splits, and what the audit found. Vectors that somebody computed already may stand in the table itself.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bcaf_stream.errors import DataError
from bcaf_stream.files import replacing
from bcaf_stream.types import VectorD

SCHEMA = 1
FILE_NAME = "manifest.parquet"
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
VECTORS = ("audio_vector", "text_vector")
ROWS_AT_ONCE = 1024  # read or written: so many are in memory twice, not the whole table
READ_BYTES = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One utterance of a corpus.

    `call` is unique in the corpus and lies in one split; `utterance` is unique in its call. `order` is the
    position in its call. `label` None is context: heard by the model, never trained on or scored. `audio` is a
    path relative to the manifest's root, `cut_ms` the part of that file (None = all of it), `audio_key` the hash
    of what is heard; all three are None where there is no usable sound. Times are stream time of the call.
    """

    split: Split
    call: str
    utterance: str
    order: int
    channel: str
    start_ms: int
    end_ms: int
    text: str | None = None
    label: str | None = None
    speaker: str | None = None
    audio: str | None = None
    cut_ms: tuple[int, int] | None = None
    audio_key: str | None = None
    audio_vector: VectorD | None = None
    text_vector: VectorD | None = None

    @property
    def name(self) -> str:
        """For messages; corpora number their utterances through, or anew in each call."""
        return self.utterance if self.utterance.startswith(self.call) else f"{self.call}/{self.utterance}"


@dataclass(frozen=True, slots=True)
class Corpus:
    """What must be known of the data: it goes into the manifest and from there into every model card.

    `speakers_apart` lists the pairs of splits that may share no speaker; dialogues never may be shared.
    `vectors` names the encoders of precomputed vectors, by modality.
    """

    name: str
    labels: tuple[str, ...]
    licence: str
    source: str
    root: str = "."
    separation: str = ""
    speakers_apart: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    vectors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    corpus: Corpus
    rows: tuple[Row, ...]

    def split(self, name: Split) -> list[Row]:
        return [row for row in self.rows if row.split == name]

    def sound_of(self, row: Row) -> Path | None:
        return None if row.audio is None else Path(self.corpus.root) / row.audio

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of audio and text at least one utterance has."""
        audio = any(row.audio_key is not None or row.audio_vector is not None for row in self.rows)
        text = any(row.text is not None or row.text_vector is not None for row in self.rows)
        return tuple(name for name, there in (("audio", audio), ("text", text)) if there)


def calls_of(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each call in their order; calls in the order of their names."""
    ordered = sorted(rows, key=lambda row: (row.call, row.order))
    for call, group in groupby(ordered, key=lambda row: row.call):
        yield call, list(group)


def content_key(*parts: bytes) -> str:
    """A hash that names content, wherever it lies."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


SCHEMA_OF_ROWS = pa.schema(
    [
        ("split", pa.string()),
        ("call", pa.string()),
        ("utterance", pa.string()),
        ("order", pa.int32()),
        ("channel", pa.string()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("speaker", pa.string()),
        ("audio", pa.string()),
        ("cut_ms", pa.list_(pa.int64())),
        ("audio_key", pa.string()),
        ("audio_vector", pa.list_(pa.float32())),
        ("text_vector", pa.list_(pa.float32())),
    ]
)


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Write `manifest.parquet` into `folder`; it appears whole or not at all.

    Raises:
        DataError: the folder cannot be written.
    """
    about = {"schema": SCHEMA, **asdict(manifest.corpus)}
    schema = SCHEMA_OF_ROWS.with_metadata({"bcaf": json.dumps(about)})
    words = [name for name in schema.names if name not in VECTORS]  # no two numbers of a vector are the same
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path) as draft,
            pq.ParquetWriter(draft, schema, compression="zstd", use_dictionary=words) as file,
        ):
            for start in range(0, len(manifest.rows), ROWS_AT_ONCE):
                file.write_table(_table(manifest.rows[start : start + ROWS_AT_ONCE], schema))
    except OSError as error:
        raise DataError(f"{folder}: the manifest cannot be written: {error.strerror or error}") from None
    return path


def read_manifest(path: Path) -> Manifest:
    """Read a manifest, given its folder or its file.

    Raises:
        DataError: there is none, or it is of another kind or schema.
    """
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path}: no manifest here; make one with bcaf-train prepare")
    table = read_parquet(path)
    about = json.loads((table.schema.metadata or {}).get(b"bcaf", b"{}"))
    if about.pop("schema", None) != SCHEMA:
        raise DataError(
            f"{path}: a Parquet table, but no manifest of this version; run bcaf-train prepare manifest on it"
        )
    vectors = [vectors_in(table[name]) for name in VECTORS]
    records = table.drop_columns(list(VECTORS)).to_pylist()
    rows = (_row(record, audio, text) for record, audio, text in zip(records, *vectors, strict=True))
    return Manifest(_corpus(about), tuple(rows))


def read_parquet(path: Path) -> pa.Table:
    """The table of one file.

    Raises:
        DataError: it is none.
    """
    try:
        with pq.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False) as file:
            return pa.Table.from_batches(file.iter_batches(ROWS_AT_ONCE), schema=file.schema_arrow)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: no Parquet table: {str(error).splitlines()[0]}") from None


def vectors_in(column: pa.ChunkedArray) -> list[VectorD | None]:
    """The vectors of a column whose cells are lists of numbers: views of its own memory where that is float32."""
    found: list[VectorD | None] = []
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)  # without the lists that are null
        with np.errstate(over="ignore"):  # becomes infinite, and that is refused by name
            values = values.astype(np.float32, copy=False)
        widths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        ends = np.cumsum(widths)
        found += [
            values[end - width : end] if there else None
            for there, end, width in zip(chunk.is_valid().to_pylist(), ends, widths, strict=True)
        ]
    return found


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    return pa.table({f.name: [getattr(row, f.name) for row in rows] for f in fields(Row)}, schema=schema)


def _corpus(about: dict[str, Any]) -> Corpus:
    about["labels"] = tuple(about["labels"])
    about["notes"] = tuple(about["notes"])
    about["speakers_apart"] = tuple((first, second) for first, second in about["speakers_apart"])
    return Corpus(**about)


def _row(record: dict[str, Any], audio: VectorD | None, text: VectorD | None) -> Row:
    cut = record.pop("cut_ms")
    cut_ms = None if cut is None else (cut[0], cut[1])
    return Row(**record, cut_ms=cut_ms, audio_vector=audio, text_vector=text)
