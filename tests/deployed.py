"""A deployment for tests: free ports, a journal of its own, small random weights; interim events on request."""

import socket
from pathlib import Path

from actors.config import ServeConfig
from bcaf_stream.config import load_config


def serve_config(name: str, checkpoint: Path, folder: Path, *overrides: str) -> ServeConfig:
    return load_config(
        ServeConfig,
        None,
        [
            f"name={name}",
            f"analyzer.model.checkpoint={checkpoint}",
            "ingest.link.bind=tcp://127.0.0.1:*",
            "ingest.live.interim_ms=0",
            "hub.bus.bind=tcp://127.0.0.1:*",
            "hub.replay.bind=tcp://127.0.0.1:*",
            f"hub.journal.path={folder / 'events.sqlite'}",
            *overrides,
        ],
    )


def free_address() -> str:
    """A port that stays the same when what is bound to it starts again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
