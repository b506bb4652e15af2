"""A checkpoint that learns on from somebody's calls; and training on own vectors beside the compact words."""

import json

import numpy as np
import pytest
import torch

from bcaf_stream.config import load_config
from bcaf_stream.errors import DataError, EncoderError, ModelError
from bcaf_stream.model.checkpoint import load_checkpoint
from tests.tiny import tiny_checkpoint
from tests.unit.training.made import prepared, records, tone, train_config, write_wav
from training.adapt import adapt, write_adaptation
from training.cli import app
from training.config import TrainConfig
from training.evaluate import evaluate, evaluate_streaming, open_subject
from training.features import compute_features
from training.fit import fit_here

SAID = {"anger": "a rat at a bar", "joy": "oh so oh so"}
OTHER = {"anger": "joy", "joy": "anger"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config["calibration"]["decided_from"] = 0.35
    config["calibration"]["affect"] = {axis: [0.5] * len(config["labels"]) for axis in ("valence", "arousal")}
    config["calibration"]["voice"] = {"mean_log_probs": [-9.0] * len(config["labels"]), "bound": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def calls(folder, swapped=()):
    """Clips with words that tell their label; in the splits `swapped` the labels are the others'."""
    rows = []
    for split, count in (("train", 12), ("dev", 6), ("test", 6)):
        for call in range(count):
            for u in range(3):
                label = ("anger", "joy")[(call + u) % 2]
                sound = write_wav(folder / f"{split}-{call}-{u}.wav", tone(0.2, 150 + 20 * call + u)).name
                shown = OTHER[label] if split in swapped else label
                rows.append(
                    {"split": split, "call": f"{split}{call}", "utterance": str(u), "text": SAID[label],
                     "audio": sound, "label": shown, "speaker": f"{split}-{u}"}
                )  # fmt: skip
    return prepared(folder, rows)


def run(*words):
    app([str(word) for word in words], standalone_mode=False)


def test_a_checkpoint_learns_on_and_shows_before_and_after(tiny, tmp_path, capsys):
    corpus, out = calls(tmp_path), tmp_path / "mine"
    run("adapt", tiny, "--manifest", corpus, "--out", out, "--set", "loop.learning_rate=3e-3")
    said = capsys.readouterr().out
    assert "test, before and after" in said
    assert "both, weighted F1: +" in said
    assert said.splitlines()[-1] == f"checkpoint: {out / 'checkpoint'}"
    adapted = load_checkpoint(out / "checkpoint")
    assert adapted.calibration.decided_from == 0.35  # what the checkpoint knew of its own doubts is kept
    assert adapted.calibration.affect == load_checkpoint(tiny).calibration.affect is not None
    heard = evaluate(open_subject(str(adapted.folder), corpus, "dev"))["causal"]["audio"]
    said = [np.log(heard.probs_NC[heard.truth_N == label]).mean(0) for label in set(heard.truth_N)]
    assert adapted.calibration.voice.mean_log_probs == pytest.approx(np.mean(said, axis=0), abs=1e-3)
    assert adapted.calibration.voice.bound == 0.5  # its beginning is measured anew, the rest is kept
    for modality in ("audio", "text"):
        mine, theirs = (one.encoders.of(modality) for one in (adapted, load_checkpoint(tiny)))
        assert (mine.kind, mine.name, mine.sha256) == (theirs.kind, theirs.name, theirs.sha256)
    assert (adapted.encoders_folder / "text" / "weights.safetensors").is_file()
    again = load_config(TrainConfig, out / "adapt.yaml")  # what fit would take
    assert again.init == str(tiny)


def test_what_is_not_better_is_refused_and_taken_away(tiny, tmp_path):
    """A checkpoint that knows these words is given calls that call them by the others' names."""
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    right, wrong = calls(tmp_path / "right"), calls(tmp_path / "wrong", swapped=("train", "dev"))
    fast = ["loop.learning_rate=3e-3"]
    good = adapt(load_config(TrainConfig, write_adaptation(str(tiny), right, tmp_path / "good"), fast))
    config = load_config(TrainConfig, write_adaptation(str(good.folder), wrong, tmp_path / "mine"), fast)
    with pytest.raises(ModelError, match=r"not adapted: the weighted F1 on test would change by") as error:
        adapt(config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mine" / "checkpoint").exists()


def test_own_audio_vectors_go_with_the_compact_words(tiny, tmp_path):
    rows = [
        {key: row[key] for key in row if key != "text_vector"} | {"text": "oh so" if u % 2 else "a rat"}
        for u, row in enumerate(records({"train": 8, "dev": 4, "test": 4}))
    ]
    corpus = prepared(tmp_path, rows)
    config = train_config(
        corpus,
        tmp_path / "run",
        encoders={"audio": None, "text": {"kind": "compact"}},
        encoders_from=str(tiny),
        features__workers=[0, 0],
        model__text_width=load_checkpoint(tiny).encoders.text.width,
        loop__epochs=1,
    )
    with pytest.raises(DataError, match="run bcaf-train features"):
        fit_here(config)
    (done,) = compute_features(config)
    assert done.modality == "text"
    loaded = load_checkpoint(fit_here(config))
    assert (loaded.encoders.audio.kind, loaded.encoders.text.kind) == ("precomputed", "compact")
    assert not (loaded.encoders_folder / "audio").exists()
    found = evaluate(open_subject(str(loaded.folder), corpus, "test"))
    assert set(found["causal"]) == {"both", "text", "audio"}
    results = json.loads((config.folder / "results.json").read_text())
    assert set(results["dev"]["linear"]) == {"both", "text", "audio"}


def test_own_text_vectors_train_beside_the_compact_audio_encoder(tiny, tmp_path):
    rows = records({"train": 6, "dev": 3, "test": 3})
    for number, row in enumerate(rows):
        row["audio"] = write_wav(tmp_path / f"{number}.wav", tone(0.2, 120 + 7 * number)).name
        del row["audio_vector"]
    corpus = prepared(tmp_path, rows)
    config = train_config(
        corpus,
        tmp_path / "run",
        encoders={"audio": {"kind": "compact"}, "text": None},
        encoders_from=str(tiny),
        features__workers=[0, 0],
        model__audio_width=load_checkpoint(tiny).encoders.audio.width,
        loop__epochs=1,
    )
    (done,) = compute_features(config)
    assert done.modality == "audio"
    loaded = load_checkpoint(fit_here(config))
    assert (loaded.encoders.audio.kind, loaded.encoders.text.kind) == ("compact", "precomputed")
    subject = open_subject(str(loaded.folder), corpus, "test")
    assert set(evaluate(subject)["causal"]) == {"both", "text", "audio"}
    with pytest.raises(EncoderError, match="which cannot be made from a call"):  # a live call has no such vectors
        evaluate_streaming(subject)
