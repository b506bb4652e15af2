"""The replicas of ingest: that there is one wherever there should be, and where their servers are reached."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ray

from actors.cluster import Cluster
from actors.config import IngestConfig
from actors.endpoints import Endpoint
from actors.placement import Place, places
from actors.ports import at_slot
from bcaf_stream.errors import DeploymentError

Create = Callable[[str, IngestConfig, str | None], Any]


class Servers(NamedTuple):
    """`audio` is where `send` goes, `servers` the addresses of each protocol."""

    audio: str
    servers: dict[str, str]
    endpoints: list[Endpoint]


class IngestPool:
    """One actor named `ingest`, wherever Ray has it; or several, `ingest-0` and so on, each on a chosen node.

    Args:
        create: makes an actor of this name, with its configuration, on a node; None: where Ray wants.

    Raises:
        DeploymentError: there is no room for them.
    """

    def __init__(self, config: IngestConfig, cluster: Cluster, create: Create) -> None:
        self._config, self._cluster, self._create = config, cluster, create
        self._places: dict[str, Place] = {}
        self.actors: dict[str, Any] = {}
        self.trouble: str | None = None  # why one of them is not where it should be
        if config.is_spread:
            self._place()
        else:
            self.actors["ingest"] = create("ingest", config, None)

    def follow_nodes(self) -> None:
        """Nodes come and go: have a replica wherever there should be one; `trouble` says what fails."""
        if not self._config.is_spread:
            return
        try:
            self._place()
            self.trouble = None
        except DeploymentError as error:  # no room, or Ray has not let go of a name yet
            self.trouble = str(error)

    def servers(self, ready: Sequence[dict[str, Any]]) -> Servers:
        """What the actors said when they were `ready`, together."""
        endpoints = [endpoint for its in ready for endpoint in its["endpoints"]]
        if self._config.is_spread or self._config.advertise:
            bound = [(endpoint.protocol, endpoint.address) for endpoint in endpoints]
        else:
            bound = ready[0]["bound"]
        found: dict[str, list[str]] = {}
        for protocol, address in bound:
            found.setdefault(protocol, []).append(address)
        joined = {protocol: ", ".join(addresses) for protocol, addresses in found.items()}
        return Servers(found["link"][0], joined, endpoints)

    def _place(self) -> None:
        wanted = places(self._config, self._cluster.nodes(), self._places)
        for name in [name for name, place in self._places.items() if wanted.get(name) != place]:
            ray.kill(self.actors.pop(name))
            del self._places[name]
        for name, place in wanted.items():
            if name not in self._places:
                self.actors[name] = self._create(name, at_slot(self._config, place.slot), place.node.id)
                self._places[name] = place
