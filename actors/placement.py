"""On which nodes of a cluster the replicas of ingest are: a pure decision from the nodes that there are."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from actors.cluster import Node
from actors.config import IngestConfig
from bcaf_stream.errors import DeploymentError


class Place(NamedTuple):
    """Where a replica is; `slot` is its number among those at the same address, which need ports of their own."""

    node: Node
    slot: int


def fits(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with these labels is meant, in Ray's own terms: `a`, `!a`, `in(a, b)` and `!in(a, b)`."""
    for name, wanted in selector.items():
        denied = wanted.startswith("!")
        listed = re.fullmatch(r"in\((.*)\)", wanted.removeprefix("!"))
        values = [value.strip() for value in listed[1].split(",")] if listed else [wanted.removeprefix("!")]
        if (labels.get(name) in values) is denied:
            return False
    return True


def places(config: IngestConfig, nodes: Sequence[Node], present: Mapping[str, Place]) -> dict[str, Place]:
    """Where each replica should be, by name. Who is on a living node stays there.

    They are spread: the next one comes where the fewest are. Nodes with a GPU are left to the model, unless the
    label selector names nodes or there are no others.

    Raises:
        DeploymentError: no node is meant, or there is no room for so many.
    """
    meant = _meant(config, nodes)
    alive = {node.id: node for node in meant}
    kept = {name: place for name, place in present.items() if place.node.id in alive}
    if config.per_node:
        taken = {place.node.id for place in kept.values()}
        for node in meant:
            if node.id not in taken:
                kept[_free_name(kept)] = Place(node, _free_slot(kept, node.host))
        return kept
    for name in (f"ingest-{i}" for i in range(config.replicas)):
        if name not in kept:
            node = _emptiest(config, meant, kept)
            kept[name] = Place(node, _free_slot(kept, node.host))
    return kept


def _meant(config: IngestConfig, nodes: Sequence[Node]) -> list[Node]:
    needs = {"CPU": config.num_cpus, **config.resources}
    found = [
        node
        for node in nodes
        if fits(node.labels, config.label_selector)
        and all(node.resources.get(kind, 0.0) >= amount for kind, amount in needs.items())
    ]
    if not found:
        raise DeploymentError(
            f"ingest: no node of this Ray has what it needs ({needs}) and the labels"
            f" {dict(config.label_selector)}: see ingest.num_cpus, ingest.resources and ingest.label_selector"
        )
    without_gpu = [node for node in found if not node.resources.get("GPU")]
    return found if config.label_selector or not without_gpu else without_gpu


def _emptiest(config: IngestConfig, nodes: Sequence[Node], present: Mapping[str, Place]) -> Node:
    count = Counter(place.node.id for place in present.values())
    roomy = [n for n in nodes if (count[n.id] + 1) * config.num_cpus <= n.resources.get("CPU", 0.0)]
    if not roomy:
        raise DeploymentError(
            f"ingest.replicas: {config.replicas} of {config.num_cpus:g} CPUs each do not fit the {len(nodes)}"
            " nodes that may have them: lower replicas or ingest.num_cpus"
        )
    return min(roomy, key=lambda node: count[node.id])


def _free_slot(present: Mapping[str, Place], host: str) -> int:
    taken = {place.slot for place in present.values() if place.node.host == host}
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)


def _free_name(present: Mapping[str, Place]) -> str:
    return next(name for name in (f"ingest-{i}" for i in range(len(present) + 1)) if name not in present)
