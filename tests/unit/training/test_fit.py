import re
import resource
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bcaf_stream.errors import CheckpointError, ConfigError, DataError
from bcaf_stream.model.checkpoint import load_checkpoint
from tests.unit.training.made import dialogues, prepared, records, train_config, write_jsonl
from training.config import LoopConfig
from training.datasets.manifest import Manifest, read_manifest, write_manifest
from training.datasets.table import read_table
from training.evaluate import evaluate, evaluate_streaming, open_subject, predictions_of
from training.fit import build_trainer, fit_here
from training.log import EpochLog, following, read_epochs
from training.metrics import summary, weighted_f1
from training.source import DialogueSource
from training.state import load_state, save_state
from training.trainer import Trainer
from training.training_data import load_training_data


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("corpus"), records())


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    torch.set_num_threads(1)
    config = train_config(manifest, tmp_path_factory.mktemp("runs") / "made", loop__modality_dropout=0.2)
    return config, fit_here(config)


def test_the_checkpoint_loads_and_has_learned(run, manifest):
    _, folder = run
    subject = open_subject(str(folder), manifest, "test")
    found = evaluate(subject)
    assert set(found) == {"causal", "offline"}
    assert set(found["causal"]) == {"both", "text", "audio"}
    assert weighted_f1(found["causal"]["both"]) > 0.95
    assert weighted_f1(found["causal"]["text"]) < 0.65
    assert summary(found["causal"]["both"])["n"] == sum(len(d) for d in subject.dialogues)


def test_each_prediction_names_its_utterance(run, manifest):
    subject = open_subject(str(run[1]), manifest, "test")
    for results in (evaluate(subject), evaluate_streaming(subject)):
        found = list(predictions_of(subject, results))
        assert len(found) == sum(len(scored.truth_N) for views in results.values() for scored in views.values())
        labels = {(row.call, row.utterance): row.label for row in subject.manifest.rows}
        for one in found:
            assert one["label"] == labels[one["call"], one["utterance"]]
            assert one["predicted"] == max(one["probs"], key=one["probs"].get)
        both = [one for one in found if (one["mode"], one["view"]) == ("causal", "both")]
        right = sum(one["predicted"] == one["label"] for one in both)
        assert right == results["causal"]["both"].correct_N.sum()
        assert "text" not in set(both[0])


def test_the_streaming_path_decides_the_same(run, manifest):
    subject = open_subject(str(run[1]), manifest, "test")
    batch, live = evaluate(subject)["causal"], evaluate_streaming(subject)["causal"]
    for view, expected in batch.items():
        np.testing.assert_array_equal(live[view].predicted_N, expected.predicted_N)
        np.testing.assert_array_equal(live[view].truth_N, expected.truth_N)
        np.testing.assert_array_equal(live[view].call_N, expected.call_N)
        np.testing.assert_allclose(live[view].probs_NC, expected.probs_NC, atol=1e-5)


def test_the_log_and_the_card_say_what_was_done(run):
    config, folder = run
    epochs = read_epochs(config.folder)
    assert [record["epoch"] for record in epochs] == list(range(1, len(epochs) + 1))
    assert any((config.folder / "tensorboard").iterdir())
    card = (folder / "README.md").read_text()
    for needed in (
        "Seed 0",
        "| train | 120 |",
        "by dialogue; not every speaker is named",
        "must not be used",
        "Art. 5(1)(f)",
    ):
        assert needed in card


def test_a_finished_run_does_nothing_more(run):
    config, folder = run
    before = load_checkpoint(folder).hash
    seen = []
    fit_here(config, seen.append)
    assert seen == []
    assert load_checkpoint(folder).hash == before


