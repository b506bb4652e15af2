"""Where each server of a deployment is reached by somebody outside, and the file that says so.

Nothing here may load torch: the hub's actor uses it.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import ray

from bcaf_stream.addresses import reached_at
from bcaf_stream.errors import DeploymentError
from bcaf_stream.files import replacing


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: the id of its node in Ray, the actor it belongs to, and its address as seen from outside."""

    node: str
    replica: str
    protocol: str
    address: str


def here(replica: str, servers: Iterable[tuple[str, str]], advertise: str | None = None) -> list[Endpoint]:
    """The endpoints of an actor, from its protocols and the addresses that they are bound to.

    `advertise` is the host by which outsiders reach it, `{node}` in it the node's own address. Without, an address
    that is bound to all of a node's has the node's.
    """
    node, host = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
    name = advertise.replace("{node}", host) if advertise else None
    return [Endpoint(node, replica, protocol, reached_at(address, name, host)) for protocol, address in servers]


def write_endpoints(path: Path, name: str, endpoints: Iterable[Endpoint]) -> None:
    """Replace the file; raises DeploymentError where it cannot be written."""
    document = {"name": name, "endpoints": [asdict(endpoint) for endpoint in endpoints]}
    try:
        with replacing(path, shared=True) as draft:
            draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DeploymentError(f"--endpoints {path}: cannot be written: {error.strerror}") from None
