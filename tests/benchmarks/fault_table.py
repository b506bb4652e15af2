"""What faults do to a call: `python -m tests.benchmarks.fault_table [--only SUBSTRING] [--pairs] [--speed 2]`.

For each fault the demo call is sent to a deployment that `bcaf-serve up` started, the fault happens in the middle
of it, and the finals are compared with those of the undisturbed run: how many are lost, doubled or changed (words,
emotion or probabilities), the longest time without any event, and how long the deployment was not wholly up.
Faults: kill -9 (which is also how the kernel ends a process for want of memory), SIGSTOP for 3, 10 and 30 s, and a
full disk under the journal (needs the right to mount); of each process alone and, with --pairs, of two at once.
Exit code 1 when a final was lost, doubled or changed, or a deployment did not come back.
"""

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from actors.status import read_status
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.errors import BcafError
from bcaf_stream.events.event import Event
from bcaf_stream.events.subscriber import EventSubscriber
from tests.deployment_processes import BIN, processes

NAME = "faults"
PARTS = ("hub", "emotion", "ingest", "supervisor", "standby", "driver", "raylet", "gcs", "sender")
STOPS = (3, 10, 30)
BACK_S = 120.0
DISK_BYTES = 40_000_000  # SQLite keeps 16 MB beside its file
FINAL = ("emotion.final", "emotion.revised")
ROUNDING = 2e-6  # as in tests.same

Fault = Callable[["Run"], tuple[str, ...]]  # the parts that it has killed


class Final(NamedTuple):
    text: str | None
    emotion: str | None
    probs: Mapping[str, float]


@dataclass
class Run:
    """One call on its way."""

    call: str
    speed: float
    status: dict[str, Any]
    folder: Path
    events: list[Event] = field(default_factory=list)
    silence_s: float = 0.0
    sender: "subprocess.Popen[str] | None" = None

    def pid(self, part: str) -> int:
        if part == "sender":
            assert self.sender
            return self.sender.pid
        return processes(self.status)[part]

    def send(self) -> None:
        command = [BIN / "bcaf-stream", "send", CALL, "--to", self.status["audio"], "--call", self.call]
        command += ["--transcript", SCRIPT, "--speed", str(self.speed)]
        self.sender = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def follow(self, until: float) -> None:
        """Take events until the call ends."""
        topics = [f"emo.v1.{self.call}."]
        with EventSubscriber(self.status["events"], self.status["replay"], topics, "start") as subscriber:
            last = time.monotonic()
            while time.monotonic() < until and not (self.events and self.events[-1].type == "call.end"):
                event = subscriber.receive(0.5)
                if event is None or event.type == "heartbeat":
                    continue
                self.silence_s = max(self.silence_s, time.monotonic() - last)
                last = time.monotonic()
                self.events.append(event)


def kill(*parts: str) -> Fault:
    def fault(run: Run) -> tuple[str, ...]:
        for pid in [run.pid(part) for part in parts]:
            os.kill(pid, signal.SIGKILL)
        if "sender" in parts:
            run.send()  # as its user would: the same command again
        return tuple(part for part in parts if part != "sender")

    return fault


def stop(part: str, seconds: float) -> Fault:
    def fault(run: Run) -> tuple[str, ...]:
        pid = run.pid(part)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        with suppress(ProcessLookupError):  # what stood still for long was given up, and is replaced
            os.kill(pid, signal.SIGCONT)
        return ()

    return fault


def full_disk(seconds: float, *parts: str) -> Fault:
    """No byte is left under the journal for a while; and these processes die meanwhile."""

    def fault(run: Run) -> tuple[str, ...]:
        filler = run.folder / "disk" / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(65_536)):
                    pass
            except OSError:
                pass
        for pid in [run.pid(part) for part in parts]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(seconds)
        filler.unlink()
        return parts

    return fault


def faults(pairs: bool, disk: bool) -> Iterator[tuple[str, Fault]]:
    for part in PARTS:
        yield f"kill {part}", kill(part)
    for part, seconds in itertools.product(PARTS, STOPS):
        yield f"stop {part} {seconds} s", stop(part, seconds)
    if disk:
        yield "disk full 5 s", full_disk(5)
        yield "disk full 5 s, kill hub", full_disk(5, "hub")
    if pairs:
        for one, other in itertools.combinations(PARTS, 2):
            yield f"kill {one} and {other}", kill(one, other)


def play(call: str, speed: float, folder: Path, fault: Fault | None) -> tuple[Run, float]:
    """Send the call once; and for how long the deployment was not wholly up."""
    run = Run(call, speed, wait_until_up(), folder)
    following = threading.Thread(target=run.follow, args=(time.monotonic() + 60 / speed + BACK_S,))
    following.start()
    run.send()
    down_s = 0.0
    if fault:
        while sum(event.type in FINAL for event in run.events) < 3 and following.is_alive():
            time.sleep(0.05)
        began, before = time.monotonic(), processes(run.status)
        killed = fault(run)
        down_s = wait_until_back(killed, before) - began
    following.join()
    assert run.sender
    if following.is_alive():
        run.sender.kill()
    said = run.sender.communicate(timeout=30)[1]
    if run.sender.returncode:
        print(f"{call}: the sender ended with {run.sender.returncode}: {said.strip()}")
    return run, down_s


