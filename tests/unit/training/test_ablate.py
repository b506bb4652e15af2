import json

import pytest
import torch

from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError
from bcaf_stream.model.bcaf import build_model
from tests.unit.training.made import prepared, records, train_config
from training.ablate import CHANGES, PAPER, ablate
from training.config import TrainConfig
from training.dialogues import collate
from training.training_data import load_training_data
from training.tune import tune


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("corpus"), records({"train": 6, "dev": 3, "test": 3}))


@pytest.mark.parametrize("variant", CHANGES)
def test_every_parameter_of_every_variant_learns(manifest, tmp_path, variant):
    """A process group waits for ever for a gradient that never comes."""
    torch.set_num_threads(1)
    config = train_config(manifest, tmp_path / "run").changed(CHANGES[variant])
    model = build_model(config.model)
    batch = collate(load_training_data(config).train)
    output = model(batch.audio_BUA, batch.text_BUT, batch.mask_BU, batch.audio_present_BU, batch.text_present_BU)
    model.loss(output, batch.label_BU, batch.mask_BU)[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_variants_stand_beside_the_paper(manifest, tmp_path):
    config = train_config(
        manifest,
        tmp_path / "run",
        loop__epochs=1,
        ablate__seeds=2,
        ablate__paper="meld",
        ablate__variants=["full", "no_context", "printed"],
    )
    # What is unbounded below diverges when it is pressed; that is a result, not a failure.
    config = config.changed({"model.alpha": 1e30, "model.connection_form": "off"})
    seen = []
    folder = ablate(config, "test", seen.append)
    assert [(run.variant, run.seed) for run in seen] == [
        (v, s) for v in ("full", "no_context", "printed") for s in (0, 1)
    ]
    found = json.loads((folder / "results.json").read_text())
    assert len(found["full"]["weighted_f1"]) == 2
    assert found["printed"]["weighted_f1"] == []
    assert "unbounded below" in found["printed"]["diverged"]["0"]
    against = found["no_context"]["against_full"]
    assert against["low"] <= against["difference"] <= against["high"]
    table = (folder / "table.md").read_text()
    assert "| full |" in table
    assert "68.93" in table
    assert "| printed | diverged |" in table
    assert (folder / "ablation.png").stat().st_size > 5000
    stamp = (folder / "full" / "0" / "state.pt").stat().st_mtime_ns
    ablate(config, "test")
    assert (folder / "full" / "0" / "state.pt").stat().st_mtime_ns == stamp


def test_the_papers_drops_are_the_ones_that_it_states():
    drops = {"no_connection": (2.81, 2.83), "no_bimodal": (4.10, 5.12), "no_correlative": (5.24, 6.68)}
    drops |= {"jan": (2.85, 3.34), "self": (1.72, 2.53), "cross": (1.41, 1.69)}
    for variant, stated in drops.items():
        for corpus, drop in zip(("meld", "iemocap"), stated, strict=True):
            assert PAPER[corpus]["full"] - PAPER[corpus][variant] == pytest.approx(drop, abs=0.02)


def test_without_full_there_is_nothing_to_compare_with(manifest, tmp_path):
    with pytest.raises(ConfigError, match="full is missing"):
        ablate(train_config(manifest, tmp_path / "run", ablate__variants=["jan"]), "test")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "is empty"),
        ({"ray.num_workers": {"choices": [1]}}, "only keys of model and loop"),
        ({"loop.speed": {"choices": [1]}}, "no such key"),
        ({"model.heads": {"choices": [2, 3]}}, "multiple of heads"),
    ],
)
def test_a_wrong_search_is_refused_before_it_starts(manifest, tmp_path, space, message):
    with pytest.raises(ConfigError, match=message):
        tune(train_config(manifest, tmp_path / "run", tune__space=space))


@pytest.mark.parametrize("name", ["meld_paper", "iemocap_paper", "own_vectors"])
def test_the_configurations_that_ship_load(name, request):
    config = load_config(TrainConfig, request.config.rootpath / "configs" / "train" / f"{name}.yaml")
    if name.endswith("_paper"):
        loop, model = config.loop, config.model
        assert (loop.optimizer, loop.learning_rate, loop.l2, loop.patience) == ("adam", 1e-4, 1e-4, 15)
        assert (model.width, model.latent, model.dropout, model.heads) == (1024, 512, 0.3, 1)
        assert model.layers == {"meld_paper": 5, "iemocap_paper": 3}[name]
        for key, choice in config.tune.space.items():
            config.changed({key: (choice.choices or (choice.low,))[0]})
