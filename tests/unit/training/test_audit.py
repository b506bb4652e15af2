import pytest

from bcaf_stream.errors import DataError
from tests.unit.training.made import WIDTH, changed, records, write_jsonl, write_table
from training.datasets.audit import audit
from training.datasets.sound import listen
from training.datasets.table import read_table

LEAKS = {
    "a dialogue in two splits": (
        lambda rows: changed(rows, lambda r: r["utterance"] == "dev-0-1", split="test"),
        r"dialogue dev-0 lies in more than one split",
    ),
    "an utterance twice": (lambda rows: [*rows, rows[0]], r"utterance train-0-0 stands in the corpus twice"),
    "a speaker in two splits": (
        lambda rows: changed(rows, lambda r: r["call"] in ("train-0", "test-0"), speaker="Ann"),
        r"speaker Ann is in train and in test; split by speaker, or .*; a speaker who is not known is null$",
    ),
    "no label at all": (
        lambda rows: changed(rows, lambda r: True, label=None),
        r"no utterance has a label; give the column label",
    ),
    "a vector that is empty": (
        lambda rows: changed(rows, lambda r: r["utterance"] == "dev-0-1", audio_vector=[]),
        r"dev-0-1: its audio vector is empty; null is an utterance without one",
    ),
    "a vector that is not finite": (
        lambda rows: changed(rows, lambda r: r["utterance"] == "dev-0-1", audio_vector=[float("nan")] * WIDTH),
        r"dev-0-1: its audio vector holds NaN",
    ),
    "a vector of another width": (
        lambda rows: changed(rows, lambda r: r["utterance"] == "dev-0-1", text_vector=[0.0] * 2),
        rf"dev-0-1: its text vector is 2 wide; the first is {WIDTH}",
    ),
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("leak", LEAKS)
def test_leaks_are_refused(tmp_path, leak, suffix):
    spoil, message = LEAKS[leak]
    rows = spoil(records({"train": 2, "dev": 1, "test": 1}))
    with pytest.raises(DataError, match=message):
        audit(listen(read_table(write_table(tmp_path / f"manifest.{suffix}", rows))))


def test_speakers_may_be_shared_where_somebody_says_so(tmp_path):
    rows = changed(records({"train": 2, "dev": 1, "test": 1}), lambda r: True, speaker="Ann")
    manifest = read_table(write_jsonl(tmp_path / "manifest.jsonl", rows), shared_speakers=True)
    assert ("speakers in more than one split", ("Ann (train, dev, test)",)) in audit(listen(manifest)).findings
    assert "speakers may be shared" in manifest.corpus.separation


@pytest.mark.parametrize("there", ["train", "dev", "test"])
def test_a_split_may_be_missing_and_is_listed(tmp_path, there):
    found = audit(listen(read_table(write_jsonl(tmp_path / "manifest.jsonl", records({there: 2})))))
    absent = tuple(split for split in ("train", "dev", "test") if split != there)
    ((what, names),) = found.findings
    assert names == absent
    assert what.startswith("splits without a labelled utterance (fit needs train and dev, ")
    assert found.utterances[there] > 0


def test_a_label_that_no_train_utterance_has_is_listed(tmp_path):
    rows = changed(records({"train": 2, "dev": 1, "test": 1}), lambda r: r["utterance"] == "dev-0-1", label="odd")
    found = audit(listen(read_table(write_jsonl(tmp_path / "manifest.jsonl", rows))))
    assert found.findings == [("labels that no train utterance has, so they cannot be learned", ("odd",))]


def test_a_dialogue_whose_words_stand_in_another_split_is_listed(tmp_path):
    rows = [
        {"split": split, "call": split, "utterance": i, "channel": "x", "text": word, "label": "joy"}
        for split in ("train", "dev", "test")
        for i, word in enumerate(["oh", "my", "god" if split != "dev" else "dear"])
    ]
    found = audit(listen(read_table(write_jsonl(tmp_path / "manifest.jsonl", rows))))
    assert [names for what, names in found.findings if "words" in what] == [("train/0 = test/0",)]
