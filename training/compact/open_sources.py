"""What `compact-open` is trained on: only sources whose licences let what is trained of them be used commercially.

    words   GoEmotions (Apache-2.0 code, CC BY 4.0 data), XED (CC BY 4.0), BRIGHTER English (CC BY 4.0)
    sound   EmoDB (CC0 1.0, by its publisher), CREMA-D (ODbL 1.0 and DbCL 1.0), AMI meetings (CC BY 4.0)

Short lines with one label that the model has are kept, at most MOST of each source and class in a split; in train
none that stands in dev or test. They come in no dialogue, so that lines are put side by side at random: what stood
before means nothing, and the model learns not to lean on it. Where a source took a name out of a line, another
stands there.
"""

import csv
import gzip
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bcaf_stream.errors import DataError
from training.compact.clips import Clip, read_anchors, read_corpus
from training.compact.config import LABELS
from training.compact.dialogues import Spoken
from training.datasets.manifest import SPLITS, Split, content_key
from training.datasets.sound import decode

GOEMOTIONS: Mapping[str, tuple[str, ...]] = {
    "neutral": ("neutral",),
    "surprise": ("surprise",),
    "fear": ("fear", "nervousness"),
    "sadness": ("sadness", "disappointment", "grief", "remorse"),
    "joy": ("joy", "amusement", "excitement", "gratitude", "love", "pride", "relief", "admiration"),
    "disgust": ("disgust",),
    "anger": ("anger", "annoyance"),
}
XED = {"1": "anger", "3": "disgust", "4": "fear", "5": "joy", "6": "sadness", "7": "surprise", "9": "neutral"}
MOST: Mapping[Split, tuple[int, int]] = {"train": (3000, 1000), "dev": (400, 150), "test": (800, 300)}
LONGEST_LINE = 16  # words, as in speech
LINES = 8  # in a dialogue
FROM_SPEAKER = 5  # clips of one speaker of CREMA-D and emotion
EACH = 8  # one speaker of CREMA-D in so many is dev, and one test
CREMAD = ("joy", "sadness")  # of others there is a clip here and there, no class
CREMAD_WORDS = {
    "DFA": "Don't forget a jacket.",
    "IEO": "It's eleven o'clock.",
    "IOM": "I'm on my way to the meeting.",
    "ITH": "I think I have a doctor's appointment.",
    "ITS": "I think I've seen this before.",
    "IWL": "I would like a new alarm clock.",
    "IWW": "I wonder what this is about.",
    "MTI": "Maybe tomorrow it will be cold.",
    "TAI": "The airplane is almost full.",
    "TIE": "That is exactly what happened.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Mark", "Nina", "Paul")
TAKEN_OUT = re.compile(r"\[(NAME|PERSON)\]")


class Line(NamedTuple):
    source: str
    split: Split
    text: str
    label: str


def open_texts(folder: Path, seed: int = 0) -> dict[Split, list[Spoken]]:
    """Dialogues of LINES lines of one source; MOST is of neutral, and of each other class.

    Raises:
        DataError: a source is missing, or is not what it should be.
    """
    rng = random.Random(seed)
    lines = [line for line in _lines(folder) if len(line.text.split()) <= LONGEST_LINE]
    held = {line.text for line in lines if line.split != "train"}
    lines = [line for line in lines if line.split != "train" or line.text not in held]
    rng.shuffle(lines)
    taken: Counter[tuple[str, str, str]] = Counter()
    kept: dict[tuple[Split, str], Spoken] = defaultdict(list)
    for source, split, text, label in lines:
        taken[source, split, label] += 1
        if taken[source, split, label] <= MOST[split][label != "neutral"]:
            kept[split, source].append((TAKEN_OUT.sub(lambda _: rng.choice(NAMES), text), LABELS.index(label)))
    found: dict[Split, list[Spoken]] = {"train": [], "dev": [], "test": []}
    for (split, _), spoken in sorted(kept.items()):
        found[split] += [spoken[at : at + LINES] for at in range(0, len(spoken), LINES)]
    return found


def _lines(folder: Path) -> Iterator[Line]:
    yield from _goemotions(folder / "goemotions")
    yield from _xed(folder / "xed")
    yield from _brighter(folder / "brighter_eng")


def _goemotions(folder: Path) -> Iterator[Line]:
    names = _read(folder / "labels.txt.gz")
    ours = {theirs: label for label, several in GOEMOTIONS.items() for theirs in several}
    for split in SPLITS:
        for row in csv.reader(_read(folder / f"{split}.tsv.gz"), delimiter="\t", quoting=csv.QUOTE_NONE):
            label = ours.get(names[int(row[1])]) if row[1].isdigit() else None
            if label:
                yield Line("goemotions", split, row[0], label)


def _xed(folder: Path) -> Iterator[Line]:
    rows = [row.split("\t") for row in _read(folder / "en-annotated.tsv.gz")]
    rows += [row.split("\t")[::-1] for row in _read(folder / "neu_en.txt.gz")]
    for text, labels in (row for row in rows if len(row) == 2):
        if labels in XED:
            yield Line("xed", _drawn(text), text, XED[labels])


def _brighter(folder: Path) -> Iterator[Line]:
    """Its test split was published without labels in some copies: such rows are no neutral ones."""
    for split in SPLITS:
        for row in csv.DictReader(_read(folder / f"{split}.csv.gz")):
            said = {label: row[label] for label in LABELS if label in row}
            felt = [label for label, value in said.items() if value == "1"]
            if set(said.values()) <= {"0", "1"} and len(felt) <= 1:
                yield Line("brighter", split, row["text"], felt[0] if felt else "neutral")


def _drawn(text: str) -> Split:
    """A split of what has none, the same for the same words."""
    tenth = int(content_key(text.encode())[:8], 16) % 10
    return "test" if tenth == 0 else "dev" if tenth == 1 else "train"


def read_open_clips(speech: Path, conversations: Path) -> list[Clip]:
    """Every clip of EmoDB, some of each speaker of CREMA-D, and turns of AMI's meetings.

    Raises:
        DataError: a corpus is missing, or holds what it should not.
    """
    return [
        *read_corpus(speech / "emodb", "emodb"),
        *_cremad(speech / "cremad"),
        *read_anchors(conversations, "ami_"),
    ]


def _cremad(folder: Path) -> Iterator[Clip]:
    rows = list(csv.DictReader(_read(folder / "labels.tsv"), delimiter="\t"))
    held: dict[str, Split] = {}
    for number, speaker in enumerate(sorted({row["speaker"] for row in rows})):
        held[speaker] = "dev" if number % EACH == 0 else "test" if number % EACH == 1 else "train"
    taken: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row["emotion"] not in CREMAD:
            continue
        speaker, words = row["speaker"], CREMAD_WORDS.get(row["text"][:3], "")
        taken[speaker, row["emotion"]] += 1
        if taken[speaker, row["emotion"]] > FROM_SPEAKER:
            continue
        samples = decode(folder / row["file"])[0]
        yield Clip("cremad", f"cremad-{speaker}", row["emotion"], held[speaker], words, samples)


def _read(path: Path) -> list[str]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return file.read().splitlines()
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from None
