import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import DataError
from tests.unit.training.made import records, tone, write_jsonl, write_wav
from training.datasets.audit import audit
from training.datasets.manifest import Corpus, Manifest, Row, read_manifest, write_manifest
from training.datasets.sound import decode, listen
from training.datasets.table import read_table, with_dev

LINE = {
    "split": "train",
    "call": "c",
    "utterance": "c-0",
    "channel": "x",
    "start_ms": 0,
    "end_ms": 9,
    "text": "oh",
    "label": "joy",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotion": "joy"}, "emotion is no column of a manifest; known: split, call, "),
        ({"split": "validation"}, "split: Input should be 'train', 'dev' or 'test'"),
        ({"end_ms": -1}, "end_ms: "),
        ({"start_ms": 10}, "end_ms lies before start_ms"),
        ({"text": None}, "at least one of text, audio"),
        ({"audio": "a.wav", "audio_start_ms": 5}, "go together"),
        ({"start_ms": "0"}, "start_ms: "),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message):
    path = write_jsonl(tmp_path / "manifest.jsonl", [LINE, {**LINE, "utterance": "c-1", **change}])
    with pytest.raises(DataError, match=r"manifest.jsonl:2: ") as error:
        read_table(path)
    assert message in str(error.value)


def test_everything_that_a_line_lacks_is_named_at_once(tmp_path):
    with pytest.raises(DataError, match=r"manifest.jsonl:1: without split, call, channel$"):
        read_table(write_jsonl(tmp_path / "manifest.jsonl", [{"utterance": "c-0", "text": "oh"}]))


def test_names_may_be_numbers_and_times_unknown(tmp_path):
    line = {"split": "dev", "call": 7, "utterance": 0, "channel": 1, "audio_vector": [0.5], "label": 3}
    manifest = read_table(write_jsonl(tmp_path / "manifest.jsonl", [line]))
    (row,) = manifest.rows
    assert (row.call, row.utterance, row.channel, row.start_ms, row.end_ms) == ("7", "0", "1", 0, 0)
    assert row.label == "3"
    assert manifest.corpus.labels == ("3",)


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(LINE) + "\n{oh\n")
    with pytest.raises(DataError, match=r"manifest.jsonl:2: not a JSON object"):
        read_table(path)


def test_an_empty_folder_and_two_tables_are_refused(tmp_path):
    with pytest.raises(DataError, match="neither"):
        read_table(tmp_path)
    write_jsonl(tmp_path / "manifest.jsonl", [LINE])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "manifest.parquet")
    with pytest.raises(DataError, match="both"):
        read_table(tmp_path)


def test_a_parquet_table_says_the_same_as_json_lines(tmp_path):
    rows = records({"train": 2, "dev": 1, "test": 1})
    lines = read_table(write_jsonl(tmp_path / "a.jsonl", rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    table = read_table(tmp_path / "b.parquet")
    assert len(lines.rows) == len(table.rows) > 10
    for mine, theirs in zip(lines.rows, table.rows, strict=True):
        assert (mine.utterance, mine.order, mine.label) == (theirs.utterance, theirs.order, theirs.label)
        np.testing.assert_array_equal(mine.audio_vector, theirs.audio_vector)


def test_another_parquet_table_is_no_manifest(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no manifest of this version"):
        read_manifest(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="no Parquet table"):
        read_manifest(tmp_path / "y.parquet")


def test_a_part_of_a_recording_is_cut_out(tmp_path):
    sound = np.concatenate([tone(1, 200), tone(1, 1000)])
    write_wav(tmp_path / "call.wav", sound)
    both, _ = decode(tmp_path / "call.wav")
    late, _ = decode(tmp_path / "call.wav", (1000, 2000))
    np.testing.assert_array_equal(both, sound)
    np.testing.assert_array_equal(late, sound[16_000:])
    cuts = [
        {"audio": "call.wav", "audio_start_ms": at, "audio_end_ms": at + 500, "text": None} for at in (0, 1000)
    ]
    rows = [{**LINE, "utterance": f"c-{i}", **cut} for i, cut in enumerate(cuts)]
    heard = listen(read_table(write_jsonl(tmp_path / "manifest.jsonl", rows)))
    keys = [row.audio_key for row in heard.manifest.rows]
    assert len(set(keys)) == 2
    assert None not in keys


def test_sound_of_another_rate_is_heard_at_ours(tmp_path):
    write_wav(tmp_path / "a.wav", tone(1, 300, rate=8000), rate=8000)
    samples, damage = decode(tmp_path / "a.wav")
    assert damage == ""
    assert len(samples) == pytest.approx(16_000, abs=200)


def test_a_clip_that_is_cut_short_gives_what_is_there(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(2, 300))
    path.write_bytes(path.read_bytes()[:40_000])
    samples, damage = decode(path)
    assert len(samples) * 2 == pytest.approx(40_000, abs=3000)
    assert "2.00 s" in damage


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(texts, st.sampled_from(["joy", None]), st.integers(0, 10**9)), min_size=1, max_size=5))
def test_any_words_come_back_from_the_manifest(tmp_path_factory, turns):
    rows = tuple(
        Row("dev", "c", f"c-{i}", i, "x", at, at + 1, text, label) for i, (text, label, at) in enumerate(turns)
    )
    manifest = Manifest(Corpus("made", ("joy",), "none", "test"), rows)
    again = read_manifest(write_manifest(manifest, tmp_path_factory.mktemp("m")))
    assert [(r.text, r.label, r.start_ms, r.order) for r in again.rows] == [
        (r.text, r.label, r.start_ms, r.order) for r in rows
    ]


def test_a_dev_split_is_taken_from_train_where_somebody_says_so(tmp_path):
    """By whole dialogues, and the same ones every time; what there is already is not touched."""
    rows = records({"train": 20, "test": 2})
    table = read_table(write_jsonl(tmp_path / "manifest.jsonl", rows))
    manifest = with_dev(table, 0.15)
    calls = {split: {row.call for row in manifest.split(split)} for split in ("train", "dev", "test")}
    assert {split: len(names) for split, names in calls.items()} == {"train": 17, "dev": 3, "test": 2}
    assert calls["train"] | calls["dev"] == {row.call for row in table.split("train")}
    assert calls["dev"] == {row.call for row in with_dev(table, 0.15).split("dev")}
    assert "3 of the 20 train dialogues" in manifest.corpus.notes[0]
    audit(listen(manifest))
    with pytest.raises(DataError, match="a dev split already"):
        with_dev(manifest, 0.1)
