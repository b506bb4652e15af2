"""Valence and arousal follow from the probabilities, and their places from rated sentences."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.dialogue import DialogueAnalyzer
from bcaf_stream.errors import CheckpointError, DataError
from bcaf_stream.model.affect import AffectMap
from bcaf_stream.model.checkpoint import COMPACT, load_checkpoint
from bcaf_stream.types import Features
from tests.tiny import tiny_checkpoint
from training.compact.affect import agreement, concordance, fit_affect, read_ratings

PLACES = AffectMap(valence=(-0.5, 0.75, 0.0), arousal=(0.5, 0.25, -0.25))
SEVEN = AffectMap(valence=(-0.5, -0.3, 0.0, 0.5, 0.1, -0.4, 0.2), arousal=(0.5, 0.0, 0.1, 0.3, -0.1, 0.0, 0.2))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(any))
def test_an_utterance_lies_among_the_places_of_its_emotions(weights):
    probs = [w / sum(weights) for w in weights]
    valence, arousal = PLACES.of(probs)
    assert -0.5 <= valence <= 0.75
    assert -0.25 <= arousal <= 0.5
    assert PLACES.of((0.0, 1.0, 0.0)) == (0.75, 0.25)


def test_places_are_found_again_from_ratings_and_what_is_rare_stays_near_the_mean():
    rng = np.random.default_rng(0)
    probs_NC = rng.dirichlet((1, 1, 1), 4000)
    rating_N2 = np.array([PLACES.of(p) for p in probs_NC]) + rng.normal(0, 0.1, (4000, 2))
    found = fit_affect(probs_NC, rating_N2)
    assert found.valence == pytest.approx(PLACES.valence, abs=0.03)
    assert found.arousal == pytest.approx(PLACES.arousal, abs=0.03)
    scores = agreement(found, probs_NC, rating_N2)
    assert scores["valence"]["ccc"] > 0.9
    assert scores["arousal"]["slope"] == pytest.approx(1, abs=0.05)
    never_NC = np.column_stack((probs_NC[:, :2], np.zeros(4000)))
    assert fit_affect(never_NC, rating_N2).valence[2] == pytest.approx(rating_N2[:, 0].mean(), abs=1e-3)


def test_concordance_asks_for_the_same_numbers_not_for_the_same_order():
    x = np.array([0.0, 0.5, 1.0])
    assert concordance(x, x) == pytest.approx(1)
    assert concordance(x, x / 10) < 0.3
    assert concordance(x, -x) < 0


def test_the_prediction_of_a_dialogue_carries_both_and_without_places_neither(tmp_path):
    folder = tiny_checkpoint(tmp_path / "tiny")
    plain = load_checkpoint(folder)
    features = Features(None, np.ones(plain.model.config.text_width, np.float32))
    analyzer = DialogueAnalyzer(plain)
    without, _ = analyzer.step(analyzer.initial(), features)
    assert (without.valence, without.arousal) == (None, None)
    config = json.loads((folder / "config.json").read_text())
    config["calibration"]["affect"] = SEVEN.model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps(config))
    analyzer = DialogueAnalyzer(load_checkpoint(folder))
    placed, _ = analyzer.step(analyzer.initial(), features)
    assert (placed.valence, placed.arousal) == SEVEN.of(placed.probs)
    config["calibration"]["affect"]["valence"].append(0.0)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="valence and arousal must have a number for each label"):
        load_checkpoint(folder)
    config["calibration"]["affect"]["arousal"].append(0.0)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="another number of classes than labels"):
        load_checkpoint(folder)


def test_the_shipped_checkpoint_places_joy_above_and_anger_below_the_middle_and_anger_is_excited():
    calibration = json.loads((COMPACT / "config.json").read_text())["calibration"]
    labels = json.loads((COMPACT / "config.json").read_text())["labels"]
    valence = dict(zip(labels, calibration["affect"]["valence"], strict=True))
    arousal = dict(zip(labels, calibration["affect"]["arousal"], strict=True))
    assert valence["joy"] > valence["neutral"] > max(valence[x] for x in ("anger", "sadness", "disgust", "fear"))
    assert arousal["anger"] > arousal["neutral"]


HEAD = "id,split,V,A,D,text\n"
GOOD = "".join(f"{s},{s},3.0,5.0,1.0,how are you\n" for s in ("train", "dev", "test"))


def test_ratings_are_read_plain_and_packed(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD + GOOD)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((HEAD + GOOD).encode()))
    for name in ("a.csv", "a.csv.gz"):
        found = read_ratings(tmp_path / name)
        assert found["dev"].rating_N2.tolist() == [[0.0, 1.0]]
        assert found["dev"].texts == ["how are you"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "FileNotFoundError"),
        ("a,b\n1,2\n", "KeyError"),
        (HEAD + GOOD.replace("5.0", "high"), "ValueError"),
        (HEAD + GOOD.replace("5.0", "9.0"), "line 2: split or rating"),
        (HEAD + GOOD.replace("5.0", "nan"), "line 2: split or rating"),
        (HEAD + GOOD.splitlines()[0], "no sentence of dev"),
        (HEAD + "x,train,3.0\n", "TypeError"),
    ],
)
def test_a_table_that_is_none_is_refused_by_name(tmp_path, content, why):
    path = tmp_path / "ratings.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"ratings.csv: .*{why}"):
        read_ratings(path)
