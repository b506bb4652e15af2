from collections import Counter

import pytest

from bcaf_stream.errors import DataError
from tests.unit.training.made import iemocap_folder
from training.datasets.audit import audit
from training.datasets.iemocap import read_iemocap, split_of
from training.datasets.manifest import calls_of
from training.datasets.sound import listen


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return iemocap_folder(tmp_path_factory.mktemp("iemocap"))


def test_six_labels_in_time_order(root):
    manifest = read_iemocap(root)
    assert manifest.corpus.labels == ("neutral", "happy", "sad", "angry", "excited", "frustrated")
    for _, rows in calls_of(manifest.rows):
        assert [row.start_ms for row in rows] == sorted(row.start_ms for row in rows)
        assert [row.label for row in rows] == list(manifest.corpus.labels)
        assert {row.text for row in rows} == {"It is fine."}
    assert next(iter(manifest.rows)).speaker == "Ses01F"
    assert audit(listen(manifest)).without_sound == {"train": 0, "dev": 0, "test": 0}


def test_session_five_is_test_and_its_speakers_are_new(root):
    manifest = read_iemocap(root)
    speakers = {split: {row.speaker for row in manifest.split(split)} for split in ("train", "dev", "test")}
    assert speakers["test"] == {"Ses05F", "Ses05M"}
    assert not speakers["test"] & (speakers["train"] | speakers["dev"])
    assert {row.call[:5] for row in manifest.split("test")} == {"Ses05"}


def test_dev_is_taken_by_dialogue_and_never_moves():
    names = [f"Ses0{s}{g}_impro{n:02d}" for s in range(1, 5) for g in "FM" for n in range(1, 20)]
    splits = Counter(split_of(name, 1) for name in names)
    assert splits["dev"] == 16  # of 152: about a tenth, and these ones for ever
    assert splits["test"] == 0


def test_four_labels_join_excitement_and_happiness(root):
    manifest = read_iemocap(root, classes=4)
    assert manifest.corpus.labels == ("neutral", "happy", "sad", "angry")
    labels = Counter(row.label for row in manifest.rows)
    assert labels["happy"] == 2 * labels["sad"]


def test_other_labels_may_stay_as_context(root):
    kept = read_iemocap(root, keep_unlabelled=True)
    assert Counter(row.label is None for row in kept.rows) == {False: 240, True: 40}


def test_a_session_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"Session1: no such folder"):
        read_iemocap(tmp_path)


def test_a_label_that_iemocap_does_not_have_is_named(tmp_path):
    path = iemocap_folder(tmp_path, dialogues=1) / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    path.write_text(path.read_text().replace("\tfru\t", "\tbored\t"))
    with pytest.raises(DataError, match=r"unknown label 'bored'"):
        read_iemocap(tmp_path)
