import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import DataError
from tests.unit.training.made import changed, records, tone, write_jsonl, write_table, write_wav
from training.datasets.audit import audit
from training.datasets.manifest import Corpus, Manifest, Row, read_manifest, write_manifest
from training.datasets.sound import decode, listen
from training.datasets.table import Record, read_table, with_dev

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
        ({"emotion": "joy"}, "text_vector; --ignore emotion leaves it out"),
        ({"she said no": 1}, "11 characters is no column of a manifest"),
        ({"split": "validation"}, "split: 'validation' given; must be train, dev or test; --split OLD=NEW"),
        ({"split": 1.0}, "split: 1.0 given; must be train, dev or test"),
        ({"label": ""}, "label: '' given; must be a name; null is an utterance without a label"),
        ({"label": 0.5}, "label: 0.5 given; must be a name"),
        ({"label": True}, "label: True given; must be a name"),
        ({"label": float("nan")}, "label: nan given; must be a name"),
        ({"call": 1e300}, "call: 1e+300 given; must be a name or a whole number"),
        ({"call": [1]}, "call: list given; must be a name or a whole number"),
        ({"speaker": ""}, "speaker: '' given; must be a name; null is a speaker who is not known"),
        ({"utterance": "u" * 100 + "\ud800"}, "utterance: 101 characters given"),
        ({"text": 5}, "text: int given; must be a string"),
        ({"end_ms": -1}, "end_ms: -1 given; input should be greater than or equal to 0"),
        ({"end_ms": 10**30}, "end_ms: 1000000000000000000000000000000 given; input should be less than"),
        ({"end_ms": 9.5}, "end_ms: 9.5 given; input should be a valid integer"),
        ({"start_ms": 10}, "2: end_ms lies before start_ms: 9 before 10"),
        ({"text": None}, "at least one of text, audio"),
        ({"audio": "a.wav", "audio_start_ms": 5}, "go together"),
        ({"start_ms": "0"}, "start_ms: '0' given"),
        ({"audio_vector": "0.1 0.2"}, "audio_vector: str given; a vector is one flat list of numbers, or null"),
        ({"audio_vector": [[0.1, 0.2]]}, "audio_vector: list given; a vector is one flat list"),
        ({"audio_vector": [0.1, None]}, "audio_vector: None given; a vector is one flat list"),
        ({"audio_vector": [0.1, True]}, "audio_vector: True given; a vector is one flat list"),
        ({"audio_vector": [10**400]}, "audio_vector: holds a number beyond float32"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message):
    path = write_jsonl(tmp_path / "manifest.jsonl", [LINE, {**LINE, "utterance": "c-1", **change}])
    with pytest.raises(DataError, match=r"manifest.jsonl:2: ") as error:
        read_table(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_everything_that_a_line_lacks_is_named_at_once(tmp_path):
    path = write_jsonl(tmp_path / "manifest.jsonl", [{"utterance": "c-0", "call": None, "text": "oh"}])
    with pytest.raises(DataError, match=r"manifest.jsonl:1: without split, call$"):
        read_table(path)


@pytest.mark.parametrize("number", [int, float])
def test_names_may_be_numbers_and_times_unknown(tmp_path, number):
    """A table with gaps has floats where it had whole numbers."""
    names = {key: number(value) for key, value in (("call", 7), ("utterance", 0), ("channel", 1), ("label", 3))}
    lines = [
        {"split": "dev", "audio_vector": [0.5], **names},
        {"split": "dev", "audio_vector": [0.5], **names, "start_ms": number(5), "end_ms": number(9)},
    ]
    manifest = read_table(write_jsonl(tmp_path / "manifest.jsonl", lines))
    assert {(row.call, row.utterance, row.channel, row.label) for row in manifest.rows} == {("7", "0", "1", "3")}
    assert [(row.start_ms, row.end_ms) for row in manifest.rows] == [(0, 0), (5, 9)]
    assert manifest.corpus.labels == ("3",)


def test_a_null_is_a_cell_that_is_left_out(tmp_path):
    line = {"split": "dev", "call": "c", "utterance": "c-0", "text": "oh"}
    gaps = {key: None for key in Record.model_fields if key not in line}
    path = write_jsonl(tmp_path / "manifest.jsonl", [line, {**line, **gaps}])
    first, second = (asdict(row) for row in read_table(path).rows)
    assert first | {"order": 1} == second


def test_without_a_channel_it_is_the_speakers(tmp_path):
    lines = [{**LINE, "channel": None, "speaker": "Ann"}, {**LINE, "channel": None}, {**LINE, "speaker": "Ann"}]
    manifest = read_table(write_jsonl(tmp_path / "manifest.jsonl", lines))
    assert [row.channel for row in manifest.rows] == ["Ann", "speaker", "x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oh", "manifest.jsonl:2: not a JSON object; each line holds a whole one"),
        ("7", "manifest.jsonl:2: not a JSON object; each line holds a whole one"),
        ("[", "manifest.jsonl:2: not a JSON object; write what is in the array one a line"),
        (json.dumps([LINE]), "manifest.jsonl:2: not a JSON object; write what is in the array one a line"),
        ("[" * 200_000, "manifest.jsonl:2: not a JSON object"),
    ],
)
def test_a_line_that_is_no_json_is_named(tmp_path, line, message):
    path = tmp_path / "manifest.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{line}\n")
    with pytest.raises(DataError) as error:
        read_table(path)
    assert str(error.value).startswith(f"{tmp_path}/{message}")


