"""MELD (Poria et al. 2019) in its published layout: three tables, and one clip per utterance beside them.

    train_sent_emo.csv  dev_sent_emo.csv  test_sent_emo.csv
    train_splits/  dev_splits_complete/  output_repeated_splits_test/    dia{D}_utt{U}.mp4

Without the folders of clips it is a corpus of text alone. Dialogue numbers start anew in each split, so the
split is part of the call's name. The same actors speak in all splits by design: the dialogue separates them.
"""

import csv
from pathlib import Path

from bcaf_stream.errors import DataError
from training.datasets.manifest import Corpus, Manifest, Row, Split

LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
CLIPS: dict[Split, str] = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
COLUMNS = {"Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime"}


def read_meld(root: Path) -> Manifest:
    """Read the tables of `root`; clips are named whether or not they exist (`listen` finds out).

    Raises:
        DataError: a table is missing or is not MELD's, or holds an emotion that MELD does not have.
    """
    rows = [row for split in CLIPS for row in _read_split(root, split)]
    with_clips = [split for split, folder in CLIPS.items() if (root / folder).is_dir()]
    notes = [] if with_clips else ["no folder of clips: text alone"]
    if with_clips and len(with_clips) < len(CLIPS):
        absent = ", ".join(CLIPS[split] for split in CLIPS if split not in with_clips)
        raise DataError(f"{root}: clips of some splits only; missing: {absent}. Add them, or take the others away")
    repaired = sum("\ufffd" in (row.text or "") for row in rows)
    if repaired:
        notes.append(f"{repaired} texts hold characters that the table itself had lost")
    corpus = Corpus(
        name="MELD",
        labels=LABELS,
        licence="GPL-3.0 repository; clips from a television series, for research use",
        source="Poria et al. 2019, declare-lab/MELD",
        root=str(root.resolve()),
        separation="by dialogue; the same actors speak in all splits, as published",
        notes=tuple(notes),
    )
    return Manifest(corpus, tuple(rows))


def _read_split(root: Path, split: Split) -> list[Row]:
    path = root / f"{split}_sent_emo.csv"
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            missing = COLUMNS - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"{path}: not a table of MELD: no column {', '.join(sorted(missing))}")
            records = [(reader.line_num, record) for record in reader]
    except FileNotFoundError:
        raise DataError(f"{path}: no such table; --root must be the folder with MELD's *_sent_emo.csv") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    has_clips = (root / CLIPS[split]).is_dir()
    origin = _first_starts(path, records)
    return [_row(path, line, record, split, origin, has_clips) for line, record in records]


def _row(
    path: Path, line: int, record: dict[str, str], split: Split, origin: dict[str, int], has_clips: bool
) -> Row:
    label = record["Emotion"].strip().lower()
    if label not in LABELS:
        raise DataError(f"{path}:{line}: unknown emotion {label!r}; MELD has {', '.join(LABELS)}")
    dialogue, utterance = record["Dialogue_ID"], record["Utterance_ID"]
    start = _ms(path, line, record["StartTime"]) - origin[dialogue]
    end = _ms(path, line, record["EndTime"]) - origin[dialogue]
    return Row(
        split=split,
        call=f"{split}-dia{dialogue}",
        utterance=f"{split}-dia{dialogue}-utt{utterance}",
        order=int(utterance),
        channel=record["Speaker"],
        speaker=record["Speaker"],
        start_ms=start,
        end_ms=end,
        text=mend(record["Utterance"]),
        label=label,
        audio=f"{CLIPS[split]}/dia{dialogue}_utt{utterance}.mp4" if has_clips else None,
    )


def mend(text: str) -> str:
    """Undo the table's known damage: Windows quotes and dashes that were stored as control characters."""
    return "".join(bytes([ord(c)]).decode("cp1252", errors="ignore") if "\x80" <= c <= "\x9f" else c for c in text)


def _first_starts(path: Path, records: list[tuple[int, dict[str, str]]]) -> dict[str, int]:
    """When each dialogue starts in its episode: stream time counts from there."""
    starts: dict[str, int] = {}
    for line, record in records:
        if not (record["Dialogue_ID"] or "").isdigit() or not (record["Utterance_ID"] or "").isdigit():
            raise DataError(f"{path}:{line}: Dialogue_ID and Utterance_ID must be whole numbers")
        at = _ms(path, line, record["StartTime"])
        starts[record["Dialogue_ID"]] = min(at, starts.get(record["Dialogue_ID"], at))
    return starts


def _ms(path: Path, line: int, clock: str) -> int:
    try:
        hours, minutes, seconds = clock.replace(".", ",").split(":")
        whole, _, fraction = seconds.partition(",")
        return 1000 * (3600 * int(hours) + 60 * int(minutes) + int(whole)) + int(fraction.ljust(3, "0")[:3])
    except (ValueError, AttributeError):
        raise DataError(f"{path}:{line}: {clock!r} is no time; MELD writes 00:20:57,256") from None
