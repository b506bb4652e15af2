"""A Ray of two nodes: actors are on those that the configuration names, and ingest on each of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.config import ServeConfig
from actors.launch import Deployment
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.demo import CALL
from bcaf_stream.errors import DeploymentError
from bcaf_stream.recording import Recording


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A front node and an emotion node; this process is a driver on the first."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "labels": {"bcaf-group": "front"}})
    cluster.add_node(num_cpus=1, labels={"bcaf-group": "emotion"})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def serve(tmp_path: Path, tiny: Path, ingest: dict[str, Any] | None = None, **emotion: Any) -> ServeConfig:
    loopback = "tcp://127.0.0.1:*"
    return ServeConfig.model_validate(
        {
            "analyzer": {"model": {"checkpoint": str(tiny)}, "text": {"asr": {"kind": "none"}}},
            "ingest": {
                **({"label_selector": {"bcaf-group": "front"}} if ingest is None else ingest),
                "link": {"bind": loopback},
            },
            "emotion": {"label_selector": {"bcaf-group": "emotion"}, **emotion},
            "hub": {
                "label_selector": {"bcaf-group": "front"},
                "bus": {"bind": loopback},
                "replay": {"bind": loopback},
                "journal": {"path": tmp_path / "events.sqlite"},
            },
        }
    )


def test_actors_are_on_the_nodes_that_were_named(nodes: Cluster, tmp_path: Path, tiny: Path):
    groups = {node["NodeID"]: node["Labels"]["bcaf-group"] for node in ray.nodes()}
    with Deployment(serve(tmp_path, tiny)) as deployment:
        deployment.up()
        where = {name: ray.get(actor.__ray_call__.remote(_node)) for name, actor in deployment._actors.items()}
    assert {name: groups[node] for name, node in where.items()} == {
        "hub": "front",
        "ingest": "front",
        "emotion-0": "emotion",
    }


def _node(_: object) -> str:
    return ray.get_runtime_context().get_node_id()


def test_labels_that_no_node_has_are_said_at_once(nodes: Cluster, tmp_path: Path, tiny: Path):
    config = serve(tmp_path, tiny, label_selector={"bcaf-group": "gpu"})
    with pytest.raises(DeploymentError, match=r"emotion\.label_selector: no node .* bcaf-group: gpu"):
        Deployment(config).up()


def test_ingest_on_every_node_is_reached_at_an_address_of_its_own(nodes: Cluster, tmp_path: Path, tiny: Path):
    config = serve(tmp_path, tiny, {"per_node": 1, "num_cpus": 0, "advertise": "localhost"}, num_cpus=0)
    with Deployment(config) as deployment:
        endpoints = deployment.up()
        listening = {each.replica: each for each in endpoints.endpoints if each.protocol == "link"}
        assert {each.node for each in listening.values()} == {node["NodeID"] for node in ray.nodes()}
        assert len({each.address for each in listening.values()}) == 2
        assert set(deployment.stats()) == {"hub", "ingest-0", "ingest-1", "emotion-0"}
        for name, each in listening.items():
            recording = Recording.open(str(CALL), {}, {}, name)
            assert each.address.startswith("tcp://localhost:")
            assert send_recording(recording, each.address, 0, "none").reason == "complete"
            assert deployment.stats()[name]["finished"] == 1
