"""IEMOCAP (Busso et al. 2008) in its published layout, five sessions of two actors each.

    Session{1..5}/dialog/EmoEvaluation/*.txt        [6.2901 - 8.2357]  Ses01F_impro01_F000  neu  [2.5, 2.5, 2.5]
    Session{1..5}/dialog/transcriptions/*.txt       Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
    Session{1..5}/sentences/wav/{dialogue}/{utterance}.wav

Session 5 is the test split, so its speakers are new; dev is taken by dialogue from Sessions 1-4. Six labels as
in the paper, or four (excitement counts as happiness). Utterances with any other label are left out, as in
the published counts, or kept as unlabelled context, as a live call would have them.
"""

import hashlib
import re
from pathlib import Path

from bcaf_stream.errors import DataError
from training.datasets.manifest import Corpus, Manifest, Row, Split

SIX = {"neu": "neutral", "hap": "happy", "sad": "sad", "ang": "angry", "exc": "excited", "fru": "frustrated"}
FOUR = {"neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry"}
OTHERS = {"sur", "fea", "dis", "oth", "xxx"}  # xxx: the annotators did not agree
SESSIONS = (1, 2, 3, 4, 5)
DEV_SHARE = 0.1
EVALUATION = re.compile(r"^\[(\d+\.\d+) - (\d+\.\d+)\]\t(\S+)\t(\S+)\t\[")
TRANSCRIPT = re.compile(r"^(Ses\d\d[FM]_\S+) \[[\d.]+-[\d.]+\]: (.*)$")


def read_iemocap(root: Path, classes: int = 6, keep_unlabelled: bool = False) -> Manifest:
    """Read the five sessions under `root`.

    Raises:
        DataError: a session is missing or of another layout, or has a label that IEMOCAP does not have.
    """
    names = SIX if classes == 6 else FOUR
    rows: list[Row] = []
    for session in SESSIONS:
        folder = root / f"Session{session}"
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; --root must hold Session1 to Session5")
        rows += _read_session(folder, session, names, keep_unlabelled)
    corpus = Corpus(
        name=f"IEMOCAP {classes}-way",
        labels=tuple(dict.fromkeys(names.values())),
        licence="by agreement with USC SAIL, research use only, not to be redistributed",
        source="Busso et al. 2008, sail.usc.edu/iemocap",
        root=str(root.resolve()),
        separation="test is Session 5 (its speakers are in no other split); dev by dialogue from Sessions 1-4",
        speakers_apart=(("train", "test"), ("dev", "test")),
        notes=("utterances with other labels are kept as context" if keep_unlabelled else
               "utterances with other labels are left out, as published",),
    )  # fmt: skip
    return Manifest(corpus, tuple(rows))


def _read_session(folder: Path, session: int, names: dict[str, str], keep_unlabelled: bool) -> list[Row]:
    evaluations = sorted((folder / "dialog" / "EmoEvaluation").glob("Ses*.txt"))
    if not evaluations:
        raise DataError(f"{folder}/dialog/EmoEvaluation: no Ses*.txt; this is not IEMOCAP's layout")
    rows = []
    for path in evaluations:
        texts = _transcript(folder / "dialog" / "transcriptions" / path.name)
        for order, (start, end, utterance, code) in enumerate(_evaluated(path)):
            label = names.get(code)
            if label is None and code not in OTHERS | SIX.keys():
                raise DataError(f"{path}: {utterance} has the unknown label {code!r}")
            if label is None and not keep_unlabelled:
                continue
            voice = utterance.rsplit("_", 1)[-1][0]
            rows.append(
                Row(
                    split=split_of(path.stem, session),
                    call=path.stem,
                    utterance=utterance,
                    order=order,
                    channel=voice,
                    speaker=f"Ses{session:02d}{voice}",
                    start_ms=round(start * 1000),
                    end_ms=round(end * 1000),
                    text=texts.get(utterance),
                    label=label,
                    audio=f"Session{session}/sentences/wav/{path.stem}/{utterance}.wav",
                )
            )
    return rows


def split_of(dialogue: str, session: int) -> Split:
    """Which split a dialogue lies in: a matter of its name alone, so it never moves."""
    if session == 5:
        return "test"
    share = int.from_bytes(hashlib.sha256(dialogue.encode()).digest()[:4], "big") / 2**32
    return "dev" if share < DEV_SHARE else "train"


def _evaluated(path: Path) -> list[tuple[float, float, str, str]]:
    """(start, end, utterance, label) in time order: both speakers' turns of one dialogue."""
    found = []
    for line in _lines(path):
        match = EVALUATION.match(line)
        if match:
            found.append((float(match[1]), float(match[2]), match[3], match[4]))
    if not found:
        raise DataError(f"{path}: no evaluated utterance; this is not IEMOCAP's layout")
    return sorted(found)


def _transcript(path: Path) -> dict[str, str]:
    matches = (TRANSCRIPT.match(line) for line in _lines(path))
    return {match[1]: match[2].strip() for match in matches if match}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
