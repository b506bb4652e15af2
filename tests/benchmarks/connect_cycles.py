"""What a thousand calls leave behind: `python -m tests.benchmarks.connect_cycles [COUNT]`.

Calls of a tenth of a second come and go by the PCM server of a whole deployment: a third hang up, a third vanish,
a third send garbage. Prints the IngestActor's memory, open files and running calls on the way.
"""

import json
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

from actors.config import ServeConfig
from actors.launch import Deployment
from bcaf_stream.config import load_config
from tests.benchmarks.live_calls import actors, own_mb

RATE = 8000
SILENCE = bytes(2 * RATE // 10)


def call(address: tuple[str, int], number: int) -> None:
    hello = {"call": f"cycle-{number}", "channels": [["customer", "customer"]], "rate": RATE, "text": "none"}
    with socket.create_connection(address) as client:
        client.settimeout(10)
        if number % 3 == 2:
            client.sendall(b"\x16\x03\x01 garbage\n")
        else:
            client.sendall(json.dumps(hello).encode() + b"\n" + SILENCE)
        if number % 3 == 1:  # a reset, not a goodbye
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        addresses = [f"{name}.bind=tcp://127.0.0.1:*" for name in ("ingest.link", "hub.bus", "hub.replay")]
        journal = f"hub.journal.path={Path(folder) / 'events.sqlite'}"
        limits = ["ingest.pcm.port=0", "ingest.live.grace_s=0.5", "ingest.max_calls=1000"]
        with Deployment(
            load_config(ServeConfig, None, ["name=cycles", journal, *addresses, *limits])
        ) as deployment:
            host, port = deployment.up().servers["pcm"].removeprefix("tcp://").split(":")
            [process] = actors("IngestActor")
            for number in range(count + 1):
                if number % (count // 5) == 0:
                    time.sleep(2)
                    files = len(list((process / "fd").iterdir()))
                    stats = deployment.stats()["ingest"]
                    told = {name: stats[name] for name in ("calls", "finished", "failed", "refused")}
                    print(f"{number:6d}  {own_mb('IngestActor'):7.1f} MB  {files} files  {told}", flush=True)
                call((host, int(port)), number)


if __name__ == "__main__":
    main()
