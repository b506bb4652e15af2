"""Live two-channel calls at once, at real time, through a whole deployment: how long after the speech events come.

    python -m tests.benchmarks.live_calls --calls 1 --calls 4 --calls 8 --calls 16 --text given

The lag is from the end of the speech, as the event says it, to the arrival of the event at a subscriber, less the
time that the segmenter waits to be sure (stop window minus hang-over): what the machine can be blamed for.
`slope` is how much the lag grows in a minute (least squares). Memory is that of the IngestActor for each call.
"""

import os
import statistics
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from actors.config import ServeConfig
from actors.launch import Deployment
from actors.load import demo_material, play
from bcaf_stream.audio.segmenter import SegmenterConfig
from bcaf_stream.client.link import LinkSender
from bcaf_stream.config import load_config
from bcaf_stream.demo import CALL
from bcaf_stream.events.event import Event
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.recording import Recording
from bcaf_stream.types import Call, TextSource

WAITED_MS = SegmenterConfig().stop_window_ms - SegmenterConfig().hangover_ms


class Caller(threading.Thread):
    """Plays the demo call, from a place of its own, over and over."""

    def __init__(self, call: Call, endpoint: str, text: TextSource, seconds: float, offset_s: float) -> None:
        super().__init__(daemon=True)
        self.call, self.endpoint, self.text, self.seconds, self.offset_s = call, endpoint, text, seconds, offset_s

    def run(self) -> None:
        material = demo_material()[0].from_place(self.offset_s)
        with LinkSender(self.endpoint, self.call, material.rate, self.text) as sender:
            play(sender, material, self.seconds, self.text, lambda: 0.0)
            sender.close()


def measure(calls: int, text: TextSource, seconds: float, overrides: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        addresses = [f"{name}.bind=tcp://127.0.0.1:*" for name in ("ingest.link", "hub.bus", "hub.replay")]
        journal = f"hub.journal.path={Path(folder) / 'events.sqlite'}"
        config = load_config(ServeConfig, None, ["name=live-calls", journal, *addresses, *overrides])
        with Deployment(config) as deployment:
            endpoints = deployment.up()
            channels = Recording.open(str(CALL), {}, {}, "x").call.channels
            callers = [
                Caller(Call(f"call-{i}", channels), endpoints.audio, text, seconds, 7.3 * i % 60)
                for i in range(calls)
            ]
            with EventSubscriber(endpoints.events, None, high_water_mark=100_000) as listener:
                deployment.wait_for_listener(10)
                before, busy, begun = own_mb("IngestActor"), cpu_s(), time.monotonic()
                for caller in callers:
                    caller.start()
                    time.sleep(1 / calls)
                arrived, peak, stats = listen(listener, deployment, calls, seconds)
                used = {name: (cpu_s()[name] - busy[name]) / (time.monotonic() - begun) for name in busy}
            for caller in callers:
                caller.join(10)
        return summary(arrived, text) | {
            "memory per call, MB": (peak - before) / calls,
            "interim": sum(e.type == "emotion.interim" for _, e in arrived),
            "cores ingest/emotion/hub": "/".join(f"{cores:.2f}" for cores in used.values()),  # type: ignore[dict-item]
            "shed": str(stats["ingest"]["shed"]),  # type: ignore[dict-item]
        }


def listen(listener: EventSubscriber, deployment: Deployment, calls: int, seconds: float):
    arrived: list[tuple[float, Event]] = []
    ended, peak, stats, give_up = 0, 0.0, {}, time.monotonic() + seconds + 120
    looked = 0.0
    while ended < calls and time.monotonic() < give_up:
        event = listener.receive(1.0)
        if time.monotonic() - looked > 5:
            looked, peak = time.monotonic(), max(peak, own_mb("IngestActor"))
            stats = deployment.stats()
        if event is not None and event.call:
            arrived.append((time.time(), event))
            ended += event.type == "call.end"
    return arrived, peak, stats


def summary(arrived: list[tuple[float, Event]], text: TextSource) -> dict[str, float]:
    lags, times, unheard = [], [], 0
    for at, event in arrived:
        if event.type == "emotion.final":
            unheard += event.text is None
            if event.speech_ended_at:
                lags.append(max(0.0, at * 1000 - event.speech_ended_at / 1e6 - WAITED_MS))
                times.append(at / 60)
    cuts = statistics.quantiles(lags, n=100)
    slope = np.polyfit(times, lags, 1)[0]
    return {
        "utterances": len(lags), "without words": unheard,
        "p50 ms": cuts[49], "p95 ms": cuts[94], "p99 ms": cuts[98], "slope, ms/min": slope,
    }  # fmt: skip


def actors(name: str) -> list[Path]:
    """The processes of an actor; Ray names them after its class."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended while we looked
            if f"ray::{name}" in (process / "cmdline").read_text():
                found.append(process)
    return found


def own_mb(name: str) -> float:
    """Resident memory, without what is shared: Ray's object store is in every process that looks into it."""
    pages = [(p / "statm").read_text().split() for p in actors(name)]
    return sum((int(resident) - int(shared)) * 4096 / 2**20 for _, resident, shared, *_ in pages)


def cpu_s() -> dict[str, float]:
    """Seconds of CPU that each actor has used so far."""
    used = {}
    for name in ("IngestActor", "EmotionActor", "HubActor"):
        fields = [(p / "stat").read_text().rpartition(")")[2].split() for p in actors(name)]
        used[name] = sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")
    return used


def main(
    calls: Annotated[list[int] | None, typer.Option(help="how many at once; repeatable")] = None,
    text: Annotated[str, typer.Option(help="given, asr or none")] = "given",
    seconds: Annotated[float, typer.Option(help="of each call")] = 60.0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="of the deployment")] = None,
) -> None:
    """Measure, and print one table."""
    rows = {count: measure(count, text, seconds, set_ or []) for count in calls or [1, 4, 8, 16]}  # type: ignore[arg-type]
    table = Table(title=f"live two-channel calls, text {text}, {seconds:g} s each", title_justify="left")
    for column in ("calls", *next(iter(rows.values()))):
        table.add_column(column, justify="right")
    for count, row in rows.items():
        cells = [f"{value:.0f}" if isinstance(value, float) else str(value) for value in row.values()]
        table.add_row(str(count), *cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