def test_a_table_of_another_kind_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text("split,call\n")
    with pytest.raises(DataError, match=r"mine.csv: is neither JSON lines .* nor a Parquet table .* convert it"):
        read_table(tmp_path / "mine.csv")
    (tmp_path / "mine.jsonl").write_text(json.dumps(LINE), encoding="utf-16")
    with pytest.raises(DataError, match=r"mine.jsonl: is not UTF-8; write it as UTF-8"):
        read_table(tmp_path / "mine.jsonl")
    (tmp_path / "mine.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"mine.parquet: no Parquet table"):
        read_table(tmp_path / "mine.parquet")


def test_labels_and_splits_are_renamed_where_somebody_says_so(tmp_path):
    lines = [
        {**LINE, "split": split, "call": split, "label": label}
        for split in ("train", "Development")
        for label in ("ang", "hap", "exc", "xxx", "", 2, None)
    ]
    path = write_jsonl(tmp_path / "manifest.jsonl", lines)
    labels = {"ang": "hap", "hap": "joy", "exc": "joy", "xxx": "", "": "", "2": "sad"}
    manifest = read_table(path, labels=labels, splits={"Development": "dev"})
    assert [row.label for row in manifest.split("dev")] == ["hap", "joy", "joy", None, None, "sad", None]
    assert [row.label for row in manifest.split("train")] == [row.label for row in manifest.split("dev")]
    assert manifest.corpus.labels == ("hap", "joy", "sad")
    assert manifest.corpus.notes == (
        "labels renamed: ang to hap, hap to joy, exc to joy, 2 to sad",
        "labels taken away: xxx, (empty)",
        "splits renamed: Development to dev",
    )


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": {"anger": "angry"}}, "--label 'anger' does not occur; there are: joy"),
        ({"splits": {"Train": "train"}}, "--split 'Train' does not occur; there are: train"),
        ({"ignored": ["arousal"]}, "--ignore 'arousal' does not occur; there are: call, channel, end_ms, label,"),
    ],
)
def test_what_is_renamed_or_left_out_must_be_there(tmp_path, suffix, wrong, message):
    with pytest.raises(DataError) as error:
        read_table(write_table(tmp_path / f"manifest.{suffix}", [LINE]), **wrong)
    assert message in str(error.value)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_columns_are_left_out_where_somebody_says_so(tmp_path, suffix):
    line = {**LINE, "arousal": 0.5, "audio_vector": [0.5]}
    path = write_table(tmp_path / f"manifest.{suffix}", [line])
    manifest = read_table(path, ignored=["arousal", "audio_vector"])
    assert manifest.rows[0].audio_vector is None
    assert manifest.corpus.notes == ("columns left out: arousal, audio_vector",)
    with pytest.raises(DataError, match=r"(:1|row 0): arousal is no column .* --ignore arousal leaves it out"):
        read_table(path, ignored=["audio_vector"])


