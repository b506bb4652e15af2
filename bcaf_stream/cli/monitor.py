"""The command of bcaf-stream that serves the supervisor's page."""

import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from bcaf_stream.config import load_config
from bcaf_stream.loops import exit_on_death


def monitor(
    connect: Annotated[
        str | None, typer.Option(help="where the deployment publishes events; default: tcp://127.0.0.1:5561")
    ] = None,
    replay: Annotated[
        str | None, typer.Option(help="where it replays them; default: tcp://127.0.0.1:5562")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="the key file, when the deployment asks for one")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="a prefix of topics that the key is for, for instance emo.v1.CALL.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="the page's address; default: 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="default: 8780; 0: any that is free")] = None,
    audit: Annotated[
        Path | None, typer.Option(help="who looked at what goes there; default: bcaf-monitor-audit.jsonl")
    ] = None,
    sound: Annotated[
        Path | None, typer.Option(help="the folder of evidence sound, FILE.sound beside the deployment's journal")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="a YAML file")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, over the file")] = None,
) -> None:
    """Serve a page of the live calls, of each call, of alerts, replay and search, until Ctrl-C."""
    from bcaf_stream.monitor.config import MonitorConfig
    from bcaf_stream.monitor.server import Monitor

    given: dict[str, object] = {"hub.events": connect, "hub.replay": replay, "hub.key": key, "hub.topics": topic}
    given |= {"host": host, "port": port, "audit": audit, "sound": sound}
    overrides = [f"{n}={json.dumps(v, default=str)}" for n, v in given.items() if v is not None]
    exit_on_death()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises again what it has caught
    with suppress(KeyboardInterrupt):  # the way to leave
        Monitor(load_config(MonitorConfig, config, [*overrides, *(set_ or ())])).run(_announce)


def _announce(address: str) -> None:
    print(f"monitor: {address}", flush=True)
