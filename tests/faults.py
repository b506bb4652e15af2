"""What can befall a deployment while a call is on its way, and what became of the call."""

import itertools
import os
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from actors.status import read_status
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.events.event import Event
from bcaf_stream.events.subscriber import EventSubscriber
from tests.deployment_processes import BIN, members, processes
from tests.waiting import elapse, until

NAME = "faults"
SPEED = 8.0
PARTS = ("hub", "emotion", "ingest", "supervisor", "standby", "driver", "raylet", "gcs", "sender")
ALL_DIE_WITH = ("driver", "raylet", "gcs")  # the deployment is started anew
STOPS = (3, 10, 30)
BACK_S = 120.0
NOTICED_S = 5.0
FINAL = ("emotion.final", "emotion.revised")
ROUNDING = 2e-6  # as in tests.same


@dataclass
class Run:
    """One call on its way, and the deployment as it was when it began."""

    call: str
    status: dict[str, Any]
    disk: Path
    events: list[Event] = field(default_factory=list)
    silence_s: float = 0.0
    sender: "subprocess.Popen[str] | None" = None

    def pid(self, part: str) -> int:
        if part == "sender":
            assert self.sender
            return self.sender.pid
        return processes(self.status)[part]

    def send(self) -> None:
        """Begin to send, anew where it was begun."""
        if self.sender:
            self.sender.kill()
            self.sender.communicate()
        command = [BIN / "bcaf-stream", "send", CALL, "--to", self.status["audio"], "--call", self.call]
        command += ["--transcript", SCRIPT, "--speed", str(SPEED)]
        self.sender = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def follow(self) -> None:
        """Take events until the call ends."""
        give_up = time.monotonic() + 2 * BACK_S
        topics = [f"emo.v1.{self.call}."]
        with EventSubscriber(self.status["events"], self.status["replay"], topics, "start") as subscriber:
            last = time.monotonic()
            while time.monotonic() < give_up and not (self.events and self.events[-1].type == "call.end"):
                event = subscriber.receive(0.5)
                if event is None or event.type == "heartbeat":
                    continue
                self.silence_s = max(self.silence_s, time.monotonic() - last)
                last = time.monotonic()
                self.events.append(event)


class Fault(NamedTuple):
    """`begin` does it, and lasts as long as it; `kills` are the parts that are dead then.

    `cuts`: the sound itself stops coming, so an utterance is ended by the clock, as it is meant to be: no word is
    lost or doubled, but the utterances are others.
    """

    name: str
    begin: Callable[[Run], None]
    kills: tuple[str, ...] = ()
    cuts: bool = False
    own_disk: bool = False


def kill(*parts: str) -> Fault:
    def begin(run: Run) -> None:
        for pid in [run.pid(part) for part in parts]:
            os.kill(pid, signal.SIGKILL)
        if "sender" in parts:
            run.send()  # as its user would: the same command again

    return Fault(f"kill {' and '.join(parts)}", begin, tuple(part for part in parts if part != "sender"))


def stop(part: str, seconds: float) -> Fault:
    def begin(run: Run) -> None:
        pid = run.pid(part)
        os.kill(pid, signal.SIGSTOP)
        elapse(seconds, "the fault itself")
        with suppress(ProcessLookupError):  # what stood still for long was given up, and is replaced
            os.kill(pid, signal.SIGCONT)

    return Fault(f"stop {part} {seconds} s", begin, cuts=part == "sender")


def no_memory(part: str, seconds: float) -> Fault:
    """No further byte for a process; when it dies of that, it is one that was killed."""

    def begin(run: Run) -> None:
        pid = run.pid(part)
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
        before = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize(), before[1]))
        elapse(seconds, "the fault itself")
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, before)

    return Fault(f"no memory for {part} {seconds} s", begin)


def full_disk(seconds: float, *parts: str) -> Fault:
    """No byte is left under the journal for a while; and these processes die meanwhile."""

    def begin(run: Run) -> None:
        filler = run.disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(65_536)):
                pass
        for pid in [run.pid(part) for part in parts]:
            os.kill(pid, signal.SIGKILL)
        elapse(seconds, "the fault itself")
        filler.unlink()

    dead = "".join(f" and kill {part}" for part in parts)
    return Fault(f"disk full {seconds} s{dead}", begin, parts, own_disk=True)


def all_faults() -> Iterator[Fault]:
    yield from map(kill, PARTS)
    yield from itertools.starmap(stop, itertools.product(PARTS, STOPS))
    yield from (no_memory(part, 5) for part in ("hub", "emotion", "ingest"))
    yield from (full_disk(5), full_disk(5, "hub"))
    yield from itertools.starmap(kill, itertools.combinations(PARTS, 2))


class Final(NamedTuple):
    text: str | None
    emotion: str | None
    probs: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """What differs from the undisturbed call: utterances that are not there, came twice, or say something else."""

    lost: int
    doubled: int
    changed: list[str]
    silence_s: float
    down_s: float  # the deployment was not wholly up
    end: str  # the call's, or the sender's last word

    def row(self, name: str) -> str:
        cells = (name, self.lost, self.doubled, len(self.changed), f"{self.silence_s:.1f}", f"{self.down_s:.1f}")
        return "| " + " | ".join(str(cell) for cell in (*cells, self.end)) + " |"


