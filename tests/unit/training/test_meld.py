from collections import Counter
from pathlib import Path

import pytest

from bcaf_stream.errors import DataError
from tests.components import needs
from tests.unit.training.made import meld_folder, tone, write_mp4
from training.datasets.audit import audit
from training.datasets.manifest import read_manifest, write_manifest
from training.datasets.meld import LABELS, mend, read_meld
from training.datasets.sound import listen

REAL = Path(__file__).parents[4] / "shared" / "data" / "meld"


def test_tables_and_clips_become_rows(tmp_path):
    root = meld_folder(tmp_path / "meld")
    heard = listen(read_meld(root))
    rows = heard.manifest.rows
    assert Counter(row.split for row in rows) == {"train": 12, "dev": 12, "test": 12}
    first = rows[0]
    assert (first.call, first.utterance, first.order) == ("train-dia0", "train-dia0-utt0", 0)
    assert (first.start_ms, first.end_ms, rows[1].start_ms) == (0, 800, 3000)
    assert first.audio == "train_splits/dia0_utt0.mp4"
    assert all(row.audio_key for row in rows)
    assert heard.manifest.modalities == ("audio", "text")
    assert audit(heard).labels["anger"] == {"train": 6, "dev": 6, "test": 6}


def test_missing_and_broken_clips_are_listed_and_leave_the_text(tmp_path):
    root = meld_folder(tmp_path / "meld")
    (root / "train_splits" / "dia0_utt1.mp4").unlink()
    (root / "dev_splits_complete" / "dia1_utt2.mp4").write_bytes(b"no film at all")
    heard = listen(read_meld(root))
    found = audit(heard)
    assert heard.missing == ("train_splits/dia0_utt1.mp4",)
    assert heard.broken == ("dev_splits_complete/dia1_utt2.mp4",)
    assert found.without_sound == {"train": 1, "dev": 1, "test": 0}
    lost = next(row for row in heard.manifest.rows if row.utterance == "train-dia0-utt1")
    assert lost.audio is None
    assert lost.text == "it is fine"
    assert [names for what, names in found.findings if "clips" in what] == [heard.missing, heard.broken]


def test_a_clip_of_minutes_for_a_sentence_of_seconds_is_left_out_and_listed(tmp_path):
    """As dia220_utt0 of MELD's test split, which the table says takes a moment."""
    root = meld_folder(tmp_path / "meld")
    name = "output_repeated_splits_test/dia1_utt1.mp4"
    write_mp4(root / name, tone(8.0, 200))
    heard = listen(read_meld(root))
    assert heard.mistaken == (name,)
    found = audit(heard)
    assert found.without_sound == {"train": 0, "dev": 0, "test": 1}
    assert [names for what, names in found.findings if "longer than their utterances" in what] == [(name,)]
    row = next(row for row in heard.manifest.rows if row.utterance == "test-dia1-utt1")
    assert (row.audio, row.text) == (None, "oh my god")


def test_tables_alone_are_a_corpus_of_text(tmp_path):
    manifest = read_meld(meld_folder(tmp_path, clips=False))
    assert manifest.modalities == ("text",)
    assert "text alone" in manifest.corpus.notes[0]


def test_clips_of_some_splits_only_are_refused(tmp_path):
    root = meld_folder(tmp_path)
    for clip in (root / "dev_splits_complete").iterdir():
        clip.unlink()
    (root / "dev_splits_complete").rmdir()
    with pytest.raises(DataError, match=r"missing: dev_splits_complete"):
        read_meld(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sadness", "gloom", r"train_sent_emo.csv:3: unknown emotion 'gloom'"),
        ("00:00:13,000", "soon", r"train_sent_emo.csv:3: 'soon' is no time"),
        ("Dialogue_ID", "Dialog", r"no column Dialogue_ID"),
    ],
)
def test_what_is_not_melds_is_named_by_its_line(tmp_path, old, new, message):
    path = meld_folder(tmp_path, clips=False) / "train_sent_emo.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_meld(tmp_path)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train_sent_emo.csv: no such table"):
        read_meld(tmp_path)


def test_quotes_stored_as_control_characters_are_mended():
    assert mend("It\x92s \x93fine\x94 \x85") == "It’s “fine” …"


def test_the_manifest_comes_back_as_it_was(tmp_path):
    manifest = listen(read_meld(meld_folder(tmp_path / "meld"))).manifest
    again = read_manifest(write_manifest(manifest, tmp_path / "out"))
    assert again.corpus == manifest.corpus
    for mine, theirs in zip(again.rows, manifest.rows, strict=True):
        assert all(getattr(mine, name) == getattr(theirs, name) for name in type(mine).__slots__)


@needs("shared data")
def test_the_published_counts():
    found = audit(listen(read_meld(REAL)))
    assert found.utterances == {"train": 9989, "dev": 1109, "test": 2610}
    assert found.calls == {"train": 1038, "dev": 114, "test": 280}
    assert sum(found.labels[label]["test"] for label in LABELS) == 2610
