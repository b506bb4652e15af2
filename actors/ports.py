"""Ports that the configuration leaves to the system (`:*` or `:0`): chosen once, by the process that owns all.

An actor, or a whole deployment, that starts again is then found where it was.
"""

import random
import socket
from typing import Any

from actors.config import ServeConfig

PORTS = range(20_000, 32_000)  # below those that systems give to connections by themselves
TRIES = 100


def with_ports(config: ServeConfig) -> ServeConfig:
    """The same with a free port wherever none is named."""
    data = config.model_dump()
    for part in (data["ingest"]["link"], data["hub"]["bus"], data["hub"]["replay"]):
        part["bind"] = _with_port(part["bind"])
    return ServeConfig.model_validate(data)


def chosen_ports(config: ServeConfig) -> list[str]:
    """The same choice as overrides, dotted.key=value."""
    chosen = with_ports(config)
    binds: dict[str, Any] = {
        "ingest.link.bind": (config.ingest.link.bind, chosen.ingest.link.bind),
        "hub.bus.bind": (config.hub.bus.bind, chosen.hub.bus.bind),
        "hub.replay.bind": (config.hub.replay.bind, chosen.hub.replay.bind),
    }
    return [f"{key}={new}" for key, (old, new) in binds.items() if new != old]


def _with_port(bind: str) -> str:
    host, _, port = bind.removeprefix("tcp://").rpartition(":")
    if not bind.startswith("tcp://") or port not in ("*", "0"):
        return bind
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    for number in random.sample(PORTS, TRIES):
        with socket.socket(family) as probe:
            try:
                probe.bind(("" if host == "*" else host.strip("[]"), number))
            except OSError:
                continue
            return f"tcp://{host}:{number}"
    return bind  # which the actor that binds it will complain of
