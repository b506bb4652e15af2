"""A load test that anybody can repeat: calls at real time against a running deployment, and what became of them.

Each caller plays two-channel sound over the audio link, in steps of 100 ms that come up to `jitter_ms` late, from
a place of its own, over and over. A subscriber with replay follows all of them.
"""

import os
import random
import signal
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from actors.load_report import LoadPlan, LoadReport, slope
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.client.link import LinkSender
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.errors import BcafError, DeploymentError, UsageError
from bcaf_stream.events.event import Event
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.loops import spawn_thread
from bcaf_stream.recording import Recording, TextMode
from bcaf_stream.types import Call, Channel, PcmN, Words

STEP_S = 0.1
LOOK_S = 5.0  # between two looks at the memory
TAIL_S = 60.0  # for the last events, after the last call was closed
KILLED = ("ingest", "emotion", "hub")  # in turn; of several replicas the first
Stages = dict[tuple[str, str], tuple[float, float]]  # by actor and stage: seconds and requests so far
ROLES = (Channel("customer", "customer"), Channel("agent", "agent"))


@dataclass(frozen=True, slots=True)
class Material:
    """Sound of two channels, `samples_NC` at `rate`, and its words where they are known."""

    samples_NC: PcmN
    rate: int
    words: tuple[Words, ...] = ()

    def from_place(self, seconds: float) -> "Material":
        """The same, beginning elsewhere: what was before that place comes after the end.

        It is the next place where nobody is in the middle of a sentence: its rest would be an utterance whose
        words come with the end.
        """
        step, length_ms = round(STEP_S * self.rate), len(self.samples_NC) * 1000 // self.rate
        steps = int(seconds / STEP_S) % (len(self.samples_NC) // step)
        while over := [w.end_ms for w in self.words if w.start_ms < steps * step * 1000 // self.rate < w.end_ms]:
            steps = -(-max(over) * self.rate // (1000 * step))
        skip = steps * step % len(self.samples_NC)
        skip_ms = skip * 1000 // self.rate
        starts = [(word.start_ms - skip_ms) % length_ms for word in self.words]
        moved = [
            Words(start_ms, start_ms + word.end_ms - word.start_ms, word.text, word.channel)
            for start_ms, word in zip(starts, self.words, strict=True)
        ]
        moved.sort(key=lambda word: word.start_ms)
        return Material(np.roll(self.samples_NC, -skip, axis=0), self.rate, tuple(moved))


def demo_material() -> list[Material]:
    """The call that ships with the project, with its words."""
    words = Recording.open(str(CALL), {}, {}, "load").transcript(SCRIPT)
    return [_read(CALL, tuple(words))]


def folder_material(folder: Path) -> list[Material]:
    """All files of a folder that are sound, the first two channels of each; one channel is played on both.

    Raises:
        UsageError: there are none.
    """
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with suppress(BcafError):
            found.append(_read(path))
    if not found:
        raise UsageError(f"--audio {folder}: no sound that can be read")
    return found


def _read(path: Path, words: tuple[Words, ...] = ()) -> Material:
    channels: dict[str, list[PcmN]] = defaultdict(list)
    with FileSource(path) as source:
        for chunk in source:
            channels[chunk.channel].append(chunk.samples)
            rate = chunk.rate
    sides = [np.concatenate(parts) for parts in channels.values()]
    sides = (sides * 2)[:2]
    step = round(STEP_S * rate)
    length = min(map(len, sides)) // step * step
    return Material(np.stack([side[:length] for side in sides], axis=1), rate, words)


class Caller:
    """Plays one call on a thread of its own, for so many seconds."""

    def __init__(
        self, number: int, run: str, endpoints: Sequence[str], material: Material, plan: LoadPlan
    ) -> None:
        self.call = Call(f"{run}{number}", ROLES)
        self.error: str | None = None
        first = number % len(endpoints)
        self._endpoints, self._plan = [*endpoints[first:], *endpoints[:first]], plan
        self._dice = random.Random(f"{plan.seed}-{number}")
        begin_s = self._dice.uniform(0, len(material.samples_NC) / material.rate)
        self._material = material.from_place(begin_s)
        self._thread = spawn_thread("load caller", self._run)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._play()
        except Exception as error:  # said in the report
            self.error = str(error) if isinstance(error, BcafError) else type(error).__name__

    def _play(self) -> None:
        rate, text = self._material.rate, self._plan.text
        with LinkSender(self._endpoints, self.call, rate, text, live=True) as sender:
            play(sender, self._material, self._plan.minutes * 60, text, self._late_s)
            sender.close()

    def _late_s(self) -> float:
        return self._dice.uniform(0, self._plan.jitter_ms / 1000)


def play(
    sender: LinkSender, material: Material, seconds: float, text: TextMode, late_s: Callable[[], float]
) -> None:
    """Send the material over and over at real time; `late_s` is asked by how much each step comes late."""
    sound_NC, step = material.samples_NC, round(STEP_S * material.rate)
    begun = time.monotonic()
    for number in range(round(seconds / STEP_S)):
        at = number * step % len(sound_NC)
        if text == "given" and at == 0:
            base = number * step * 1000 // material.rate
            words = [Words(w.start_ms + base, w.end_ms + base, w.text, w.channel) for w in material.words]
            sender.send_words(words)
        time.sleep(max(0.0, begun + (number + 1) * STEP_S + late_s() - time.monotonic()))
        sender.send(sound_NC[at : at + step])


class LoadTest:
    """Runs a plan against a deployment.

    Args:
        status: what `bcaf-serve status --json` says of it, or of another machine's: `audio`, `events`, `replay`.
        look: asked again for the status while it runs, for the processes of the actors; None: they are elsewhere.
        note: told in a line what is being done.
    """

    def __init__(
        self,
        plan: LoadPlan,
        material: Sequence[Material],
        status: dict[str, Any],
        look: Callable[[], dict[str, Any] | None] | None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        if plan.kill_every_s and look is None:
            raise UsageError("--kill needs a deployment on this machine")
        self._plan, self._material, self._status, self._note = plan, material, status, note
        self._look = look or (lambda: None)
        self._run = f"load-{time.time_ns():x}-"
        self._arrived: list[tuple[float, Event]] = []
        self._kills: list[tuple[float, str]] = []
        self._memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._over = threading.Event()

    def run(self) -> LoadReport:
        """Play all calls to their end, and wait for their last events."""
        before = self._stages()
        begun, began_at = time.monotonic(), time.time()
        helpers = [spawn_thread("load memory", self._watch_memory)]
        if self._plan.kill_every_s:
            helpers.append(spawn_thread("load kills", self._kill))
        with EventSubscriber(
            self._status["events"], self._status["replay"], [f"emo.v1.{self._run}"], "start"
        ) as subscriber:
            callers = []
            several = self._status.get("endpoints", ())
            audio = [each["address"] for each in several if each["protocol"] == "link"] or [self._status["audio"]]
            for number in range(self._plan.calls):  # over a second: as calls come
                material = self._material[number % len(self._material)]
                callers.append(Caller(number, self._run, audio, material, self._plan))
                time.sleep(1 / self._plan.calls)
            self._note(f"{len(callers)} calls of {self._plan.minutes:g} min are running")
            self._follow(subscriber, begun + self._plan.minutes * 60 + TAIL_S, callers)
        self._over.set()
        for thread in helpers:
            thread.join()
        for caller in callers:
            caller.join()
        report = LoadReport(asdict(self._plan))
        report.failed = [f"{caller.call.id}: {caller.error}" for caller in callers if caller.error]
        report.describe_events(self._arrived, [caller.call.id for caller in callers])
        report.describe_kills(self._arrived, self._kills, began_at)
        report.stage_mean_ms = _means_ms(before, self._stages())
        for actor, seen in self._memory.items():
            if len(seen) > 2:
                report.memory_mb_per_min[actor] = slope(*zip(*seen, strict=True))
        return report

    def _follow(self, subscriber: EventSubscriber, until: float, callers: Sequence[Caller]) -> None:
        ended: set[str] = set()
        while len(ended) < len(callers) and time.monotonic() < until:
            for event in subscriber.receive_many(1000, 0.5):
                if event.call.startswith(self._run):
                    self._arrived.append((time.time(), event))
                    if event.type == "call.end":
                        ended.add(event.call)
            if all(caller.error for caller in callers):
                return

    def _kill(self) -> None:
        assert self._plan.kill_every_s
        end = time.monotonic() + self._plan.minutes * 60
        for number in range(10**6):
            if self._over.wait(self._plan.kill_every_s) or time.monotonic() > end:
                return
            pids, kind = self._pids(), KILLED[number % len(KILLED)]
            name = next((name for name in sorted(pids) if name.startswith(kind)), kind)
            pid = pids.get(name)
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self._kills.append((time.time(), name))
                    self._note(f"killed {name}")

    def _watch_memory(self) -> None:
        begun = time.monotonic()
        while not self._over.wait(LOOK_S):
            for name, pid in self._pids().items():
                with suppress(OSError):
                    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
                    size_mb = (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 2**20
                    self._memory[name].append(((time.monotonic() - begun) / 60, size_mb))

    def _pids(self) -> dict[str, int]:
        actors = (self._look() or {}).get("actors", {})
        return {name: its["pid"] for name, its in actors.items() if its.get("pid")}

    def _stages(self) -> Stages:
        """{} where the deployment serves no metrics."""
        if "metrics" not in self._status:
            return {}
        found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        with urllib.request.urlopen(self._status["metrics"], timeout=10) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples if family.name == "bcaf_stage_seconds" else ():
                    if sample.name.endswith(("_sum", "_count")):
                        place = sample.labels["actor"], sample.labels["stage"]
                        found[place][sample.name.endswith("_count")] += sample.value
        return {place: (seconds, count) for place, (seconds, count) in found.items()}


def _means_ms(before: Stages, after: Stages) -> dict[str, float]:
    """The mean of each stage between the two; an actor that began anew counts from 0."""
    total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for (actor, stage), (seconds, count) in after.items():
        past = before.get((actor, stage), (0.0, 0.0))
        began_anew = count < past[1]
        total[stage][0] += seconds - (0.0 if began_anew else past[0])
        total[stage][1] += count - (0.0 if began_anew else past[1])
    return {stage: 1000 * seconds / count for stage, (seconds, count) in total.items() if count}


def find_deployment(status: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Raises DeploymentError when nothing can be asked of it."""
    if status is None or "audio" not in status:
        raise DeploymentError(f"no deployment named {name} is up here: bcaf-serve up, or give --to and --events")
    return status
