import numpy as np
import pytest

from bcaf_stream.encoders.base import TextEncoderConfig
from bcaf_stream.errors import DataError
from training.encode import Item, encode_shard, find_store
from training.store import FeatureStore, Maker, code_version

CONFIG = TextEncoderConfig(kind="pretrained", model="made/up")


def maker(**changes):
    parts = {
        "modality": "text",
        "kind": "pretrained",
        "name": "made/up",
        "weights_hash": "aa",
        "width": 3,
        "options": {"dtype": "float32", "layers": 4},
        "code": code_version(),
    }
    return Maker(**{**parts, **changes})


def vectors(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def test_shards_come_back_exactly(tmp_path):
    store = FeatureStore(tmp_path, maker())
    first, second = vectors(4), vectors(2, 1)
    store.write(["a", "b", "c", "d"], first)
    store.write(["e", "f"], second)
    found = FeatureStore(tmp_path, maker()).read()
    assert store.keys() == set("abcdef")
    np.testing.assert_array_equal(np.stack([found[k] for k in "abcdef"]), np.concatenate([first, second]))


@pytest.mark.parametrize("change", [{"name": "other"}, {"weights_hash": "bb"}, {"code": "old"}, {"options": {}}])
def test_whatever_could_change_a_number_names_another_folder(change):
    assert maker(**change).folder_name != maker().folder_name


def test_a_shard_of_another_encoder_is_refused(tmp_path):
    theirs = FeatureStore(tmp_path, maker(name="other"))
    path = theirs.write(["a"], vectors(1))
    mine = FeatureStore(tmp_path, maker())
    mine.write(["b"], vectors(1))
    path.rename(mine.folder / path.name)
    with pytest.raises(DataError, match=r"made by another encoder than made/up"):
        mine.read()


def test_a_broken_shard_is_named(tmp_path):
    store = FeatureStore(tmp_path, maker())
    path = store.write(["a"], vectors(1))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"part-.*broken feature shard.*delete it"):
        store.keys()


def test_a_half_written_shard_does_not_count(tmp_path):
    store = FeatureStore(tmp_path, maker())
    path = store.write(["a"], vectors(1))
    path.rename(path.with_name(f".{path.name}.part"))
    assert store.keys() == set()


class Faulty:
    def encode(self, texts):
        found = vectors(len(texts))
        found[-1, 1] = np.nan
        return found


def test_a_vector_that_is_not_finite_is_never_stored(tmp_path):
    store = FeatureStore(tmp_path, maker())
    with pytest.raises(DataError, match=r"made/up gave a vector that is not finite \(content k2\)"):
        encode_shard(Faulty(), store, [Item("k1", "oh"), Item("k2", "my")])
    assert store.keys() == set()


def test_features_of_another_encoder_or_code_are_named(tmp_path):
    def find():
        return find_store(tmp_path, "text", CONFIG, "made/up", None)

    with pytest.raises(DataError, match="of made/up do not exist yet; run bcaf-train features"):
        find()
    FeatureStore(tmp_path, maker(name="other")).write(["a"], vectors(1))
    with pytest.raises(DataError, match=r"are of another encoder \(other\)"):
        find()
    FeatureStore(tmp_path, maker(code="old")).write(["a"], vectors(1))
    with pytest.raises(DataError, match="another version of the encoders' code"):
        find()
    FeatureStore(tmp_path, maker()).write(["a"], vectors(1))
    assert find().maker == maker()
    FeatureStore(tmp_path, maker(weights_hash="bb")).write(["a"], vectors(1))
    with pytest.raises(DataError, match="two kinds of weights"):
        find()
