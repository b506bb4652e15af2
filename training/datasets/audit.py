"""Whether a corpus can be trained on: its labels counted, its damage listed, its leaks refused.

A dialogue in two splits, an utterance twice, or a speaker in splits that must not share one is an error.
Equal sound in two splits, dialogues with the same words, and speakers in splits that may share them are listed:
published corpora have some. So are splits without labels: a corpus to be scored needs no train split.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bcaf_stream.errors import DataError
from bcaf_stream.types import VectorD
from training.datasets.manifest import SPLITS, Manifest, Row, calls_of
from training.datasets.sound import Heard

SAME_WORDS_FROM = 3  # utterances; shorter dialogues ("Hey!", "Hey!") are the same by chance
SAME_LINE_FROM = 4  # words; shorter ones ("Oh my God!") are the same by chance
NEEDED = "fit needs train and dev, evaluate the one that it scores; --dev-share 0.1 draws dev from train"


@dataclass(frozen=True, slots=True)
class Audit:
    """`labels[label][split]` counts utterances; `findings` are (what, names) to be shown, worst first."""

    labels: dict[str, dict[str, int]]
    utterances: dict[str, int]
    calls: dict[str, int]
    without_sound: dict[str, int]
    without_text: dict[str, int]
    findings: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)


def audit(heard: Heard) -> Audit:
    """Count, list and refuse.

    Raises:
        DataError: no label at all, an unknown label, an utterance with neither sound nor text, a vector that is
            empty, not finite or of another width, or a leak between the splits.
    """
    manifest = heard.manifest
    _refuse_doubles(manifest)
    _refuse_leaks(manifest)
    _refuse_unusable(manifest)
    labels = {label: _count(r for r in manifest.rows if r.label == label) for label in manifest.corpus.labels}
    findings = [
        (f"splits without a labelled utterance ({NEEDED})", _unlabelled(labels)),
        ("labels that no train utterance has, so they cannot be learned", _untrained(labels)),
        ("clips missing: those utterances have text alone", heard.missing),
        ("clips that hold no usable sound: those utterances have text alone", heard.broken),
        ("clips that are damaged; what can be decoded of them is used", heard.damaged),
        ("clips over a minute long, which the corpus does not mean", heard.overlong),
        (
            "clips much longer than their utterances, so that they hold something else: those have text alone",
            heard.mistaken,
        ),
        *overlaps(manifest),
    ]
    return Audit(
        labels=labels,
        utterances=_count(manifest.rows),
        calls=_count(rows[0] for _, rows in calls_of(manifest.rows)),
        without_sound=_count(r for r in manifest.rows if r.audio_key is None and r.audio_vector is None),
        without_text=_count(r for r in manifest.rows if r.text is None and r.text_vector is None),
        findings=[(what, names) for what, names in findings if names],
    )


def overlaps(manifest: Manifest) -> list[tuple[str, tuple[str, ...]]]:
    """What stands in two splits, so that a score may be remembered instead of earned: (what, names)."""
    rows = manifest.rows
    found = [
        ("sounds that stand in two splits", _in_two_splits((row.audio_key, row) for row in rows)),
        ("audio vectors that stand in two splits", _in_two_splits((_bytes(r.audio_vector), r) for r in rows)),
        ("text vectors that stand in two splits", _in_two_splits((_bytes(r.text_vector), r) for r in rows)),
        (
            f"utterances of {SAME_LINE_FROM} words or more whose words stand in another split too",
            _in_two_splits((_line(row), row) for row in rows),
        ),
        ("dialogues whose words stand in another split too", _same_words(manifest)),
        ("speakers in more than one split", _shared_speakers(manifest)),
    ]
    return [(what, names) for what, names in found if names]


def _bytes(vector: VectorD | None) -> bytes | None:
    return None if vector is None else np.asarray(vector, np.float32).tobytes()


def _line(row: Row) -> str | None:
    words = (row.text or "").casefold().split()
    return " ".join(words) if len(words) >= SAME_LINE_FROM else None


def _refuse_doubles(manifest: Manifest) -> None:
    counts = Counter((row.call, row.utterance) for row in manifest.rows)
    twice = [row.name for row in manifest.rows if counts.pop((row.call, row.utterance), 1) > 1]
    if twice:
        raise DataError(
            f"utterance {twice[0]} stands in the corpus twice{_more(twice)}; give each a name of its own"
        )


def _refuse_leaks(manifest: Manifest) -> None:
    torn = [call for call, rows in calls_of(manifest.rows) if len({row.split for row in rows}) > 1]
    if torn:
        raise DataError(f"dialogue {torn[0]} lies in more than one split{_more(torn)}; a dialogue must lie in one")
    splits = _splits_of_speakers(manifest)
    for first, second in manifest.corpus.speakers_apart:
        shared = [speaker for speaker in splits if {first, second} <= splits[speaker]]
        if shared:
            raise DataError(
                f"speaker {shared[0]} is in {first} and in {second}{_more(shared)}; split by speaker, "
                "or say --shared-speakers if the dialogue is meant to separate the splits; "
                "a speaker who is not known is null"
            )


def _refuse_unusable(manifest: Manifest) -> None:
    for row in manifest.rows:
        if row.label is not None and row.label not in manifest.corpus.labels:
            raise DataError(f"{row.name}: unknown label {row.label!r}; known: {', '.join(manifest.corpus.labels)}")
        if row.audio_key is None and row.text is None and row.audio_vector is None and row.text_vector is None:
            raise DataError(f"{row.name}: has neither usable sound nor text; take it out of the corpus")
    for modality in ("audio", "text"):
        _refuse_vectors(modality, [(row.name, getattr(row, f"{modality}_vector")) for row in manifest.rows])
    if not any(row.label for row in manifest.rows):
        raise DataError(f"{manifest.corpus.name}: no utterance has a label; give the column label")


def _refuse_vectors(modality: str, named: Sequence[tuple[str, VectorD | None]]) -> None:
    width: int | None = None
    for name, vector in named:
        if vector is None:
            continue
        if not vector.size:
            raise DataError(f"{name}: its {modality} vector is empty; null is an utterance without one")
        width = vector.size if width is None else width
        if vector.size != width:
            raise DataError(f"{name}: its {modality} vector is {vector.size} wide; the first is {width}")
        if not np.isfinite(vector).all():
            raise DataError(f"{name}: its {modality} vector holds NaN or infinity as float32; compute it again")


def _unlabelled(labels: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    return tuple(split for split in SPLITS if not any(counts[split] for counts in labels.values()))


def _untrained(labels: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    """None where nothing at all is there to train on."""
    untrained = tuple(label for label, counts in labels.items() if not counts["train"])
    return untrained if len(untrained) < len(labels) else ()


def _splits_of_speakers(manifest: Manifest) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in manifest.rows:
        if row.speaker is not None:
            splits[row.speaker].add(row.split)
    return dict(sorted(splits.items()))


def _shared_speakers(manifest: Manifest) -> tuple[str, ...]:
    shared = {speaker: splits for speaker, splits in _splits_of_speakers(manifest).items() if len(splits) > 1}
    return tuple(f"{name} ({', '.join(s for s in SPLITS if s in splits)})" for name, splits in shared.items())


def _in_two_splits(keyed: Iterable[tuple[Hashable | None, Row]]) -> tuple[str, ...]:
    seen: dict[Hashable, Row] = {}
    found = []
    for key, row in keyed:
        if key is not None and (first := seen.setdefault(key, row)).split != row.split:
            found.append(f"{row.name} = {first.name}")
    return tuple(found)


def _same_words(manifest: Manifest) -> tuple[str, ...]:
    keyed = []
    for _, rows in calls_of(manifest.rows):
        words = [(row.text or "").casefold().strip() for row in rows]
        keyed.append(("\n".join(words) if len(rows) >= SAME_WORDS_FROM and all(words) else None, rows[0]))
    return _in_two_splits(keyed)


def _count(rows: Iterable[Row]) -> dict[str, int]:
    counts = Counter(row.split for row in rows)
    return {split: counts[split] for split in SPLITS}


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