def wait_until_up() -> dict[str, Any]:
    deadline = time.monotonic() + BACK_S
    while time.monotonic() < deadline:
        status = read_status(NAME)
        if status and status["state"] == "up":
            return status
        time.sleep(0.1)
    raise TimeoutError(f"the deployment did not come back: {read_status(NAME)}")


def wait_until_back(killed: Sequence[str], before: dict[str, int]) -> float:
    """When the deployment was wholly up again, with another process for each that was killed."""
    while True:
        status = wait_until_up()
        now = processes(status)
        if all(now.get(part, before[part]) != before[part] for part in killed):
            return time.monotonic()
        time.sleep(0.1)


def finals(run: Run) -> dict[tuple[Any, ...], Final]:
    """What was settled of each utterance, by where it begins."""
    spoken = sorted((e for e in run.events if e.type in FINAL), key=lambda e: (e.utterance or 0, e.revision or 0))
    return {(e.channel, e.start_ms): Final(e.text, e.emotion, e.probs or {}) for e in spoken}


def other(one: Final, two: Final) -> list[str]:
    """What differs; probabilities by more than what the size of a batch rounds otherwise."""
    near = all(abs(value - two.probs[label]) < ROUNDING for label, value in one.probs.items())
    same = {"words": one.text == two.text, "emotion": one.emotion == two.emotion, "probabilities": near}
    return [name for name, is_same in same.items() if not is_same]


def compare(run: Run, expected: dict[tuple[Any, ...], Final]) -> tuple[int, int, int]:
    found = finals(run)
    ids = Counter(event.id for event in run.events)
    again = Counter((e.channel, e.start_ms) for e in run.events if e.type == "emotion.final")
    doubled = sum(n - 1 for n in ids.values()) + sum(n - 1 for n in again.values())
    lost = sum(key not in found for key in expected)
    changed = {key: what for key, value in expected.items() if key in found and (what := other(value, found[key]))}
    for (channel, start_ms), what in changed.items():
        print(f"{run.call}: {channel} at {start_ms} ms has other {', '.join(what)}")
    for reason in [event.reason for event in run.events if event.type == "degraded"] if changed else ():
        print(f"{run.call}: degraded: {reason}")
    return lost, doubled, len(changed) + sum(key not in expected for key in found)


@contextmanager
def deployed(folder: Path, checkpoint: str) -> Iterator[bool]:
    """A deployment whose journal lies on a small disk of its own, where one can be had; and whether it is."""
    disk = folder / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    mounted = shutil.which("mount") is not None and not subprocess.call(mounting, stderr=subprocess.DEVNULL)
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    binds = [f"{part}.bind=tcp://127.0.0.1:*" for part in ("ingest.link", "hub.bus", "hub.replay")]
    settings = [f"name={NAME}", f"hub.journal.path={disk / 'events.sqlite'}", "ingest.live.interim_ms=0"]
    settings += [f"analyzer.model.checkpoint={checkpoint}"]
    overrides = [part for value in [*binds, *settings] for part in ("--set", value)]
    try:
        subprocess.run([BIN / "bcaf-serve", "up", *overrides], check=True, cwd=folder)
        yield mounted
    finally:
        subprocess.run([BIN / "bcaf-serve", "down", "--name", NAME], check=False)
        if mounted:
            subprocess.run(["umount", "--lazy", str(disk)], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name has this in it; several: a,b")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--speed", type=float, default=2.0)
    parser.add_argument("--checkpoint", default="compact")
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with deployed(folder, options.checkpoint) as disk:
            undisturbed, _ = play("undisturbed", options.speed, folder, None)
            expected = finals(undisturbed)
            print(
                f"{len(expected)} utterances, longest silence {undisturbed.silence_s:.1f} s; disk faults: {disk}"
            )
            print("| fault | lost | doubled | changed | longest silence s | not up s | end |")
            print("|---|---|---|---|---|---|---|", flush=True)
            for number, (what, fault) in enumerate(faults(options.pairs, disk)):
                if not any(part in what for part in options.only.split(",")):
                    continue
                try:
                    run, down_s = play(f"call-{number}", options.speed, folder, fault)
                except (BcafError, TimeoutError) as error:
                    bad += 1
                    print(f"| {what} | - | - | - | - | - | {error} |", flush=True)
                    continue
                lost, doubled, changed = compare(run, expected)
                bad += bool(lost or doubled or changed)
                end = run.events[-1].reason if run.events and run.events[-1].type == "call.end" else "no end"
                row = (what, lost, doubled, changed, f"{run.silence_s:.1f}", f"{down_s:.1f}", end)
                print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
