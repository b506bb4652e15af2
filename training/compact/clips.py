"""Emotional speech with other people's labels, brought to the model's: RAVDESS, EmoDB, Urdu.

Speakers never cross splits: RAVDESS actors 1-18 train, 19-21 dev, 22-24 test; EmoDB speakers 03 08 09 10 11
13 train, 12 14 dev, 15 16 test; Urdu (talk shows, speakers not certain) trains only. "Calm" counts as
neutral. EmoDB's boredom has no counterpart: it is kept as `boredom`, trained on as the config says, and
never scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.errors import DataError
from bcaf_stream.types import SAMPLE_RATE
from training.datasets.manifest import Split
from training.datasets.sound import decode

PcmN = NDArray[np.int16]
RAVDESS = ("neutral", "neutral", "joy", "sadness", "anger", "fear", "disgust", "surprise")  # code 01 to 08
EMODB = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "joy", "T": "sadness", "N": "neutral"}
URDU = {"angry": "anger", "happy": "joy", "sad": "sadness", "neutral": "neutral"}
SHORTEST_TURN, LONGEST_TURN = 0.7, 10.0  # seconds
EMODB_DEV, EMODB_TEST = ("12", "14"), ("15", "16")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One acted or broadcast utterance, mono 16 kHz."""

    corpus: str
    speaker: str
    label: str
    split: Split
    samples: PcmN


def read_clips(folder: Path) -> list[Clip]:
    """All clips of the three corpora under `folder`.

    Raises:
        DataError: a corpus is missing, or a name that does not follow its corpus.
    """
    readers: dict[str, Callable[[str], tuple[str, str, Split]]] = {
        "ravdess": _ravdess,
        "emodb": _emodb,
        "urdu": _urdu,
    }
    return [clip for corpus, reader in readers.items() for clip in _read(folder / corpus, corpus, reader)]


def _read(folder: Path, corpus: str, reader: Callable[[str], tuple[str, str, Split]]) -> Iterator[Clip]:
    paths = sorted(folder.glob("*.flac"))
    if not paths:
        raise DataError(f"{folder}: no .flac clips of {corpus}; give the folder with ravdess, emodb and urdu")
    for path in paths:
        try:
            speaker, label, split = reader(path.stem)
        except (IndexError, KeyError, ValueError):
            raise DataError(f"{path}: this is not a name of {corpus}") from None
        yield Clip(corpus, f"{corpus}-{speaker}", label, split, decode(path)[0])


def _ravdess(stem: str) -> tuple[str, str, Split]:
    parts = stem.split("-")
    actor = int(parts[6])
    split: Split = "train" if actor <= 18 else "dev" if actor <= 21 else "test"
    return parts[6], RAVDESS[int(parts[2]) - 1], split


def _emodb(stem: str) -> tuple[str, str, Split]:
    speaker = stem[:2]
    split: Split = "dev" if speaker in EMODB_DEV else "test" if speaker in EMODB_TEST else "train"
    return speaker, EMODB[stem[5]], split


def _urdu(stem: str) -> tuple[str, str, Split]:
    parts = stem.split("_")
    return parts[1], URDU[parts[0]], "train"


def read_anchors(folder: Path) -> list[Clip]:
    """Turns of everyday conversation under `folder` (recordings, and `.rttm` files that say who speaks when).

    Nobody labelled them; they stand for the calm talk that acted corpora lack, and count as neutral, for
    training only. Without them, a model of acted speech hears most telephone calls as sad.

    Raises:
        DataError: no turn of usable length, or a recording that is missing.
    """
    clips, heard = [], {}
    for path in sorted(folder.glob("*.rttm")):
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = line.split()
            start, length = float(fields[3]), float(fields[4])
            if not SHORTEST_TURN <= length <= LONGEST_TURN:
                continue
            name = fields[1]
            if name not in heard:
                heard[name] = _recording(folder, name)
            samples = heard[name][round(start * SAMPLE_RATE) : round((start + length) * SAMPLE_RATE)]
            if len(samples) >= SHORTEST_TURN * SAMPLE_RATE:
                clips.append(Clip("anchor", f"anchor-{name}", "neutral", "train", samples))
    if not clips:
        raise DataError(f"{folder}: no turns of conversation; give the folder with .rttm files and recordings")
    return clips


def _recording(folder: Path, name: str) -> PcmN:
    for ending in (".flac", ".wav"):
        for stem in (name, f"ami_{name.lower()}"):
            if (folder / (stem + ending)).is_file():
                return decode(folder / (stem + ending))[0]
    raise DataError(f"{folder}: no recording {name}")
