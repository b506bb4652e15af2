"""A deployment for tests: free ports, a journal of its own, small random weights."""

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
            "hub.bus.bind=tcp://127.0.0.1:*",
            f"hub.journal.path={folder / 'events.sqlite'}",
            *overrides,
        ],
    )
