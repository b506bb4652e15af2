"""Ports that the configuration leaves to the system."""

import socket

from actors.config import ServeConfig
from actors.ports import chosen_ports, with_ports
from bcaf_stream.config import load_config


def test_a_port_that_is_named_stays():
    config = ServeConfig()
    assert with_ports(config) == config
    assert chosen_ports(config) == []


def test_a_port_that_is_left_open_is_chosen_once():
    open_ports = [
        "hub.bus.bind=tcp://127.0.0.1:*",
        "hub.replay.bind=tcp://[::1]:0",
        "ingest.link.bind=ipc:///tmp/x",
    ]
    config = load_config(ServeConfig, None, open_ports)
    overrides = chosen_ports(config)
    assert [override.rpartition(":")[0] for override in overrides] == [
        "hub.bus.bind=tcp://127.0.0.1",
        "hub.replay.bind=tcp://[::1]",
    ]
    chosen = load_config(ServeConfig, None, [*open_ports, *overrides])
    assert with_ports(chosen) == chosen
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(chosen.hub.bus.bind.rpartition(":")[2])))
