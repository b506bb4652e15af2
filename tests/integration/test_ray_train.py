"""Training and features on a real Ray: workers in processes of their own, killed where the test says so."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from bcaf_stream.config import load_config
from bcaf_stream.encoders.base import AudioEncoderConfig
from bcaf_stream.encoders.load import load_audio_encoder
from bcaf_stream.errors import DataError, DeploymentError, ModelError
from bcaf_stream.model.checkpoint import load_checkpoint
from tests.unit.training.made import prepared, records, tone, train_config, write_wav
from training.config import TrainConfig
from training.datasets.manifest import read_manifest
from training.encode import encode_shard, maker_of, missing
from training.fit import fit_here
from training.log import read_epochs
from training.state import load_state, storage
from training.store import FeatureStore
from training.training_data import load_training_data

SIZES = {"train": 24, "dev": 6, "test": 3}
pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),  # Ray warns of its own settings
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("corpus"), records(SIZES))


def weights(folder):
    return load_checkpoint(folder).model.state_dict()


def descendants(title: str) -> list[int]:
    """Processes below this one whose title has `title`; other Rays on the machine are none of ours."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = []
    for pid, text in titles.items():
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and title in text:
            found.append(pid)
    return found


def test_two_workers_train_as_one_does_even_when_one_is_killed(manifest, tmp_path, monkeypatch):
    """`batch` counts the dialogues of all workers, and an epoch depends on nothing but its number.

    Only the connection loss is taken per worker, so it is left out here. The manifest's path is a relative one.
    """
    from ray.train import Result

    from training.ray_train import fit_on_ray

    torch.set_num_threads(1)
    monkeypatch.chdir(manifest.parent)
    manifest = Path(manifest.name)
    changes = {"model__alpha": 0.0, "loop__epochs": 5, "loop__class_weights": "balanced"}
    alone = fit_here(train_config(manifest, tmp_path / "alone", **changes))
    place = f"local://{tmp_path}/elsewhere"  # a protocol that fsspec knows and pyarrow does not
    config = train_config(
        manifest, tmp_path / "many", ray__num_workers=[1, 2], ray__storage_path=place, ray__keep=50, **changes
    )
    seen, killed = [], []

    def kill(record):
        seen.append(record["epoch"])
        if record["epoch"] >= 2 and not killed:
            killed.extend(descendants("RayTrainWorker")[:1])
            os.kill(killed[0], signal.SIGKILL)

    many = fit_on_ray(config, kill)
    mine, theirs = read_epochs(tmp_path / "alone"), read_epochs(tmp_path / "many")
    assert killed
    assert seen == [record["epoch"] for record in theirs] == [1, 2, 3, 4, 5]
    assert max(record["workers"] for record in theirs) == 2
    for key in ("train_total", "train_fused", "dev_weighted_f1"):
        np.testing.assert_allclose([r[key] for r in mine], [r[key] for r in theirs], rtol=5e-4)
    torch.testing.assert_close(weights(many), weights(alone), rtol=1e-2, atol=5e-3)
    identity = load_training_data(config).identity
    committed = Result.from_path(str(tmp_path / "elsewhere" / "many")).best_checkpoints
    assert [metrics["epoch"] for _, metrics in committed] == [1, 2, 3, 4, 5]  # none of them was done again
    for checkpoint, metrics in committed:
        assert len(load_state(Path(checkpoint.path), identity)["history"]) == metrics["epoch"]


def test_a_search_tries_what_it_was_told_and_keeps_the_best(manifest, tmp_path, monkeypatch):
    from training.tune import tune

    monkeypatch.chdir(manifest.parent)
    space = {"loop.learning_rate": {"choices": [1e-6, 5e-3]}, "model.dropout": {"low": 0.0, "high": 0.2}}
    config = train_config(
        Path(manifest.name), tmp_path / "run", tune__space=space, tune__samples=3, loop__epochs=2
    )
    folder = tune(config)
    trials = json.loads((folder / "trials.json").read_text())
    assert len(trials) == 3
    scores = [trial["dev_weighted_f1"] for trial in trials]
    assert scores == sorted(scores, reverse=True)
    best = load_config(TrainConfig, folder / "best.yaml")
    assert best.loop.learning_rate == trials[0]["values"]["loop.learning_rate"]
    assert best.data.manifest == manifest.name


def test_more_than_ray_has_is_refused_and_not_waited_for(manifest, tmp_path):
    from training.ray_train import fit_on_ray

    config = train_config(manifest, tmp_path / "run", ray__num_workers=64)
    with pytest.raises(DeploymentError, match=r"training needs 64 CPUs and Ray has 2"):
        fit_on_ray(config)


def test_a_protocol_that_nobody_knows_is_named():
    with pytest.raises(DeploymentError, match=r"storage_path nowhere://"):
        storage("nowhere://bucket/run")
    assert storage("runs/here") == (None, str(Path("runs/here").absolute()))


def test_features_are_computed_once_and_go_on_where_they_stopped(tiny, tmp_path):
    from training.features import compute_features

    rows = []
    for i, row in enumerate(records({"train": 8, "dev": 2, "test": 2})):
        name = write_wav(tmp_path / f"{i % 20}.wav", tone(0.3 + 0.01 * (i % 20), 200)).name
        rows.append({**{key: row[key] for key in row if "vector" not in key}, "audio": name})
    manifest = prepared(tmp_path, rows)
    config = train_config(
        manifest,
        tmp_path / "run",
        data__modalities=["audio"],
        encoders={"audio": {"kind": "compact"}, "text": {"kind": "compact"}},
        encoders_from=str(tiny),
        features__shard=6,
        model__audio_width=load_checkpoint(tiny).encoders.audio.width,
        model__text_width=load_checkpoint(tiny).encoders.text.width,
    )
    with pytest.raises(DataError, match="run bcaf-train features"):
        load_training_data(config)
    # As if a first run had been cut short after one shard.
    encoder = load_audio_encoder(AudioEncoderConfig(), tiny)
    store = FeatureStore(config.data.features_root, maker_of("audio", AudioEncoderConfig(), encoder))
    encode_shard(encoder, store, missing(read_manifest(manifest), store)[:6])
    (kept,) = store.folder.glob("part-*.parquet")
    stamp = kept.stat().st_mtime_ns
    with pytest.raises(DataError, match=r"14 of 20 vectors are missing; run bcaf-train features, which goes on"):
        load_training_data(config)
    seen = []
    (rest,) = compute_features(config, lambda *progress: seen.append(progress))
    assert (rest.total, rest.new, rest.folder) == (20, 14, store.folder)  # the same sound is encoded once
    assert seen[-1] == ("audio", 14, 14)
    assert len(list(store.folder.glob("part-*.parquet"))) == 4
    assert kept.stat().st_mtime_ns == stamp
    (again,) = compute_features(config)
    assert again.new == 0
    data = load_training_data(config)
    assert encoder.weights_hash == data.specs.audio.sha256
    assert all(d.audio_present_U.all() for d in data.train)


def test_an_error_that_no_second_try_can_mend_ends_the_run(manifest, tmp_path):
    """Without workers Ray runs the worker's function here: the same way of ending, without the wait."""
    from training.ray_train import fit_on_ray

    config = train_config(
        manifest, tmp_path / "run", ray__max_failures=5, model__connection_form="printed", model__alpha=1e30
    )
    with pytest.raises(ModelError, match=r"not finite in epoch 1, step 1") as error:
        fit_on_ray(config)
    assert "\n" not in str(error.value)
