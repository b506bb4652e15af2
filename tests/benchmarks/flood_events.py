"""The hub under fire: how long publishing takes while somebody floods its sockets, and how much memory that costs.

Run by hand: python -m tests.benchmarks.flood_events [SECONDS EACH [WHICH...]]
The hub is a process of its own; a reader follows it all the time, and must have every event in the end. The floods
are raw ZMTP frames from connections that come back when they are dropped; `requests` are random msgpack maps.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgpack

from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from tests.deployed import free_address
from tests.hub_process import HubProcess
from tests.zmtp_flood import Flood, frame

REST_S = 0.005
RNG = random.Random(1)
VALUES: list[object] = [None, True, -1, 0, 1, 2**63, 1e-310, float("nan"), "", "start", "replay", [], {}, b"\xff"]
FIELDS = ("v", "ask", "id", "from", "topics", "credit", "speed", "n", "after", "to")


def request() -> bytes:
    """A good request of which some fields are anything."""
    values: dict[str, object] = {
        "v": 1,
        "ask": RNG.choice(("replay", "count", "credit", "cancel")),
        "id": RNG.randrange(50),
        "from": RNG.choice(("start", "new", "last", {"offset": 3}, {"time": 4})),
        "topics": ["emo.v1."],
        "credit": RNG.choice((0, 1, 10)),
        "n": 1,
        "after": 0,
        "to": 9,
    }
    for _ in range(RNG.randrange(3)):
        values[RNG.choice(FIELDS)] = RNG.choice(VALUES)
    return bytes(msgpack.packb(values)) if RNG.random() < 0.9 else RNG.randbytes(RNG.randrange(40))


FLOODS: dict[str, tuple[str, bytes, Callable[[int], bytes]] | None] = {
    "nothing": None,
    "toggles": ("bus", b"SUB", lambda _: (frame(b"\x01emo.v1.a.") + frame(b"\x00emo.v1.a.")) * 5000),
    "names": ("bus", b"SUB", lambda n: b"".join(frame(b"\x01%d." % k) for k in range(n * 1000, n * 1000 + 1000))),
    "long names": (
        "bus",
        b"SUB",
        lambda n: b"".join(frame(b"\x01%d." % k + b"x" * 900) for k in range(n, n + 50)),
    ),
    "no subscription": ("bus", b"SUB", lambda _: frame(b"\x07something else") * 5000),
    "requests": ("replay", b"DEALER", lambda _: b"".join(frame(request()) for _ in range(200))),
}


def run(kind: str, seconds: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        config = EventHubConfig(
            journal=JournalConfig(path=Path(folder) / "events.sqlite", durability="crash"),
            bus=BusConfig(bind=free_address()),
            replay=ReplayConfig(bind=free_address()),
            heartbeat_s=0.2,
        )
        process = HubProcess(config)
        assert process.wait_ready()
        pid, waits, chosen = process.process.pid, [], FLOODS[kind]
        before = resident_mb(pid)
        with EventSubscriber(config.bus.bind, config.replay.bind, start="start") as reader:
            flood = Flood(getattr(config, chosen[0]).bind, chosen[2], chosen[1]) if chosen else None
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                begun, n = time.monotonic(), len(waits)
                assert process.publish([Event(type="alert", id=f"a-{n}", call="a", seq=n, emitted_at=1)])
                waits.append(time.monotonic() - begun)
                reader.receive(0)
                time.sleep(REST_S)
            grown = resident_mb(pid) - before
            if flood:
                flood.end()
            while reader.offset < len(waits):
                assert reader.receive(30) is not None, f"{kind}: an event never came"
        process.kill()
        process.end()
    waits.sort()
    p50, p99, most = (1000 * waits[int(part * (len(waits) - 1))] for part in (0.5, 0.99, 1))
    sent = f"{flood.bytes / 1e6:.0f} MB by {flood.connections} connections" if flood else "nothing"
    return f"{kind:16} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  most {most:6.1f} ms  {grown:+5.0f} MB  sent: {sent}"


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    for flooded in sys.argv[2:] or FLOODS:
        print(run(flooded, float(sys.argv[1]) if len(sys.argv) > 1 else 6.0), flush=True)