def test_the_same_name_goes_on_and_another_configuration_does_not(manifest, tmp_path):
    config = train_config(manifest, tmp_path / "run", loop__epochs=1)
    fit_here(config)
    seen = []
    fit_here(config.changed({"loop.epochs": 2}), seen.append)
    assert [record["epoch"] for record in seen] == [2]
    assert [record["epoch"] for record in read_epochs(config.folder)] == [1, 2]
    with pytest.raises(DataError, match="started with another configuration"):
        fit_here(config.changed({"loop.learning_rate": 0.1}))
    other = prepared(tmp_path, records({"train": 4, "dev": 2, "test": 2}, seed=1))
    with pytest.raises(DataError, match="or other data"):
        fit_here(config.changed({"data.manifest": str(other)}))


def test_training_may_start_from_a_checkpoint_with_the_same_labels(run, manifest, tmp_path):
    _, folder = run
    config = train_config(manifest, tmp_path / "next", init=str(folder))
    started = build_trainer(config, load_training_data(config), torch.device("cpu"))
    torch.testing.assert_close(started.model.state_dict(), load_checkpoint(folder).model.state_dict())
    others = train_config(manifest, tmp_path / "no", init=str(folder), model__labels=["calm", "cross", "glad"])
    with pytest.raises(CheckpointError, match="trained on the labels calm, cross, not on calm, cross, glad"):
        build_trainer(others, load_training_data(others), torch.device("cpu"))
    wider = train_config(manifest, tmp_path / "no", init=str(folder), model__width=32)
    with pytest.raises(CheckpointError, match="another architecture"):
        build_trainer(wider, load_training_data(wider), torch.device("cpu"))


def test_a_larger_model_teaches_and_one_that_does_not_fit_is_refused(run, manifest, tmp_path):
    distilled = train_config(manifest, tmp_path / "small", teacher=str(run[1]), loop__epochs=2, model__width=8)
    seen = []
    fit_here(distilled, seen.append, floor=False)
    assert seen[-1]["train_distillation"] < seen[0]["train_distillation"]
    with pytest.raises(DataError, match="another configuration"):
        fit_here(distilled.changed({"teacher": None}))
    other = train_config(manifest, tmp_path / "no", teacher=str(run[1]), model__labels=["calm", "cross", "glad"])
    with pytest.raises(CheckpointError, match="cannot teach: its labels or the widths"):
        fit_here(other)


def test_with_a_falling_learning_rate_the_number_of_epochs_is_part_of_the_run(manifest, tmp_path):
    config = train_config(manifest, tmp_path / "run", loop__epochs=1, loop__schedule="linear")
    fit_here(config, floor=False)
    with pytest.raises(DataError, match="started with another configuration"):
        fit_here(config.changed({"loop.epochs": 2}))


def relabelled(rows, label):
    return [{**row, "label": label if row["label"] == "cross" else row["label"]} for row in rows]


def spoiled(rows, key, value):
    return [{**row, key: value} if i == 3 else row for i, row in enumerate(rows)]


