"""The linear floor beside BCAF, and what fit says of its data before it trains."""

import json

import numpy as np
import pytest
import torch

from bcaf_stream.config import load_config
from bcaf_stream.errors import CheckpointError
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import load_checkpoint
from bcaf_stream.model.config import BCAFConfig
from tests.unit.training.made import MODEL, dialogues, prepared, records, train_config, write_jsonl
from training.card import DECIDES_ALONE
from training.cli import app
from training.config import TrainConfig
from training.datasets.manifest import write_manifest
from training.datasets.table import read_table
from training.evaluate import floor_for, open_subject
from training.fit import RESULTS, fit_here
from training.inspection import inspect
from training.linear import FILE_NAME, LinearFloor, compared, fit_floor
from training.metrics import weighted_f1
from training.predict import predict
from training.training_data import load_training_data

SMALL = {"train": 30, "dev": 10, "test": 10}


def linear(rows):
    """What is said decides alone: a linear layer on the words is enough."""
    return [{**row, "label": MODEL["labels"][int(row["text_vector"][0] > 0)]} for row in rows]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("linear"), linear(records(SMALL)))


@pytest.fixture(scope="module")
def untrained(corpus, tmp_path_factory):
    """A network that learned nothing and stands alone, so the floor is above it."""
    torch.set_num_threads(1)
    changes = {"loop__epochs": 1, "loop__learning_rate": 1e-9, "model__linear_path": False}
    return train_config(corpus, tmp_path_factory.mktemp("runs") / "poor", **changes)


def run(*words):
    app([str(word) for word in words], standalone_mode=False)


