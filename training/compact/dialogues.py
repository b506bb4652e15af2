"""MELD as lists of (text, label) per dialogue and split."""

from pathlib import Path

from training.compact.config import LABELS
from training.datasets.manifest import Split, calls_of
from training.datasets.meld import read_meld

Spoken = list[tuple[str, int]]


def meld_texts(folder: Path) -> dict[Split, list[Spoken]]:
    """Every dialogue of MELD, in order; labels are indices into LABELS."""
    found: dict[Split, list[Spoken]] = {"train": [], "dev": [], "test": []}
    for _, rows in calls_of(read_meld(folder).rows):
        found[rows[0].split].append([(row.text or "", LABELS.index(row.label or "")) for row in rows])
    return found