SMALL = {"train": 3, "dev": 2, "test": 2}
BAD = {
    "unknown label": (lambda r: relabelled(r, "gloomy"), {}, r"label 'gloomy' is unknown to the model"),
    "text alone": (
        lambda r: [{k: v for k, v in row.items() if k != "audio_vector"} for row in r],
        {},
        r"has no audio; set data.modalities: \[text\]",
    ),
    "another width": (
        lambda r: r,
        {"model__audio_width": 7},
        r"train-0-0: its audio vector is 6 wide; the model takes 7",
    ),
    "half of the vectors": (
        lambda r: spoiled([{**row, "text": "oh"} for row in r], "text_vector", None),
        {},
        r"holds utterances without text vectors; name the encoders",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(tmp_path, what):
    spoil, changes, message = BAD[what]
    manifest = prepared(tmp_path / "corpus", spoil(records(SMALL)))
    with pytest.raises(DataError, match=message) as error:
        fit_here(train_config(manifest, tmp_path / "run", **changes))
    assert "\n" not in str(error.value)


def test_a_vector_that_is_not_finite_is_named_even_in_a_manifest_that_nobody_audited(tmp_path):
    rows = spoiled(records(SMALL), "text_vector", [float("nan")] * 6)
    write_manifest(read_table(write_jsonl(tmp_path / "manifest.jsonl", rows)), tmp_path / "made")
    with pytest.raises(DataError, match=r"train-0-3: its text vector holds NaN or infinity"):
        fit_here(train_config(tmp_path / "made", tmp_path / "run"))


def test_what_was_trained_on_text_alone_looks_at_nothing_else(tmp_path):
    rows = records(SMALL)
    mute = [{k: v for k, v in row.items() if k != "audio_vector"} for row in rows]
    silent = prepared(tmp_path / "silent", mute)
    folder = fit_here(train_config(silent, tmp_path / "run", data__modalities=["text"], loop__epochs=1))
    card = (folder / "README.md").read_text()
    assert "Trained on text." in card
    assert "- audio: none; the model was not trained on it" in card
    expected = open_subject(str(folder), silent, "test")
    heard = open_subject(str(folder), prepared(tmp_path / "both", rows), "test")
    assert expected.notes == ()
    assert "was not trained on audio" in heard.notes[0]
    for subject in (expected, heard):
        assert subject.views == ("text",)
        for found in (evaluate(subject), evaluate_streaming(subject)):
            np.testing.assert_allclose(
                found["causal"]["text"].probs_NC, evaluate(expected)["causal"]["text"].probs_NC, atol=1e-5
            )
    sound = prepared(tmp_path / "sound", [{k: v for k, v in row.items() if k != "text_vector"} for row in rows])
    with pytest.raises(DataError, match="no labelled utterance of its test split has text"):
        open_subject(str(folder), sound, "test")


def test_a_corpus_with_other_labels_cannot_be_scored(run, tmp_path):
    manifest = prepared(tmp_path, relabelled(records(SMALL), "gloomy"))
    with pytest.raises(CheckpointError, match=r"trained on the labels calm, cross, and .* has 'gloomy'"):
        open_subject(str(run[1]), manifest, "test")


def test_vectors_that_name_another_encoder_are_refused(tmp_path):
    folder = prepared(tmp_path, records(SMALL))
    whole = read_manifest(folder)
    for name in ("mine", "theirs"):
        corpus = replace(whole.corpus, vectors={"text": name})
        write_manifest(Manifest(corpus, whole.rows), tmp_path / name)
    checkpoint = fit_here(train_config(tmp_path / "mine", tmp_path / "run", loop__epochs=1))
    open_subject(str(checkpoint), tmp_path / "mine", "dev")
    with pytest.raises(DataError, match=r"text vectors are of theirs, and .* was trained on those of mine"):
        open_subject(str(checkpoint), tmp_path / "theirs", "dev")
    (note,) = open_subject(str(checkpoint), folder, "dev").notes
    assert re.fullmatch(r"nobody says that the text vectors of \w+ are of mine, as the others are", note)
    encoders = {"text": {"kind": "pretrained", "model": "roberta-large"}}
    with pytest.raises(DataError, match=r"vectors are of mine, and encoders.text is roberta-large"):
        fit_here(train_config(tmp_path / "mine", tmp_path / "other", encoders=encoders))


def test_a_gpu_that_is_not_there_is_said(run, manifest, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="there is no GPU here"):
        open_subject(str(run[1]), manifest, "test", device="cuda")


def test_keys_that_do_not_exist_are_named(manifest, tmp_path):
    with pytest.raises(ConfigError, match=r"loop.speed: no such key"):
        train_config(manifest, tmp_path / "run", loop__speed=3)
    with pytest.raises(ConfigError, match=r"model"):
        train_config(manifest, tmp_path / "run", model__heads=3)


@pytest.fixture
def small_trainer():
    from bcaf_stream.model.bcaf import BCAF
    from bcaf_stream.model.config import BCAFConfig
    from tests.unit.training.made import LOOP, MODEL

    config = BCAFConfig.model_validate({**MODEL, "labels": tuple(MODEL["labels"])})
    loop = LoopConfig(**LOOP)
    return Trainer(BCAF(config), loop, DialogueSource(loop, config.classes, dialogues(8, 0), dialogues(4, 1)))


def test_a_full_disk_leaves_the_last_state_loadable(small_trainer, tmp_path):
    small_trainer.run_epoch()
    save_state(small_trainer, "same", tmp_path)
    small_trainer.run_epoch()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (4096, hard)
    )  # the system refuses to write more, as a full disk does
    try:
        with pytest.raises(
            DataError, match=r"state of epoch 2 cannot be written \(.+\); the state of epoch 1 is"
        ) as e:
            save_state(small_trainer, "same", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(e.value)
    assert len(load_state(tmp_path, "same")["history"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capfd):
    log = EpochLog(tmp_path / "run")
    log.add({"epoch": 1, "train_total": 0.5})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        with pytest.raises(DataError, match=r"run: cannot be written"):
            log.add({"epoch": 2, "train_total": 0.4})
        with pytest.raises(DataError, match=r"run: cannot be written"):
            EpochLog(tmp_path / "run", [{"epoch": 1}])
        (curves,) = [path for path in (tmp_path / "run" / "tensorboard").iterdir() if path.stat().st_size > 50]
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (curves.stat().st_size + 1, hard)
        )  # one more line, no more curve
        with pytest.raises(DataError, match=r"run: cannot be written"):
            log.add({"epoch": 2, "train_total": 0.4})
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""  # no other thread had something to say of it


def test_a_log_that_was_cut_short_does_not_stand_in_the_way(manifest, tmp_path):
    config = train_config(manifest, tmp_path / "run", loop__epochs=2)
    fit_here(config)
    path = config.folder / "epochs.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert [record["epoch"] for record in read_epochs(config.folder)] == [1]
    fit_here(config.changed({"loop.epochs": 3}))
    assert [record["epoch"] for record in read_epochs(config.folder)] == [1, 2, 3]


def test_tensorboard_reads_the_curves_of_a_resumed_run(tmp_path):
    for epoch, loss in ((1, 0.5), (2, 0.125), (2, 0.25)):  # the second one never committed
        with closing(EpochLog(tmp_path, [{"epoch": 1}][: epoch - 1])) as log:
            log.add({"epoch": epoch, "train_total": loss})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/total")] == [(1, 0.5), (2, 0.25)]


def test_a_broken_state_is_named(small_trainer, tmp_path):
    assert load_state(tmp_path, "same") is None
    path = save_state(small_trainer, "same", tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"state.pt: cannot be read"):
        load_state(tmp_path, "same")
    torch.save({"identity": "same", "history": []}, path)
    with pytest.raises(DataError, match=r"state.pt: another version of the program wrote it"):
        load_state(tmp_path, "same")


def test_labels_of_what_nothing_is_there_of_do_not_count(tmp_path):
    """Training would run to its end without a single label in its loss."""
    rows = [row | ({"label": None} if i % 2 else {"text_vector": None}) for i, row in enumerate(records(SMALL))]
    manifest = prepared(tmp_path / "corpus", rows)
    with pytest.raises(DataError, match="no labelled utterance of its train split has text"):
        fit_here(train_config(manifest, tmp_path / "run", data__modalities=["text"]))


def test_the_lines_of_epochs_that_are_trained_again_are_seen(tmp_path):
    seen = []
    with closing(EpochLog(tmp_path)) as log:
        log.add({"epoch": 1, "seconds": 1.0})
        with following(tmp_path, seen.append), closing(EpochLog(tmp_path)) as again:
            again.add({"epoch": 1, "seconds": 2.0})
    assert seen == [{"epoch": 1, "seconds": 2.0}]