def test_fit_and_evaluate_say_where_bcaf_is_below_the_floor(untrained, corpus, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(untrained.model_dump_json())
    run("fit", file)
    said = capsys.readouterr()
    last = said.out.splitlines()[-1]
    assert last.startswith(
        "BELOW THE LINEAR FLOOR, a logistic regression on the same vectors: both, weighted F1: "
    )
    assert "text: weighted F1" in said.out
    assert "linear floor 100.0" in said.out
    assert "train vectors, 6 wide, deviation of a dimension" in said.err
    results = json.loads((untrained.folder / RESULTS).read_text())["dev"]
    assert results["linear"]["text"]["weighted_f1"] > 0.99
    assert results["linear"]["audio"]["weighted_f1"] < 0.8
    checkpoint = untrained.folder / "checkpoint"
    run("evaluate", checkpoint, "--manifest", corpus, "--json", tmp_path / "n.json", "--out", tmp_path, "--card")
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("BELOW THE LINEAR FLOOR")
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["linear"]["both"]["weighted_f1"] > 0.95
    assert set(numbers) == {"causal", "offline", "linear"}
    card = (checkpoint / "README.md").read_text()
    assert "### test, linear floor: logistic regression on the same vectors" in card
    assert "- BELOW THE LINEAR FLOOR" in card


def test_a_network_above_the_floor_is_not_called_below():
    better = {"both": {"weighted_f1": 0.9, "unweighted_recall": 0.9}}
    worse = {"both": {"weighted_f1": 0.5, "unweighted_recall": 0.9}}
    assert compared(better, worse) == [
        "both: weighted F1 90.0 (linear floor 50.0), unweighted recall 90.0 (linear floor 90.0)"
    ]
    assert "both, weighted F1: 50.0 < 90.0" in compared(worse, better)[-1]
    assert compared({}, worse) == []


def test_a_checkpoint_without_a_floor_gets_one_of_the_manifest_or_a_reason(untrained, corpus, tmp_path):
    config = untrained.changed({"out": str(tmp_path / "bare")})
    folder = fit_here(config, floor=False)
    assert not (folder / FILE_NAME).exists()
    floor, why = floor_for(open_subject(str(folder), corpus, "test"), corpus)
    assert floor is not None
    assert why == ""
    bare = prepared(tmp_path / "bare corpus", [row for row in linear(records(SMALL)) if row["split"] == "test"])
    floor, why = floor_for(open_subject(str(folder), bare, "test"), bare)
    assert floor is None
    assert "none can be fitted (" in why
    assert "train split has no labelled utterance" in why


def test_the_floor_is_read_back_as_it_was_and_a_broken_one_is_named():
    train, dev = dialogues(30, 1), dialogues(10, 2)
    floor = fit_floor(("calm", "cross"), train, dev)
    back = LinearFloor.from_bytes(floor.to_bytes())
    for view, found in floor.score(dev).items():
        np.testing.assert_allclose(back.score(dev)[view].probs_NC, found.probs_NC)
        assert weighted_f1(found) < 0.8  # the label needs the utterance before
    for broken in (b"", b"x" * 50, floor.to_bytes()[:60]):
        with pytest.raises(CheckpointError, match=r"linear.safetensors is broken"):
            LinearFloor.from_bytes(broken)


def test_one_class_has_no_floor_and_three_classes_use_all(tmp_path):
    train = dialogues(20, 1)
    for one in train:
        one.label_U.fill_(1)
    assert fit_floor(("calm", "cross"), train, train) is None
    for one in train:
        one.label_U.copy_(one.text_UT[:, 0].gt(0).long() + one.text_UT[:, 1].gt(0.2).long())
        one.label_U[0] = -100
    floor = fit_floor(("calm", "cross", "glad", "never"), train, train)
    found = floor.score(train)["text"]
    assert weighted_f1(found) > 0.8
    assert found.probs_NC.shape == (sum(len(one) - 1 for one in train), 4)
    assert found.probs_NC[:, 3].max() == 0.0


def test_what_stands_twice_or_in_two_splits_is_counted_before_training(tmp_path):
    rows = records({"train": 3, "dev": 2})
    for row in rows:
        row["speaker"] = f"speaker of {row['split']}"
    train, dev = ([row for row in rows if row["split"] == split] for split in ("train", "dev"))
    train[1]["audio_vector"] = train[0]["audio_vector"]
    train[0]["label"], train[1]["label"] = MODEL["labels"]
    train[2]["audio_vector"] = [0.0] * 6
    dev[0]["text_vector"] = train[0]["text_vector"]
    dev[0]["text"] = train[0]["text"] = "that is what I said"
    dev[1]["speaker"] = train[0]["speaker"]
    table = read_table(write_jsonl(tmp_path / "table" / "c.jsonl", rows), shared_speakers=True)
    write_manifest(table, tmp_path / "c")
    lines = inspect(load_training_data(train_config(tmp_path / "c", tmp_path / "run")))
    assert "audio: 1 train vectors repeat another one; 1 vectors have several labels" in lines
    assert "audio: 1 train vectors are all zeros; null is an utterance without one" in lines
    assert any(line.startswith("1 text vectors that stand in two splits: dev-0-0 = train-0-0") for line in lines)
    assert any(
        line.startswith("1 utterances of 4 words or more whose words stand in another split") for line in lines
    )
    assert any(line.startswith("1 speakers in more than one split") for line in lines)
    assert not any("that is what" in line for line in lines)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_linear_path_says_what_the_floor_says(standardize):
    train, dev = dialogues(60, 1), dialogues(20, 2)
    floor = fit_floor(("calm", "cross"), train, dev)
    config = BCAFConfig.model_validate(
        {**MODEL, "labels": tuple(MODEL["labels"]), "linear_path": True, "standardize": standardize}
    )
    model = BCAF(config).eval()
    if standardize:
        model.audio_input.set_scale(*floor.scales["audio"])
        model.text_input.set_scale(*floor.scales["text"])
    floor.install(model)
    for view, expected in floor.score(dev).items():
        probs_NC = predict(model, dev, view).linear_NC.double().softmax(-1).numpy()
        np.testing.assert_allclose(probs_NC, expected.probs_NC, atol=1e-5)


def test_a_poor_network_is_as_good_as_the_floor_because_the_linear_path_decides_alone(untrained, tmp_path, capsys):
    config = untrained.changed({"model.linear_path": True, "out": str(tmp_path / "run")})
    file = tmp_path / "run.yaml"
    file.write_text(config.model_dump_json())
    run("fit", file)
    said = capsys.readouterr().out
    folder = config.folder / "checkpoint"
    results = json.loads((config.folder / RESULTS).read_text())
    plain = results["decided_by_linear_path"]
    assert {"both", "text"} <= set(plain)
    assert "BELOW" not in said
    for view in plain:
        assert f"{view}: {DECIDES_ALONE}" in said
        assert f"{view}: {DECIDES_ALONE}." in (folder / "README.md").read_text()
        ours, floor = (results["dev"][one][view]["confusion"] for one in ("causal", "linear"))
        assert ours == floor
    loaded = load_checkpoint(folder)
    assert loaded.calibration.text_only.shares == (0.0, 0.0, 0.0, 1.0)
    data = load_training_data(config)
    expected = LinearFloor.from_bytes((folder / FILE_NAME).read_bytes()).score(data.dev)["text"].probs_NC
    found = predict(loaded.model, data.dev, "text").linear_NC.double().softmax(-1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_network_that_sees_more_than_a_linear_layer_has_its_say(corpus_of_turns, tmp_path):
    """The label needs the utterance before, which the linear path does not see."""
    config = train_config(corpus_of_turns, tmp_path / "run", loop__epochs=25, loop__learning_rate=1e-2)
    loaded = load_checkpoint(fit_here(config))
    assert loaded.model.linear_path is not None
    assert "both" not in loaded.calibration.by_linear_path
    results = json.loads((config.folder / RESULTS).read_text())
    assert results["dev"]["causal"]["both"]["weighted_f1"] > results["dev"]["linear"]["both"]["weighted_f1"] + 0.1


@pytest.fixture(scope="module")
def corpus_of_turns(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("turns"), records())


def test_fit_has_a_linear_path_unless_somebody_says_otherwise(tmp_path, request):
    config = train_config(tmp_path, tmp_path / "run")
    assert config.model.linear_path
    assert not config.changed({"model.linear_path": False}).model.linear_path
    bare = json.loads(config.model_dump_json())
    del bare["model"]["linear_path"]
    for other in ({"model": {**bare["model"], "kind": "bc_lstm"}}, {"init": "compact"}):
        assert not TrainConfig.model_validate_json(json.dumps({**bare, **other})).model.linear_path
    for name, there in {"meld_paper": False, "iemocap_paper": False, "own_vectors": True}.items():
        file = request.config.rootpath / "configs" / "train" / f"{name}.yaml"
        assert load_config(TrainConfig, file).model.linear_path is there