def test_only_a_few_of_many_labels_are_listed(tmp_path):
    lines = [{**LINE, "utterance": i, "label": f"l{i:02d}"} for i in range(30)]
    with pytest.raises(DataError, match=r"there are: l00, .*, l19, \.\.\.$"):
        read_table(write_jsonl(tmp_path / "manifest.jsonl", lines), labels={"l30": "x"})


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


SAID = "what somebody said"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*Record.model_fields, "more"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(SAID),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_any_cell_is_taken_or_refused_in_one_line_without_anybodys_words(tmp_path_factory, column, value):
    path = write_jsonl(tmp_path_factory.mktemp("t") / "manifest.jsonl", [{**LINE, "text": SAID, column: value}])
    why = f"{path}:1: "
    try:
        read_table(path)
    except DataError as error:
        why = str(error)
    assert why.startswith(f"{path}:1: ")
    assert len(why.splitlines()) == 1
    assert SAID not in why


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


@settings(max_examples=40, deadline=None)
@given(
    st.lists(texts | st.sampled_from(["a\u2028b", "\x85", "\u2029", "\x0b\x0c\x1c", "\ufeff"]), min_size=1),
    st.data(),
)
def test_any_words_come_back_from_json_lines(tmp_path_factory, words, data):
    """With or without escapes, a byte order mark, empty lines, or lines that end in another way."""
    path = tmp_path_factory.mktemp("t") / "manifest.jsonl"
    escaped, encoding = data.draw(st.booleans()), data.draw(st.sampled_from(["utf-8", "utf-8-sig"]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    lines = [json.dumps({**LINE, "text": text}, ensure_ascii=escaped) for text in words]
    path.write_text(end.join(lines), encoding=encoding, newline="")
    assert [row.text for row in read_table(path).rows] == words


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


@pytest.mark.parametrize("train", [0, 1])
def test_dev_is_not_taken_from_less_than_two_dialogues(tmp_path, train):
    table = read_table(write_jsonl(tmp_path / "manifest.jsonl", records({"train": train, "test": 2})))
    with pytest.raises(DataError, match=rf"--dev-share draws dev .* there are {train}; leave it out"):
        with_dev(table, 0.1)


def in_sessions(sizes):
    """The shape of IEMOCAP: two people speak in all dialogues of a split."""
    return [{**row, "speaker": f"{row['split']}-{i % 2}"} for i, row in enumerate(records(sizes))]


def test_dev_may_share_speakers_with_the_train_that_it_is_drawn_from(tmp_path):
    manifest = with_dev(read_table(write_jsonl(tmp_path / "a.jsonl", in_sessions({"train": 10, "test": 2}))), 0.2)
    assert manifest.corpus.speakers_apart == (("train", "test"), ("dev", "test"))
    assert manifest.corpus.separation == "by dialogue and by speaker; but dev may share speakers with train"
    shared = ("train-0 (train, dev)", "train-1 (train, dev)")
    assert ("speakers in more than one split", shared) in audit(listen(manifest)).findings


def test_dev_that_is_drawn_from_train_is_still_kept_apart_from_test(tmp_path):
    for split in ("train", "dev"):
        rows = in_sessions({"train": 10, "test": 2})
        dev = {row.call for row in with_dev(read_table(write_jsonl(tmp_path / "a.jsonl", rows)), 0.2).split("dev")}
        rows = changed(rows, lambda r, s=split, d=dev: r["split"] == "train" and (r["call"] in d) == (s == "dev"),
                      speaker="test-0")  # fmt: skip
        manifest = with_dev(read_table(write_jsonl(tmp_path / "b.jsonl", rows)), 0.2)
        with pytest.raises(DataError, match=rf"speaker test-0 is in {split} and in test; "):
            audit(listen(manifest))


def test_the_index_that_pandas_writes_is_left_out_with_a_note(tmp_path):
    rows = [{"split": "train", "call": "c", "utterance": f"u{n}", "text": "oh", "label": "joy"} for n in range(2)]
    pq.write_table(
        pa.Table.from_pylist([row | {"__index_level_0__": n} for n, row in enumerate(rows)]),
        tmp_path / "t.parquet",
    )
    manifest = read_table(tmp_path / "t.parquet")
    assert [row.utterance for row in manifest.rows] == ["u0", "u1"]
    assert manifest.corpus.notes == ("columns left out: __index_level_0__",)
