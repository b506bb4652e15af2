import pytest

from bcaf_stream.errors import DataError
from tests.unit.training.made import MODEL, WIDTH, prepared, records
from training.datasets.manifest import read_manifest
from training.dialogues import load_dialogues


def load(manifest, split, audio=WIDTH):
    return load_dialogues(read_manifest(manifest), split, MODEL["labels"], {"audio": audio, "text": WIDTH}, {})


def test_a_split_that_has_nothing_to_learn_or_to_score_is_named(tmp_path):
    rows = [{**row, "label": None if row["split"] == "train" else row["label"]} for row in records({"train": 1})]
    manifest = prepared(tmp_path, rows + records({"test": 2}))
    assert len(load(manifest, "test")) == 2
    with pytest.raises(DataError, match=r"its train split has no labelled utterance$"):
        load(manifest, "train")
    with pytest.raises(DataError, match=r"its dev split has no labelled utterance; .*--dev-share 0.1 draws it"):
        load(manifest, "dev")


def test_a_vector_of_another_width_says_what_to_set(tmp_path):
    manifest = prepared(tmp_path, records({"test": 1}))
    with pytest.raises(DataError, match=rf"the model takes 7; .* set model\.audio_width: {WIDTH}$"):
        load(manifest, "test", audio=7)
