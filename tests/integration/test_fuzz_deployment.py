"""Nonsense by every endpoint of a real deployment, beside a call that must not notice; more of it by hand."""

from pathlib import Path

from actors.launch import Deployment
from tests.benchmarks.fuzz_deployment import SETTINGS, attack
from tests.deployed import serve_config

INPUTS, SPEED = 1800, 20.0


def test_nonsense_by_every_endpoint_disturbs_nobody(ray_session: None, tiny: Path, tmp_path: Path):
    config = serve_config("fuzz", tiny, tmp_path, "emotion.num_cpus=0.5", *SETTINGS)
    with Deployment(config) as deployment:
        found = attack(deployment, deployment.up(), INPUTS, seed=1, speed=SPEED)
    assert found["utterances"] >= 5
    assert len(found["inputs"]) == 10
    assert all(count >= INPUTS // 10 for count in found["inputs"].values())
    assert found["stats"]["failed"] == 0, "a call that breaks here is a fault of ours"
