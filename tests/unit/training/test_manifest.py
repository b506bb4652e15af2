"""Vectors in tables: whatever kind of column they stand in, they are read exactly and never as Python numbers."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import DataError
from training.datasets.audit import audit
from training.datasets.manifest import (
    ROWS_AT_ONCE,
    Corpus,
    Manifest,
    Row,
    read_manifest,
    read_parquet,
    vectors_in,
    write_manifest,
)
from training.datasets.sound import listen
from training.datasets.table import read_table

CORPUS = Corpus("made", ("joy",), "none", "test")
LISTS = {
    "list": pa.list_,
    "large list": pa.large_list,
    "fixed list": lambda kind: pa.list_(kind, 3),
}


def table(vectors: pa.Array) -> pa.Table:
    many = len(vectors)
    return pa.table(
        {
            "split": ["train"] * many,
            "call": ["c"] * many,
            "utterance": list(range(many)),
            "text": ["oh"] * many,
            "label": pa.array(["joy"] * many).dictionary_encode(),
            "audio_vector": vectors,
        }
    )


def written(folder, vectors: pa.Array):
    pq.write_table(table(vectors), folder / "mine.parquet")
    return folder / "mine.parquet"


def same(found, expected) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == np.float32
            np.testing.assert_array_equal(mine, np.asarray(theirs, np.float32))


numbers = st.floats(width=16, allow_nan=False, allow_infinity=False)
lists = st.lists(st.none() | st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    lists,
    st.sampled_from(list(LISTS)),
    st.sampled_from([pa.float16(), pa.float32(), pa.float64()]),
    st.integers(0, 2),
)
def test_vectors_of_every_kind_are_read_as_they_are(tmp_path_factory, vectors, kind, number, cut):
    column = pa.array(
        [None if v is None else np.array(v, number.to_pandas_dtype()) for v in vectors], LISTS[kind](number)
    )
    same(vectors_in(pa.chunked_array([column, column[cut:]])), vectors + vectors[cut:])
    found = read_table(written(tmp_path_factory.mktemp("t"), column))
    same([row.audio_vector for row in found.rows], vectors)
    assert {row.label for row in found.rows} == {"joy"}


def test_whole_numbers_are_vectors_too_and_a_column_of_nulls_is_none(tmp_path):
    (row,) = read_table(written(tmp_path, pa.array([[1, 2]]))).rows
    same([row.audio_vector], [[1, 2]])
    (row,) = read_table(written(tmp_path, pa.nulls(1))).rows
    assert row.audio_vector is None


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        ([[0.5], [0.5, None]], "None"),
        ([None, "0.5 0.5"], "str"),
        ([None, [[0.5]]], "list"),
        ([None, ["oh"]], "str"),
        ([None, [True]], "True"),
        ([None, 0.5], "0.5"),
    ],
)
def test_a_cell_that_is_no_vector_is_named_by_its_row(tmp_path, wrong, given):
    message = rf"mine.parquet: row 1: audio_vector: {given} given; a vector is one flat list of numbers, or null$"
    with pytest.raises(DataError, match=message):
        read_table(written(tmp_path, pa.array(wrong)))


def test_a_number_beyond_float32_is_refused_by_the_audit_and_warns_nobody(tmp_path):
    found = read_table(written(tmp_path, pa.array([[0.5, 0.5], [1e300, 0.5]])))
    with pytest.raises(DataError, match=r"c/1: its audio vector holds NaN or infinity as float32"):
        audit(listen(found))


def test_a_manifest_of_several_parts_comes_back_whole(tmp_path):
    many = 2 * ROWS_AT_ONCE + 3
    vectors = np.random.default_rng(0).normal(size=(many, 2)).astype(np.float32)
    rows = tuple(
        Row("train", "c", f"{i}", i, "x", 0, 1, text="oh", audio_vector=None if i % 5 == 0 else vectors[i])
        for i in range(many)
    )
    again = read_manifest(write_manifest(Manifest(CORPUS, rows), tmp_path))
    assert again.corpus == CORPUS
    assert [row.utterance for row in again.rows] == [row.utterance for row in rows]
    same([row.audio_vector for row in again.rows], [row.audio_vector for row in rows])
    assert {row.text_vector for row in again.rows} == {None}


def test_a_manifest_without_a_row_comes_back(tmp_path):
    again = read_manifest(write_manifest(Manifest(CORPUS, ()), tmp_path))
    assert (again.corpus, again.rows) == (CORPUS, ())


def test_the_names_of_its_folders_are_no_columns(tmp_path):
    folder = tmp_path / "speaker=Ann"
    folder.mkdir()
    assert "speaker" not in read_parquet(written(folder, pa.nulls(1))).column_names


def test_vectors_never_become_python_numbers(tmp_path):
    """Those take eight times the room: a corpus of 30,000 vectors would not fit where it is trained."""
    vectors = np.zeros((2000, 256), np.float32)
    path = written(tmp_path, pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 256))
    tracemalloc.start()
    try:
        write_manifest(read_table(path), tmp_path / "made")
        read_manifest(tmp_path / "made")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * vectors.nbytes
