"""The table of `compact-open`: only sources whose licences let what is trained of them be used commercially.

    words   GoEmotions (Apache-2.0 code, CC BY 4.0 data), XED (CC BY 4.0), BRIGHTER English (CC BY 4.0)
    sound   EmoDB (CC0 1.0, by its publisher), CREMA-D (ODbL 1.0 and DbCL 1.0), AMI meetings (CC BY 4.0)

Lines with one label that the model has are kept, at most MOST of each source and class in a split. They come in
no dialogue, so that lines are put side by side at random: what stood before means nothing, and the model learns
not to lean on it. Some are joined with a clip of the same emotion, some with any clip; clips alone are grouped by
speaker.
"""

import csv
import gzip
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bcaf_stream.errors import DataError
from training.compact.clips import ANCHORS_DEV, SHORTEST_TURN, names_of
from training.compact.config import LABELS
from training.datasets.manifest import SPLITS, Split, content_key

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
MOST = {"train": 900, "dev": 150, "test": 300}  # lines of one source and class
LINES, CLIPS = 8, 6  # in a dialogue
MATCHED, ANY = 0.3, 0.15  # of the lines: with a clip of the same emotion, with any clip
EACH = 8  # one speaker of CREMA-D in so many is dev, and one test


class Line(NamedTuple):
    source: str
    split: Split
    text: str
    label: str


class Clip(NamedTuple):
    """`cut` is the part of the file in ms, None = all of it."""

    split: Split
    audio: str
    cut: tuple[int, int] | None
    label: str
    speaker: str


def write_open_table(text: Path, speech: Path, conversations: Path, out: Path, seed: int = 0) -> Counter[str]:
    """manifest.jsonl for `bcaf-train prepare`; how many utterances of each source are in it.

    Raises:
        DataError: a source is missing, or is not what it should be.
    """
    rng = random.Random(seed)
    lines, clips = list(_lines(text)), [*_emodb(speech), *_cremad(speech), *_meetings(conversations)]
    rng.shuffle(lines)
    records = [*_spoken(_few(lines), clips, rng), *_heard(clips, rng)]
    out.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (out / "manifest.jsonl").write_text("".join(rows), encoding="utf-8")
    return Counter(record["call"].split("-")[0] for record in records)


def _few(lines: list[Line]) -> list[Line]:
    taken: Counter[tuple[str, str, str]] = Counter()
    kept = []
    for line in lines:
        key = (line.source, line.split, line.label)
        taken[key] += 1
        if taken[key] <= MOST[line.split]:
            kept.append(line)
    return kept


def _spoken(lines: list[Line], clips: list[Clip], rng: random.Random) -> Iterator[dict[str, Any]]:
    by_label: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    by_split: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_label[clip.split, clip.label].append(clip)
        by_split[clip.split].append(clip)
    for source, split in ((source, split) for source in sorted({x.source for x in lines}) for split in SPLITS):
        mine = [line for line in lines if (line.source, line.split) == (source, split)]
        for number, line in enumerate(mine):
            record = {"split": split, "call": f"{source}-{split}-{number // LINES}", "utterance": number % LINES}
            record |= {"text": line.text, "label": line.label}
            chance = rng.random()
            pool = by_label[split, line.label] if chance < MATCHED else by_split[split]
            if chance < MATCHED + ANY and pool:
                record |= _audio(rng.choice(pool))
            yield record


def _heard(clips: list[Clip], rng: random.Random) -> Iterator[dict[str, Any]]:
    by_speaker: dict[tuple[str, Split], list[Clip]] = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker, clip.split].append(clip)
    for (speaker, split), own in sorted(by_speaker.items()):
        rng.shuffle(own)
        for number, clip in enumerate(own):
            yield {
                "split": split,
                "call": f"{speaker}-{number // CLIPS}",
                "utterance": number % CLIPS,
                "label": clip.label,
                "speaker": speaker,
                **_audio(clip),
            }


def _audio(clip: Clip) -> dict[str, Any]:
    if clip.cut is None:
        return {"audio": clip.audio}
    return {"audio": clip.audio, "audio_start_ms": clip.cut[0], "audio_end_ms": clip.cut[1]}


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
    for split in SPLITS:
        for row in csv.DictReader(_read(folder / f"{split}.csv.gz")):
            felt = [name for name in LABELS if row.get(name) == "1"]
            if len(felt) <= 1:
                yield Line("brighter", split, row["text"], felt[0] if felt else "neutral")


def _drawn(text: str) -> Split:
    """A split of what has none, the same for the same words."""
    tenth = int(content_key(text.encode())[:8], 16) % 10
    return "test" if tenth == 0 else "dev" if tenth == 1 else "train"


def _emodb(speech: Path) -> Iterator[Clip]:
    for path, (speaker, label, split, _) in names_of(speech / "emodb", "emodb"):
        if label in LABELS:
            yield Clip(split, str(path.resolve()), None, label, f"emodb-{speaker}")


def _cremad(speech: Path) -> Iterator[Clip]:
    folder = speech / "cremad"
    rows = list(csv.DictReader(_read(folder / "labels.tsv"), delimiter="\t"))
    speakers = sorted({row["speaker"] for row in rows})
    held: dict[str, Split] = {}
    for number, speaker in enumerate(speakers):
        held[speaker] = "dev" if number % EACH == 0 else "test" if number % EACH == 1 else "train"
    for row in rows:
        speaker, path = row["speaker"], folder / row["file"]
        yield Clip(held[speaker], str(path.resolve()), None, row["emotion"], f"cremad-{speaker}")


def _meetings(folder: Path) -> Iterator[Clip]:
    """Turns of AMI: nobody labelled them, they stand for everyday talk and count as neutral."""
    for path in sorted(folder.glob("ami_*.rttm")):
        for row in path.read_text(encoding="utf-8").splitlines():
            fields = row.split()
            name, start, length = fields[1], float(fields[3]), float(fields[4])
            sound = folder / f"ami_{name.lower()}.flac"
            if length >= SHORTEST_TURN and sound.is_file():
                cut = (round(1000 * start), round(1000 * (start + min(length, 4.0))))
                yield Clip(
                    "dev" if name in ANCHORS_DEV else "train", str(sound.resolve()), cut, "neutral", f"ami-{name}"
                )


def _read(path: Path) -> list[str]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return file.read().splitlines()
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from None
