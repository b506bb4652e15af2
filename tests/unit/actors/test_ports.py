"""Ports that the configuration leaves to the system."""

import socket

from actors.config import ServeConfig
from actors.ports import PORT_STEP, chosen_ports, with_ports
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


def test_every_server_is_found_where_it_was_when_its_actor_starts_again():
    connections = ("twilio", "audiohook", "audiosocket", "pcm", "microphone", "audio_fork", "live_text")
    open_ports = [f"ingest.{name}.port=0" for name in connections]
    open_ports += [
        "ingest.audiosocket.channels=[{name: a, role: customer}, {name: b, role: agent}]",
        "ingest.rtp=[{port: 0, idle_s: 1, allow: [10.0.0.0/8], host: 0.0.0.0}, {port: 5004}]",
        "metrics.port=0",
        "monitor={port: 0}",
    ]
    config = load_config(ServeConfig, None, open_ports)
    chosen = load_config(ServeConfig, None, [*open_ports, *chosen_ports(config)])
    assert with_ports(chosen) == chosen
    ports = [getattr(chosen.ingest, name).port for name in connections] + [
        chosen.metrics.port,
        chosen.monitor.port,
    ]
    assert 0 not in ports
    first, second = chosen.ingest.rtp
    assert (first.port > 0, second.port) == (True, 5004)
    assert first == config.ingest.rtp[0].model_copy(update={"port": first.port})
    assert with_ports(config).ingest.rtp[0].port > 0


def test_there_is_room_for_the_ports_of_all_replicas():
    config = load_config(ServeConfig, None, ["ingest.replicas=3", "ingest.link.bind=tcp://127.0.0.1:*"])
    first = int(with_ports(config).ingest.link.bind.rpartition(":")[2])
    for slot in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", first + slot * PORT_STEP))
