"""`label_selector`: actors are on the nodes that the configuration names, on a Ray of two nodes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.config import ServeConfig
from actors.launch import Deployment
from bcaf_stream.errors import DeploymentError


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A front node and an emotion node; this process is a driver on the first."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "labels": {"bcaf-group": "front"}})
    cluster.add_node(num_cpus=1, labels={"bcaf-group": "emotion"})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def serve(tmp_path: Path, tiny: Path, **emotion: Any) -> ServeConfig:
    loopback = "tcp://127.0.0.1:*"
    return ServeConfig.model_validate(
        {
            "analyzer": {"model": {"checkpoint": str(tiny)}, "text": {"asr": {"kind": "none"}}},
            "ingest": {"label_selector": {"bcaf-group": "front"}, "link": {"bind": loopback}},
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