HEAD = "| fault | lost | doubled | changed | longest silence s | not up s | end |\n|---|---|---|---|---|---|---|"


def suffer(fault: Fault, call: str, disk: Path, expected: Sequence[Event]) -> Outcome:
    """Send the call, let the fault happen in the middle of it, and compare.

    Raises:
        AssertionError: the deployment does not notice, or is not wholly up again, or at other addresses.
    """
    run = Run(call, wait_until_up(), disk)
    before = processes(run.status)
    following = threading.Thread(target=run.follow)
    following.start()
    run.send()
    try:
        until(lambda: sum(event.type in FINAL for event in run.events) >= 3, BACK_S, what="the third utterance")
        began = time.monotonic()
        fault.begin(run)
        if set(fault.kills) & set(ALL_DIE_WITH):
            until(lambda: (read_status(NAME) or {}).get("state") != "up", NOTICED_S, what="another state")
        wait_until_back(run.status, fault.kills, before)
        down_s = time.monotonic() - began
        assert run.sender
        if run.sender.poll():  # begun anew while there was no deployment; so its user tries again
            run.send()
        following.join()
        said = run.sender.communicate(timeout=30)[1].strip().splitlines()
    finally:
        if run.sender and run.sender.poll() is None:
            run.sender.kill()
        following.join()
    end = run.events[-1].reason if run.events and run.events[-1].type == "call.end" else None
    last_word = f"send: {said[-1] if said else run.sender.returncode}"
    return Outcome(
        *compare(run.events, expected, fault.cuts),
        run.silence_s,
        down_s,
        (not run.sender.returncode and end) or last_word,
    )


def wait_until_up() -> dict[str, Any]:
    """The status of a deployment that is wholly there."""
    status: dict[str, Any] = {}

    def is_up() -> bool:
        nonlocal status
        status = read_status(NAME) or {}
        return status.get("state") == "up" and status["standby"] is not None

    until(is_up, BACK_S, what="a deployment that is up")
    return status


def wait_until_back(then: dict[str, Any], killed: Sequence[str], before: dict[str, int]) -> None:
    """Until the deployment is wholly up again, with another process for each that was killed."""
    now: dict[str, Any] = {}

    def is_back() -> bool:
        nonlocal now
        now = wait_until_up()
        there = processes(now)
        return all(there.get(part, before[part]) != before[part] for part in killed)

    until(is_back, BACK_S, what="another process for each that was killed")
    assert (now["audio"], now["events"]) == (then["audio"], then["events"])
    if set(killed) & set(ALL_DIE_WITH):
        assert members(then) == [], "nothing of the dead one is left"


def compare(found: Sequence[Event], expected: Sequence[Event], by_words: bool) -> tuple[int, int, list[str]]:
    """What is lost, doubled and changed; `by_words`: of all that was said, whichever utterances it stands in."""
    ids = Counter(event.id for event in found)
    finals = Counter((event.channel, event.start_ms) for event in found if event.type == "emotion.final")
    doubled = sum(n - 1 for n in ids.values()) + sum(n - 1 for n in finals.values())
    holes = max((event.seq + 1 for event in found), default=0) - len({event.seq for event in found})
    if by_words:
        here, there = _words(found), _words(expected)
        return holes + (there - here).total(), doubled + (here - there).total(), _gaps(found)
    now, then = _settled(found), _settled(expected)
    changed = [f"{c} at {ms} ms: {', '.join(what)}" for (c, ms), what in _differences(now, then).items() if what]
    changed += [f"{channel} at {ms} ms is new" for channel, ms in now if (channel, ms) not in then]
    changed += _gaps(found)
    changed += [f"degraded: {event.reason}" for event in found if event.type == "degraded"] if changed else []
    return holes + sum(key not in now for key in then), doubled, changed


def _gaps(events: Sequence[Event]) -> list[str]:
    return [f"a gap of {event.channel} at {event.start_ms} ms" for event in events if event.type == "audio.gap"]


Place = tuple[str | None, int | None]


def _settled(events: Sequence[Event]) -> dict[Place, Final]:
    spoken = sorted((e for e in events if e.type in FINAL), key=lambda e: (e.utterance or 0, e.revision or 0))
    return {(e.channel, e.start_ms): Final(e.text, e.emotion, e.probs or {}) for e in spoken}


def _words(events: Sequence[Event]) -> Counter[tuple[str | None, str]]:
    settled = _settled(events).items()
    return Counter((channel, word) for (channel, _), final in settled for word in (final.text or "").split())


def _differences(now: dict[Place, Final], then: dict[Place, Final]) -> dict[Place, list[str]]:
    """Probabilities differ by more than what the size of a batch rounds otherwise."""

    def differences(one: Final, two: Final) -> list[str]:
        near = all(abs(value - two.probs.get(label, -1)) < ROUNDING for label, value in one.probs.items())
        same = {"words": one.text == two.text, "emotion": one.emotion == two.emotion, "probabilities": near}
        return [what for what, is_same in same.items() if not is_same]

    return {place: differences(then[place], now[place]) for place in then if place in now}
