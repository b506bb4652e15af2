"""Feature vectors on disk: Parquet shards in a folder that is named after everything that could change a number.

    <root>/<modality>-<digest>/about.json         encoder, hash of its weights, options, code version, width
    <root>/<modality>-<digest>/part-*.parquet     key (hash of the content), vector

A shard appears whole or not at all, so an interrupted run goes on where it stopped. Keys name content, not
files: the same words are encoded once, and a moved corpus keeps its features.
"""

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import bcaf_stream.encoders
from bcaf_stream.errors import DataError
from bcaf_stream.files import replacing
from bcaf_stream.types import Modality
from training.datasets.manifest import content_key

Options = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made the vectors; two makers never share a folder."""

    modality: Modality
    kind: str
    name: str
    weights_hash: str
    width: int
    options: Options
    code: str

    @property
    def digest(self) -> str:
        return content_key(json.dumps(asdict(self), sort_keys=True).encode())[:16]

    @property
    def folder_name(self) -> str:
        return f"{self.modality}-{self.digest}"


@cache
def code_version() -> str:
    """A hash of what the encoders' code says; comments and layout do not count."""
    folder = Path(bcaf_stream.encoders.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()[:16]


class FeatureStore:
    """The vectors of one maker.

    Raises:
        DataError: a shard is broken, is not finite, or was made by another encoder.
    """

    def __init__(self, root: Path, maker: Maker) -> None:
        self.maker = maker
        self.folder = root / maker.folder_name

    def keys(self) -> set[str]:
        """What has been encoded so far."""
        return {key for path in self._shards() for key in self._table(path, ["key"])["key"].to_pylist()}

    def read(self) -> dict[str, NDArray[np.float32]]:
        """Every vector by its key."""
        found: dict[str, NDArray[np.float32]] = {}
        for path in self._shards():
            table = self._table(path, ["key", "vector"])
            vectors_ND = (
                np.stack(table["vector"].to_numpy(zero_copy_only=False)) if len(table) else np.zeros((0, 0))
            )
            found |= zip(table["key"].to_pylist(), vectors_ND.astype(np.float32), strict=True)
        return found

    def write(self, keys: Sequence[str], vectors_ND: NDArray[np.float32]) -> Path:
        """Add one shard, named after its keys.

        Raises:
            DataError: a vector is not finite, or the shard cannot be written.
        """
        broken = [key for key, vector in zip(keys, vectors_ND, strict=True) if not np.isfinite(vector).all()]
        if broken:
            raise DataError(f"{self.maker.name} gave a vector that is not finite (content {broken[0]})")
        flat = pa.array(np.ascontiguousarray(vectors_ND, dtype=np.float32).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, self.maker.width)
        table = pa.table({"key": list(keys), "vector": column})
        table = table.replace_schema_metadata({"maker": self.maker.digest})
        name = content_key(*(key.encode() for key in keys))[:16]
        path = self.folder / f"part-{name}.parquet"
        try:
            self._announce()
            with replacing(path) as draft:
                pq.write_table(table, draft, compression="zstd")
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
        return path

    def _announce(self) -> None:
        about = self.folder / "about.json"
        if not about.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            about.write_text(json.dumps(asdict(self.maker), indent=2) + "\n", encoding="utf-8")

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _table(self, path: Path, columns: list[str]) -> pa.Table:
        try:
            table = pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: broken feature shard ({reason}); delete it and run features again") from None
        maker = (table.schema.metadata or {}).get(b"maker", b"").decode()
        if maker != self.maker.digest:
            raise DataError(
                f"{path}: made by another encoder than {self.maker.name}; delete it and run features again"
            )
        return table


def find_makers(root: Path, modality: Modality) -> list[Maker]:
    """Every maker whose features lie under `root`.

    Raises:
        DataError: an about.json cannot be read.
    """
    found = []
    for path in sorted(root.glob(f"{modality}-*/about.json")):
        try:
            found.append(Maker(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            raise DataError(f"{path}: cannot be read; delete the folder and run features again") from None
    return found
