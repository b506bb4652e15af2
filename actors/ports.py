"""Ports that the configuration leaves open (`:*`, `:0`, `port: 0`): chosen once, by the process that owns all.

An actor, or a whole deployment, that starts again is then found where it was. Replicas of ingest at the same
address have the ports of the first one, PORT_STEP apart.
"""

import json
import random
import socket
from collections.abc import Iterator
from typing import Any, cast

from actors.config import IngestConfig, ServeConfig
from bcaf_stream.ingest.protocol import TcpProtocol, VendorConfig
from bcaf_stream.ingest.protocols.rtp import RtpConfig
from bcaf_stream.ingest.security import ServerConfig

PORTS = range(20_000, 32_000)  # below those that systems give to connections by themselves
TRIES = 100
PORT_STEP = 100
MOST_AT_ONE_ADDRESS = 8  # replicas of ingest for which room is looked for, where nobody knows how many


def with_ports(config: ServeConfig) -> ServeConfig:
    """The same with a free port wherever none is named."""
    data = config.model_dump()
    for key, value in _choices(config):
        *path, last = key.split(".")
        part = data
        for name in path:
            part = part[name]
        part[last] = value
    return ServeConfig.model_validate(data)


def chosen_ports(config: ServeConfig) -> list[str]:
    """The same choice as overrides, dotted.key=value."""
    return [f"{key}={_written(value)}" for key, value in _choices(config)]


def at_slot(config: IngestConfig, slot: int) -> IngestConfig:
    """The configuration of the replica that has this number among those at its address."""
    step = slot * PORT_STEP
    moved: dict[str, Any] = {"link": config.link.model_copy(update={"bind": _shifted(config.link.bind, step)})}
    for name, server in _servers(config):
        moved[name] = server.model_copy(update={"port": server.port + step})
    moved["rtp"] = tuple(stream.model_copy(update={"port": stream.port + step}) for stream in config.rtp)
    return config.model_copy(update=moved)


def _servers(config: IngestConfig) -> Iterator[tuple[str, ServerConfig]]:
    for name in type(config).model_fields:
        if isinstance(server := getattr(config, name), ServerConfig):
            yield name, server


def _shifted(bind: str, step: int) -> str:
    start, colon, port = bind.rpartition(":")
    return f"{start}{colon}{int(port) + step}" if bind.startswith("tcp://") and port.isdecimal() else bind


def _choices(config: ServeConfig) -> Iterator[tuple[str, Any]]:
    """Dotted keys, and what to set them to; those whose port is named are left out."""
    slots = MOST_AT_ONE_ADDRESS if config.ingest.per_node else config.ingest.replicas
    binds = {
        "ingest.link": (config.ingest.link.bind, slots),
        "hub.bus": (config.hub.bus.bind, 1),
        "hub.replay": (config.hub.replay.bind, 1),
    }
    for key, (bind, most) in binds.items():
        if (chosen := _with_port(bind, most)) != bind:
            yield f"{key}.bind", chosen
    for name, server in _servers(config.ingest):
        if server.port == 0:
            protocol = cast(VendorConfig, server).protocol()
            count = protocol.ports if isinstance(protocol, TcpProtocol) else 1
            yield f"ingest.{name}.port", _free(server.host, count, slots=slots)
    if any(stream.port == 0 for stream in config.ingest.rtp):
        yield "ingest.rtp", tuple(_rtp_with_port(stream, slots) for stream in config.ingest.rtp)
    if config.metrics.port == 0:
        yield "metrics.port", _free(config.metrics.bind)
    if config.monitor is not None and config.monitor.port == 0:
        yield "monitor.port", _free(config.monitor.host)


def _rtp_with_port(stream: RtpConfig, slots: int) -> RtpConfig:
    port = stream.port or _free(stream.host, 2 * len(stream.streams), socket.SOCK_DGRAM, slots)
    return stream.model_copy(update={"port": port})


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps([stream.model_dump(mode="json", exclude_defaults=True) for stream in value])
    return str(value)


def _with_port(bind: str, slots: int) -> str:
    host, _, port = bind.removeprefix("tcp://").rpartition(":")
    if not bind.startswith("tcp://") or port not in ("*", "0"):
        return bind
    free = _free("" if host == "*" else host.strip("[]"), slots=slots)
    return f"tcp://{host}:{free}" if free else bind


def _free(host: str, count: int = 1, kind: socket.SocketKind = socket.SOCK_STREAM, slots: int = 1) -> int:
    """The first of so many free ports in a row, in each slot; 0 where none is found: who binds it will tell."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for first in random.sample(PORTS[::2], TRIES):  # even: RTCP has the port after RTP's
        ports = (first + slot * PORT_STEP + n for slot in range(slots) for n in range(count))
        if all(_is_free(family, kind, host, port) for port in ports):
            return first
    return 0


def _is_free(family: socket.AddressFamily, kind: socket.SocketKind, host: str, port: int) -> bool:
    with socket.socket(family, kind) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
