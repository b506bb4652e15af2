"""A hub as a process of its own, fed over pipes, so that tests can kill it: python -m tests.hub_process CONFIG.

In: frames of a 4-byte length and a msgpack list of events. Out: "ready", then a line of offsets per frame.
"""

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Sequence

import msgpack

from bcaf_stream.events.codec import decode, encode
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig


class HubProcess:
    """Sends batches with acknowledgement; `kill` is SIGKILL."""

    def __init__(self, config: EventHubConfig, quiet: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_process", config.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
        )

    def wait_ready(self) -> bool:
        return self.process.stdout.readline() == b"ready\n"

    def publish(self, events: Sequence[Event]) -> bool:
        """Whether the batch was acknowledged; it is not when the hub is killed meanwhile."""
        return self.hand_over(events) and self.is_acknowledged()

    def hand_over(self, events: Sequence[Event]) -> bool:
        """Whether the batch is on its way."""
        data = msgpack.packb([encode(event) for event in events])
        try:
            self.process.stdin.write(struct.pack(">I", len(data)) + data)
            self.process.stdin.flush()
        except OSError:
            return False
        return True

    def is_acknowledged(self) -> bool:
        return self.process.stdout.readline().endswith(b"\n")

    def kill(self) -> None:
        os.kill(self.process.pid, 9)

    def end(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was never written
                pipe.close()
        self.process.wait(20)


def main() -> None:
    with EventHub(EventHubConfig.model_validate_json(sys.argv[1])) as hub:
        print("ready", flush=True)
        while len(head := sys.stdin.buffer.read(4)) == 4:
            data = sys.stdin.buffer.read(struct.unpack(">I", head)[0])
            offsets = hub.publish([decode(event) for event in msgpack.unpackb(data)]).result()
            print(*offsets, flush=True)


if __name__ == "__main__":
    main()
