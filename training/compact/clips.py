"""Emotional speech with other people's labels, brought to the model's: RAVDESS, EmoDB, Urdu.

Speakers never cross splits: RAVDESS actors 1-18 train, 19-21 dev, 22-24 test; EmoDB speakers 03 08 09 10 11
13 train, 12 14 dev, 15 16 test; Urdu (talk shows, speakers not certain) trains only. "Calm" counts as
neutral. EmoDB's boredom has no counterpart: it is kept as `boredom`, trained on as the config says, and
never scored. The actors of RAVDESS and EmoDB say fixed sentences, which are known; what is said in Urdu is not.
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
RAVDESS_WORDS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
EMODB_WORDS = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
SHORTEST_TURN, LONGEST_PART, HOP = 0.7, 4.0, 2.0  # seconds; turns are cut into overlapping parts
EMODB_DEV, EMODB_TEST = ("12", "14"), ("15", "16")
ANCHORS, ANCHORS_DEV = "anchor", ("trn04",)
Name = tuple[str, str, Split, str]  # speaker, label, split, words ("" where they are not known)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One acted or broadcast utterance, mono 16 kHz; `words` is empty where nobody wrote them down."""

    corpus: str
    speaker: str
    label: str
    split: Split
    words: str
    samples: PcmN


def read_clips(folder: Path) -> list[Clip]:
    """All clips of the three corpora under `folder`.

    Raises:
        DataError: a corpus is missing, or a name that does not follow its corpus.
    """
    return [clip for corpus in READERS for clip in read_corpus(folder / corpus, corpus)]


def read_corpus(folder: Path, corpus: str) -> Iterator[Clip]:
    """The clips of one of the three corpora. Raises as `read_clips`."""
    for path, (speaker, label, split, words) in names_of(folder, corpus):
        yield Clip(corpus, f"{corpus}-{speaker}", label, split, words, decode(path)[0])


def names_of(folder: Path, corpus: str) -> Iterator[tuple[Path, Name]]:
    """The clips of one of the three corpora, and what their names say. Raises as `read_clips`."""
    paths = sorted(folder.glob("*.flac"))
    if not paths:
        raise DataError(f"{folder}: no .flac clips of {corpus}; give the folder with ravdess, emodb and urdu")
    for path in paths:
        try:
            name = READERS[corpus](path.stem)
        except (IndexError, KeyError, ValueError):
            raise DataError(f"{path}: this is not a name of {corpus}") from None
        yield path, name


def _ravdess(stem: str) -> Name:
    parts = stem.split("-")
    actor = int(parts[6])
    split: Split = "train" if actor <= 18 else "dev" if actor <= 21 else "test"
    return parts[6], RAVDESS[int(parts[2]) - 1], split, RAVDESS_WORDS[parts[4]]


def _emodb(stem: str) -> Name:
    speaker = stem[:2]
    split: Split = "dev" if speaker in EMODB_DEV else "test" if speaker in EMODB_TEST else "train"
    return speaker, EMODB[stem[5]], split, EMODB_WORDS[stem[2:5]]


def _urdu(stem: str) -> Name:
    parts = stem.split("_")
    return parts[1], URDU[parts[0]], "train", ""


READERS: dict[str, Callable[[str], Name]] = {"ravdess": _ravdess, "emodb": _emodb, "urdu": _urdu}


def read_anchors(folder: Path, prefix: str = "") -> list[Clip]:
    """Turns of everyday conversation under `folder` (recordings, and `.rttm` files that say who speaks when).

    Only those of `.rttm` files whose names begin with `prefix`.

    Nobody labelled them; they stand for the calm talk that acted corpora lack, and count as neutral. Without
    them, a model of acted speech hears most telephone calls as sad. One meeting, whose speakers are in no
    other, is kept for dev.

    Raises:
        DataError: no turn of usable length, or a recording that is missing.
    """
    clips: list[Clip] = []
    heard: dict[str, PcmN] = {}
    for path in sorted(folder.glob(f"{prefix}*.rttm")):
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = line.split()
            name, start, length = fields[1], float(fields[3]), float(fields[4])
            if length < SHORTEST_TURN:
                continue
            if name not in heard:
                heard[name] = _recording(folder, name)
            split: Split = "dev" if name in ANCHORS_DEV else "train"
            turn = heard[name][round(start * SAMPLE_RATE) : round((start + length) * SAMPLE_RATE)]
            clips += [Clip(ANCHORS, f"{ANCHORS}-{name}", "neutral", split, "", part) for part in _parts(turn)]
    if not clips:
        raise DataError(f"{folder}: no turns of conversation; give the folder with .rttm files and recordings")
    return clips


def _parts(turn: PcmN) -> list[PcmN]:
    longest, hop = round(LONGEST_PART * SAMPLE_RATE), round(HOP * SAMPLE_RATE)
    parts = [turn[at : at + longest] for at in range(0, max(1, len(turn) - hop), hop)]
    return [part for part in parts if len(part) >= SHORTEST_TURN * SAMPLE_RATE]


def _recording(folder: Path, name: str) -> PcmN:
    for ending in (".flac", ".wav"):
        for stem in (name, f"ami_{name.lower()}"):
            if (folder / (stem + ending)).is_file():
                return decode(folder / (stem + ending))[0]
    raise DataError(f"{folder}: no recording {name}")
