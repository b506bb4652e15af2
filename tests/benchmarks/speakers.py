"""Who spoke, on channels that several people share: our segments and decisions against reference turns.

    python -m tests.benchmarks.speakers [--final] [--set speakers.max=4 ...] [FOLDER]

FOLDER holds recordings beside RTTM files with their speech turns. `events` is what a subscriber gets: one speaker
for each segment, known when it closes. `1 s` are the decisions for each frame of 20 ms as they were first made, at
most a second after it; `--final` lets a first pass find the voices. Diarization error as pyannote.metrics computes
it, with a collar of 0.25 s (half on each side of a boundary) and overlapping speech scored. `mixed` is the share
of the segments' time in segments with half a second or more of a second person. The cost is processor time on one
core, over that without speakers.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from rich.console import Console
from rich.table import Table

from bcaf_stream.audio.first_pass import voices_of
from bcaf_stream.audio.frames import FRAME_MS
from bcaf_stream.audio.speakers.segmenter import SpeakerSegmenter
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.config import load_config
from bcaf_stream.types import SAMPLE_RATE, AudioChunk, Call, Channel, PcmN, SpeechSegment
from tests.benchmarks.vad_coverage import DATA, decode

COLLAR_S = 0.25
SECOND_S = 0.5  # of a second person make a segment a mixed one
WAYS = ("events", "1 s", "one label")
CHUNK = SAMPLE_RATE // 10
GRID_S = 0.01

Turns = list[tuple[float, float, str]]  # begin and end in s, who


@dataclass
class Heard:
    """What was made of one recording: its segments, the first decisions, and the processor time in s."""

    segments: list[SpeechSegment]
    first: Turns
    cost_s: float


def reference(folder: Path) -> dict[str, Turns]:
    """The turns of each recording that an RTTM file of the folder names."""
    found: dict[str, Turns] = defaultdict(list)
    for path in sorted(folder.glob("*.rttm")):
        for line in path.read_text().splitlines():
            if line.startswith("SPEAKER "):
                _, name, _, begin, length, _, _, who, *_ = line.split()
                found[name].append((float(begin), float(begin) + float(length), who))
    return dict(found)


def hear(sound: PcmN, config: AudioConfig, final: bool = False) -> Heard:
    """Let a mono call of this sound pass, at SAMPLE_RATE in chunks of 100 ms."""
    call = Call("benchmark", (Channel("room", "speaker"),))
    voices = voices_of(call, config, [AudioChunk("room", 0, SAMPLE_RATE, sound)]) if final else {}
    cutter = CallCutter(call, config, voices=voices)
    segmenter = cutter._cutters["room"].segmenter
    diarizer = segmenter.diarizer if isinstance(segmenter, SpeakerSegmenter) else None
    segments: list[SpeechSegment] = []
    first: Turns = []
    known = 0
    begin = time.process_time()

    def take(step: Callable[[], list[SpeechSegment]]) -> None:
        nonlocal known
        segments.extend(step())
        if diarizer is not None and diarizer.decided > known:
            first.extend(turns_of(diarizer.active(known, diarizer.decided), known))
            known = diarizer.decided

    for start in range(0, len(sound), CHUNK):
        take(lambda: cutter.push(AudioChunk("room", start, SAMPLE_RATE, sound[start : start + CHUNK])))  # noqa: B023
    take(cutter.flush)
    return Heard(segments, first, time.process_time() - begin)


def turns_of(active_FP: NDArray[np.bool_], offset: int) -> Turns:
    """The runs of active frames of each person; the first frame is number `offset`."""
    found: Turns = []
    for person, active_F in enumerate(active_FP.T):
        for is_active, run in groupby(range(len(active_F)), key=lambda frame: bool(active_F[frame])):
            frames = list(run)
            if is_active:
                span_ms = (offset + frames[0]) * FRAME_MS, (offset + frames[-1] + 1) * FRAME_MS
                found.append((span_ms[0] / 1000, span_ms[1] / 1000, f"P{person}"))
    return found


def annotation(turns: Turns) -> Annotation:
    made = Annotation()
    for track, (begin, end, who) in enumerate(turns):
        made[Segment(begin, end), track] = who
    return made.support()


def speaking(turns: Turns, length_s: float) -> dict[str, NDArray[np.bool_]]:
    """Who speaks when, on a grid of GRID_S."""
    found: dict[str, NDArray[np.bool_]] = {}
    for begin, end, who in turns:
        mask = found.setdefault(who, np.zeros(round(length_s / GRID_S), bool))
        mask[round(begin / GRID_S) : round(end / GRID_S)] = True
    return found


def mixed_s(segments: list[SpeechSegment], truth: dict[str, NDArray[np.bool_]]) -> tuple[float, float]:
    """Seconds of the segments that hold two people, and of all."""
    two = 0.0
    for segment in segments:
        span = slice(round(segment.start_ms / 1000 / GRID_S), round(segment.end_ms / 1000 / GRID_S))
        heard_s = sorted((float(mask[span].sum()) * GRID_S for mask in truth.values()), reverse=True)
        if len(heard_s) > 1 and heard_s[1] >= SECOND_S:
            two += (segment.end_ms - segment.start_ms) / 1000
    return two, sum(segment.end_ms - segment.start_ms for segment in segments) / 1000


@dataclass
class Tally:
    """Seconds, of one recording or of all."""

    length_s: float = 0.0
    cost_s: float = 0.0
    mixed_s: float = 0.0
    kept_s: float = 0.0
    plain_mixed_s: float = 0.0
    plain_s: float = 0.0
    covered_s: float = 0.0
    spoken_s: float = 0.0

    def add(self, other: "Tally") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def columns(self) -> tuple[str, ...]:
        return (
            f"{100 * self.mixed_s / max(self.kept_s, GRID_S):.0f} %",
            f"{100 * self.plain_mixed_s / max(self.plain_s, GRID_S):.0f} %",
            f"{100 * self.covered_s / max(self.spoken_s, GRID_S):.1f} %",
            f"{100 * (1 - self.covered_s / max(self.kept_s, GRID_S)):.1f} %",
            f"{self.cost_s / self.length_s:.3f}",
        )


def tally(truth: Turns, heard: Heard, plain: Heard, length_s: float) -> Tally:
    people = speaking(truth, length_s)
    spans = [(s.start_ms / 1000, s.end_ms / 1000, "kept") for s in heard.segments]
    anybody = np.any(list(people.values()), axis=0)
    kept = speaking(spans, length_s).get("kept", np.zeros_like(anybody))
    return Tally(
        length_s,
        heard.cost_s - plain.cost_s,
        *mixed_s(heard.segments, people),
        *mixed_s(plain.segments, people),
        float((anybody & kept).sum()) * GRID_S,
        float(anybody.sum()) * GRID_S,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA)
    parser.add_argument("--final", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    config = load_config(AudioConfig, None, options.overrides)
    off = load_config(AudioConfig, None, [*options.overrides, "speakers=off"])
    turns = reference(options.folder)
    errors = {way: DiarizationErrorRate(collar=COLLAR_S, skip_overlap=False) for way in WAYS}
    columns = ("mixed", "mixed, off", "covered", "no speech", "cost", "speakers")
    table, total = Table("recording", *(f"error: {way}" for way in WAYS), *columns), Tally()
    for path in sorted(p for p in options.folder.iterdir() if p.suffix in (".wav", ".flac")):
        name = next((n for n in sorted(turns) if path.stem.endswith(n)), None)
        if name is None:
            continue
        sound, truth = decode(path), turns[name]
        heard, plain = hear(sound, config, options.final), hear(sound, off)
        length_s = len(sound) / SAMPLE_RATE
        made = {
            "events": [(s.start_ms / 1000, s.end_ms / 1000, s.speaker or "nobody") for s in heard.segments],
            "1 s": heard.first,
            "one label": [(s.start_ms / 1000, s.end_ms / 1000, "one") for s in plain.segments],
        }
        whole = Timeline([Segment(0, length_s)])
        found = [errors[way](annotation(truth), annotation(made[way]), uem=whole) for way in WAYS]
        here = tally(truth, heard, plain, length_s)
        total.add(here)
        count = len({s.speaker for s in heard.segments} - {None})
        people = len({who for _, _, who in truth})
        table.add_row(
            path.stem, *(f"{100 * value:.1f}" for value in found), *here.columns(), f"{count} of {people}"
        )
    table.add_section()
    table.add_row("all", *(f"{100 * abs(errors[way]):.1f}" for way in WAYS), *total.columns())
    console = Console(width=150)
    console.print(table)
    for way in WAYS:
        parts = errors[way][:]
        kinds = ("missed detection", "false alarm", "confusion")
        console.print(f"{way}:", ", ".join(f"{kind} {100 * parts[kind] / parts['total']:.1f}" for kind in kinds))


if __name__ == "__main__":
    main()
