"""Where the replicas of ingest are, and by which ports and names they are reached."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.cluster import Node
from actors.config import IngestConfig, ServeConfig
from actors.placement import Place, fits, places
from actors.ports import at_slot
from bcaf_stream.addresses import reached_at
from bcaf_stream.config import load_config
from bcaf_stream.errors import DeploymentError


def node(id: str, host: str = "", cpus: float = 4, labels: dict[str, str] | None = None, **more: float) -> Node:
    return Node(id, host or id, labels or {}, {"CPU": cpus, **more})


def config(**fields: Any) -> IngestConfig:
    return IngestConfig.model_validate(fields)


def where(found: dict[str, Place]) -> dict[str, tuple[str, int]]:
    return {name: (place.node.id, place.slot) for name, place in found.items()}


def test_replicas_are_spread_and_share_no_port_at_an_address():
    found = places(config(replicas=3), [node("a"), node("b")], {})
    assert where(found) == {"ingest-0": ("a", 0), "ingest-1": ("b", 0), "ingest-2": ("a", 1)}
    found = places(config(replicas=2), [node("a", "10.0.0.1"), node("b", "10.0.0.1")], {})
    assert where(found) == {"ingest-0": ("a", 0), "ingest-1": ("b", 1)}


def test_one_on_each_node_follows_the_nodes():
    nodes = [node("a"), node("b")]
    first = places(config(per_node=1), nodes, {})
    assert where(first) == {"ingest-0": ("a", 0), "ingest-1": ("b", 0)}
    later = places(config(per_node=1), [node("b"), node("c")], first)
    assert where(later) == {"ingest-1": ("b", 0), "ingest-0": ("c", 0)}


def test_who_is_on_a_dead_node_comes_to_another():
    first = places(config(replicas=2), [node("a"), node("b")], {})
    assert where(places(config(replicas=2), [node("b")], first)) == {"ingest-1": ("b", 0), "ingest-0": ("b", 1)}


@given(st.lists(st.sampled_from("abcd"), unique=True, min_size=1), st.lists(st.sampled_from("abcd"), unique=True))
def test_who_is_on_a_living_node_stays_and_nobody_has_anothers_ports(before: list[str], after: list[str]):
    of = config(replicas=4, num_cpus=0)
    hosts = {"a": "x", "b": "x", "c": "y", "d": "z"}
    first = places(of, [node(id, hosts[id]) for id in before], {})
    second = places(of, [node(id, hosts[id]) for id in after or before], first)
    assert set(second) == {f"ingest-{i}" for i in range(4)}
    assert len({(place.node.host, place.slot) for place in second.values()}) == 4
    for name, place in first.items():
        assert place.node.id not in after or second[name] == place


def test_gpu_nodes_are_left_to_the_model_unless_they_are_meant():
    nodes = [node("gpu", GPU=1, labels={"kind": "gpu"}), node("cpu", labels={"kind": "cpu"})]
    assert where(places(config(per_node=1), nodes, {})) == {"ingest-0": ("cpu", 0)}
    meant = config(per_node=1, label_selector={"kind": "gpu"})
    assert where(places(meant, nodes, {})) == {"ingest-0": ("gpu", 0)}
    assert where(places(config(per_node=1), nodes[:1], {})) == {"ingest-0": ("gpu", 0)}


def test_too_many_for_the_nodes_is_said():
    with pytest.raises(DeploymentError, match=r"replicas: 3 of 2 CPUs each do not fit the 1 nodes"):
        places(config(replicas=3, num_cpus=2), [node("a")], {})
    with pytest.raises(DeploymentError, match=r"no node .*'rack': 1.0.* ingest.resources"):
        places(config(per_node=1, resources={"rack": 1}), [node("a")], {})
    with pytest.raises(ValidationError, match="replicas and per_node are two ways"):
        config(replicas=2, per_node=1)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("a", [True, False, False]),
        ("!a", [False, True, True]),
        ("in(a, b)", [True, True, False]),
        ("!in(a, b)", [False, False, True]),
    ],
)
def test_labels_are_selected_in_the_terms_of_ray(wanted: str, expected: list[bool]):
    nodes = [{"zone": "a"}, {"zone": "b"}, {}]
    assert [fits(labels, {"zone": wanted}) for labels in nodes] == expected


@pytest.mark.parametrize(
    ("bound", "host", "outside"),
    [
        ("tcp://0.0.0.0:5560", None, "tcp://10.0.0.7:5560"),
        ("tcp://127.0.0.1:5560", None, "tcp://127.0.0.1:5560"),
        ("tcp://127.0.0.1:5560", "calls.example", "tcp://calls.example:5560"),
        ("tls://[::]:9092,9093", None, "tls://10.0.0.7:9092,9093"),
        ("ws://0.0.0.0:8080/", "fd00::1", "ws://[fd00::1]:8080/"),
        ("ipc:///run/x", "calls.example", "ipc:///run/x"),
    ],
)
def test_an_address_is_told_as_it_is_seen_from_outside(bound: str, host: str | None, outside: str):
    assert reached_at(bound, host, "10.0.0.7") == outside


def test_every_server_of_the_next_replica_has_its_own_port():
    overrides = ["ingest.twilio.port=8100", "ingest.rtp=[{port: 5004}, {port: 5008}]"]
    ingest = load_config(ServeConfig, None, overrides).ingest
    assert at_slot(ingest, 0) == ingest
    moved = at_slot(ingest, 2)
    assert moved.link.bind == "tcp://127.0.0.1:5760"
    assert moved.twilio is not None
    assert moved.twilio.port == 8300
    assert [stream.port for stream in moved.rtp] == [5204, 5208]
