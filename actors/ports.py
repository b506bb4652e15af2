"""Ports that the configuration leaves open (`:*`, `:0`, `port: 0`): chosen once, by the process that owns all.

An actor, or a whole deployment, that starts again is then found where it was.
"""

import json
import random
import socket
from collections.abc import Iterator
from typing import Any, cast

from actors.config import ServeConfig
from bcaf_stream.ingest.protocol import TcpProtocol, VendorConfig
from bcaf_stream.ingest.protocols.rtp import RtpConfig
from bcaf_stream.ingest.security import ServerConfig

PORTS = range(20_000, 32_000)  # below those that systems give to connections by themselves
TRIES = 100


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


def _choices(config: ServeConfig) -> Iterator[tuple[str, Any]]:
    """Dotted keys, and what to set them to; those whose port is named are left out."""
    binds = {
        "ingest.link": config.ingest.link.bind,
        "hub.bus": config.hub.bus.bind,
        "hub.replay": config.hub.replay.bind,
    }
    for key, bind in binds.items():
        if (chosen := _with_port(bind)) != bind:
            yield f"{key}.bind", chosen
    for name in type(config.ingest).model_fields:
        server = getattr(config.ingest, name)
        if isinstance(server, ServerConfig) and server.port == 0:
            protocol = cast(VendorConfig, server).protocol()
            count = protocol.ports if isinstance(protocol, TcpProtocol) else 1
            yield f"ingest.{name}.port", _free(server.host, count)
    if any(stream.port == 0 for stream in config.ingest.rtp):
        yield "ingest.rtp", tuple(_rtp_with_port(stream) for stream in config.ingest.rtp)
    if config.metrics.port == 0:
        yield "metrics.port", _free(config.metrics.bind)
    if config.monitor is not None and config.monitor.port == 0:
        yield "monitor.port", _free(config.monitor.host)


def _rtp_with_port(stream: RtpConfig) -> RtpConfig:
    port = stream.port or _free(stream.host, 2 * len(stream.streams), socket.SOCK_DGRAM)
    return stream.model_copy(update={"port": port})


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps([stream.model_dump(mode="json", exclude_defaults=True) for stream in value])
    return str(value)


def _with_port(bind: str) -> str:
    host, _, port = bind.removeprefix("tcp://").rpartition(":")
    if not bind.startswith("tcp://") or port not in ("*", "0"):
        return bind
    free = _free("" if host == "*" else host.strip("[]"))
    return f"tcp://{host}:{free}" if free else bind


def _free(host: str, count: int = 1, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """The first of so many free ports in a row; 0 where none is found: who binds it will complain."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for first in random.sample(PORTS[::2], TRIES):  # even: RTCP has the port after RTP's
        if all(_is_free(family, kind, host, first + n) for n in range(count)):
            return first
    return 0


def _is_free(family: socket.AddressFamily, kind: socket.SocketKind, host: str, port: int) -> bool:
    with socket.socket(family, kind) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
