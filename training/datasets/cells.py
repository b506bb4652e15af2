"""The cells of somebody's table, JSON lines or Parquet: where each line stands, and its vectors as arrays.

Vectors never become Python numbers on their way, where the file allows it: a corpus of them is large.
"""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from bcaf_stream.errors import DataError
from bcaf_stream.types import VectorD
from training.datasets.manifest import VECTORS, read_parquet, vectors_in

NAMES = ("manifest.jsonl", "manifest.parquet")
JSON_LINES = (".jsonl", ".ndjson", ".json")
NAME = 24  # characters; what is longer, or has a space, may be what somebody said, in the wrong column


def is_pandas_index(column: str) -> bool:
    """Whether pandas itself made this column, to keep the numbers of its rows in a Parquet file."""
    return re.fullmatch(r"__index_level_\d+__", column) is not None


def find_table(root: Path) -> Path:
    """The table: a file, or the one in a folder. Raises DataError."""
    if root.is_file():
        return root
    found = [root / name for name in NAMES if (root / name).is_file()]
    if not found:
        raise DataError(f"{root}: holds neither {' nor '.join(NAMES)}")
    if len(found) > 1:
        raise DataError(f"{root}: holds both {' and '.join(NAMES)}; name the one to read")
    return found[0]


def cells_of(path: Path, ignored: Collection[str], columns: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
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
    table = table.drop_columns(sorted(name for name in columns if name in ignored or is_pandas_index(name)))
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
        given = "str" if isinstance(wrong[0], str) else shown(wrong[0])
        raise DataError(f"{where}: {key}: {given} given; a vector is one flat list of numbers, or null")
    try:
        with np.errstate(over="ignore"):  # becomes infinite, and that is refused by name
            return np.asarray(value, dtype=np.float32)
    except OverflowError:
        raise DataError(f"{where}: {key}: holds a number beyond float32; compute it again") from None


def shown(value: Any) -> str:
    """A wrong value for a message: names and numbers as they are, of anything else its type alone."""
    if isinstance(value, str):
        return repr(value) if len(value) <= NAME and not re.search(r"\s", value) else f"{len(value)} characters"
    return repr(value) if value is None or isinstance(value, bool | int | float) else type(value).__name__
