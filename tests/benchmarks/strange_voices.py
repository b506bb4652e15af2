"""Checkpoints on voices and lines of corpora that neither was trained on: sound alone, utterance by utterance.

    python -m tests.benchmarks.strange_voices WORK compact compact-open

ASED, EMOVO, nEMO and TurEV (compact-open knows CREMA-D). Eight speakers of each corpus get three streams of LENGTH
clips: every class alike, 80 % neutral, and one emotion throughout; clean and through 8 kHz mu-law. WORK keeps the
vectors. Printed is, as the mean over corpora and lines, the unweighted recall of the first utterance, of the
second to the tenth, and of the rest; and the calibration error of the rest; without and with adaptation.

With `--speakers 4 --line clean`, in per cent; `one` is the recall of that emotion:

                                first   2 to 10   11 to 40   error
    compact-open   balanced     39.6    33.2      33.5       22.4
      adapted                   39.6    38.0      38.9       14.6
      80 % neutral              56.2    39.7      35.6       24.6
      adapted                   56.2    40.5      41.7       23.6
      one                       37.5    34.3      36.2       25.9
      adapted                   37.5    38.2      40.5       12.9
    compact        balanced     62.5    39.5      38.7       17.4
      adapted                   62.5    39.6      41.6       11.1
      80 % neutral              68.8    49.8      36.6       18.9
      adapted                   68.8    48.5      42.3       23.4
      one                       33.3    34.3      32.3       24.0
      adapted                   33.3    32.9      27.4       19.5
"""

import argparse
import csv
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.encoders.base import AudioEncoder, AudioEncoderConfig
from bcaf_stream.encoders.load import load_audio_encoder
from bcaf_stream.model.checkpoint import find_checkpoint
from bcaf_stream.types import Features
from training.compact.noise import Telephone, float_wave
from training.compact.vectors import to_pcm
from training.datasets.sound import decode
from training.metrics import Scored, summary

SPEECH = Path(__file__).parents[3] / "shared" / "data" / "emotional_speech"
CORPORA, LINES = ("ased", "emovo", "nemo", "turev"), ("clean", "phone")
KINDS = ("balanced", "neutral", "one")
LENGTH, NEUTRALS, SEED = 40, 0.8, 0
PARTS = {"first": slice(0, 1), "2 to 10": slice(1, 10), "11 to 40": slice(10, LENGTH)}


class Stream(NamedTuple):
    """Clips of one speaker in the order in which they are heard."""

    speaker: str
    clips: list[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--speakers", type=int, default=8, help="of each corpus, at most")
    parser.add_argument("--line", choices=LINES, action="append", help="of those only; repeatable")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.checkpoints:
        for adaptation in (False, True):
            engine = EmotionEngine(ModelConfig(checkpoint=name, adaptation=adaptation), words=False)
            encoder = load_audio_encoder(AudioEncoderConfig(), find_checkpoint(name))
            for kind in KINDS:
                found = [
                    measure(engine, Vectors(encoder, arguments.work), corpus, line, kind, arguments.speakers)
                    for corpus in CORPORA
                    for line in arguments.line or LINES
                ]
                mean = {part: np.mean([one[part] for one in found]) for part in found[0]}
                shown = ", ".join(f"{part} {100 * value:.1f}" for part, value in mean.items())
                print(f"{name}, {'with' if adaptation else 'without'} adaptation, {kind}: {shown}", flush=True)


def measure(
    engine: EmotionEngine, vectors: "Vectors", corpus: str, line: str, kind: str, speakers: int
) -> dict[str, float]:
    """Recall in each part of the streams, and the calibration error of the last."""
    rows = [row for row in read(corpus) if row["emotion"] in engine.labels]
    streams = drawn(rows, kind, speakers)
    heard = sorted({clip for one in streams for clip in one.clips})
    of_clip = dict(zip(heard, vectors.of(corpus, line, [rows[n]["file"] for n in heard]), strict=True))
    probs_SLC = judged(engine, [[of_clip[clip] for clip in one.clips] for one in streams])
    truth_SL = np.array([[engine.labels.index(rows[clip]["emotion"]) for clip in one.clips] for one in streams])
    found: dict[str, float] = {}
    for part, where in PARTS.items():
        truth_N = truth_SL[:, where].ravel()
        probs_NC = probs_SLC[:, where].reshape(len(truth_N), -1)
        whole = summary(Scored(engine.labels, probs_NC, truth_N, np.arange(len(truth_N))), draws=2)
        found |= {part: whole["unweighted_recall"]}
    return found | {"error": whole["ece"]}


def read(corpus: str) -> list[dict[str, str]]:
    with (SPEECH / corpus / "labels.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def drawn(rows: Sequence[dict[str, str]], kind: str, speakers: int) -> list[Stream]:
    """The streams of those speakers who have the most clips; none for who never spoke neutrally."""
    rng = random.Random(SEED)
    of: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(rows):
        of[row["speaker"]][row["emotion"]].append(number)
    most = sorted(of, key=lambda one: (-sum(map(len, of[one].values())), one))[:speakers]
    streams = []
    for number, speaker in enumerate(most):
        own = of[speaker]
        emotions = sorted(set(own) - {"neutral"})
        if kind == "balanced":
            labels = [sorted(own)[n % len(own)] for n in range(LENGTH)]
        elif kind == "one":
            labels = [emotions[number % len(emotions)]] * LENGTH
        elif not own["neutral"]:
            continue
        else:
            many = round(NEUTRALS * LENGTH)
            labels = ["neutral"] * many + [emotions[n % len(emotions)] for n in range(LENGTH - many)]
        rng.shuffle(labels)
        streams.append(Stream(speaker, [rng.choice(own[label]) for label in labels]))
    return streams


class Vectors:
    """Audio vectors of clips, kept in the folder `work`."""

    def __init__(self, encoder: AudioEncoder, work: Path) -> None:
        self._encoder, self._work, self._phone = encoder, work, Telephone()

    def of(self, corpus: str, line: str, files: Sequence[str]) -> list[NDArray[np.float32]]:
        path = self._work / f"{corpus}-{line}-{self._encoder.weights_hash[:12]}.npz"
        known = dict(np.load(path)) if path.is_file() else {}
        new = [name for name in files if name not in known]
        for name in new:
            samples = decode(SPEECH / corpus / name)[0]
            heard = samples if line == "clean" else to_pcm(self._phone(float_wave(samples)))
            known[name] = self._encoder.encode([heard])[0]
        if new:
            np.savez(path, **known)
        return [known[name] for name in files]


def judged(engine: EmotionEngine, streams: Sequence[Sequence[NDArray[np.float32]]]) -> NDArray[np.float64]:
    """Probabilities (S, L, C) of all streams, side by side."""
    states = [engine.initial_state()] * len(streams)
    found = []
    for at in range(LENGTH):
        predictions, states = engine.step(states, [Features(one[at], None, "voice") for one in streams])
        found.append([one.probs for one in predictions])
    return np.array(found).swapaxes(0, 1)


if __name__ == "__main__":
    main()
