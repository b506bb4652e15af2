"""Whose words a transcript without channel names gives to the other side, on real two-channel calls.

    python -m tests.benchmarks.cue_attribution ../shared/data/calls/harpervalley

The folder holds NAME_agent.flac and NAME_caller.flac, and NAME.jsonl with the words, times and channel of each cue
(`agent`, `caller` or `customer`). The channels are taken off, the words are paired with the speech that was found,
and each cue's are looked up again: by words known beforehand, and live (each cue when it is over).
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.transcripts.pairing import Pairing, TextConfig
from bcaf_stream.types import Call, Channel, SpeechSegment, Utterance, Words

SIDES = ("caller", "agent")


@dataclass(frozen=True, slots=True)
class Told:
    """A call's speech, and its cues with their true channel; each token is unique."""

    call: Call
    segments: list[SpeechSegment]
    cues: list[Words]


@dataclass(slots=True)
class Score:
    words: int = 0
    wrong: int = 0  # words with the other side
    lost: int = 0  # words with nobody
    cues: int = 0
    cues_wrong: int = 0  # with a word on the other side


def load(folder: Path, name: str) -> Told:
    files = {side: folder / f"{name}_{side}.flac" for side in SIDES}
    call = Call(name, tuple(Channel(side) for side in SIDES))
    cutter = CallCutter(call)
    with FileSource(files) as source:
        segments = [s for chunk in source for s in cutter.push(chunk)] + cutter.flush()
    segments = [replace(s, samples=np.zeros(0, np.int16)) for s in segments]
    cues = []
    for number, line in enumerate((folder / f"{name}.jsonl").read_text().splitlines()):
        row = json.loads(line)
        side = "caller" if row["channel"] == "customer" else row["channel"]
        text = " ".join(f"{number}.{place}.{'x' * len(w)}" for place, w in enumerate(row["text"].split()))
        cues.append(Words(row["start_ms"], row["end_ms"], text, side))
    return Told(call, segments, sorted(cues, key=lambda cue: cue.start_ms))


def beforehand(told: Told) -> list[Utterance]:
    pairing = Pairing(told.call, TextConfig(), [replace(cue, channel=None) for cue in told.cues])
    return [u for s in told.segments for u in pairing.push(s)] + pairing.flush()


def live(told: Told) -> list[Utterance]:
    pairing = Pairing(told.call, TextConfig(), ())
    steps = [(s.closed_ms, 0, s) for s in told.segments] + [(c.end_ms + 500, 1, c) for c in told.cues]
    done: list[Utterance] = []
    for at, _, step in sorted(steps, key=lambda step: step[:2]):
        done += pairing.advance(at)
        if isinstance(step, Words):
            done += pairing.push_words([replace(step, channel=None)])
        else:
            done += pairing.push(step)
    return done + pairing.flush()


def score(told: Told, utterances: list[Utterance]) -> Score:
    last = {(u.channel, u.index): u for u in utterances}
    got = {word: u.channel for u in last.values() for word in (u.text or "").split()}
    found = Score()
    for cue in told.cues:
        sides = Counter(got.get(word) for word in cue.text.split())
        lost, right = sides.pop(None, 0), sides.pop(str(cue.channel), 0)
        wrong = sides.total()
        found.words += lost + right + wrong
        found.wrong, found.lost = found.wrong + wrong, found.lost + lost
        found.cues, found.cues_wrong = found.cues + 1, found.cues_wrong + (wrong > 0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    calls = [load(folder, path.stem) for path in sorted(folder.glob("*.jsonl"))]
    print(f"{'':12} {'words wrong':>12} {'words lost':>11} {'cues wrong':>11}")
    for name, way in (("beforehand", beforehand), ("live", live)):
        scores = [score(told, way(told)) for told in calls]
        words, cues = sum(s.words for s in scores), sum(s.cues for s in scores)
        print(
            f"{name:12} {sum(s.wrong for s in scores) / words:12.1%} {sum(s.lost for s in scores) / words:11.1%}"
            f" {sum(s.cues_wrong for s in scores) / cues:11.1%}   of {words} words in {cues} cues"
        )


if __name__ == "__main__":
    main()
