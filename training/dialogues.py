"""Dialogues as tensors: what the loop trains on and evaluation scores.

Legend: B dialogues, U utterances, A / T widths of the audio and text encoders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bcaf_stream.errors import DataError
from bcaf_stream.model.heads import IGNORED_LABEL
from bcaf_stream.types import Modality
from training.datasets.manifest import Manifest, Row, Split, calls_of, content_key

View = Literal["both", "audio", "text"]  # what the model is shown; "both" is whatever is there
LAST: Mapping[Modality, str] = {"audio": "UA", "text": "UT"}
Vectors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Dialogue:
    """One call: features (zeros where absent), what is present, and labels (-100 is none, or nothing to judge)."""

    rows: tuple[Row, ...]
    audio_UA: Tensor
    text_UT: Tensor
    audio_present_U: Tensor
    text_present_U: Tensor
    label_U: Tensor

    def __len__(self) -> int:
        return len(self.rows)


class Batch(NamedTuple):
    """Padded dialogues; `mask_BU` is False in padding and where an utterance has nothing to go on."""

    audio_BUA: Tensor
    text_BUT: Tensor
    mask_BU: Tensor
    audio_present_BU: Tensor
    text_present_BU: Tensor
    label_BU: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(x.to(device, non_blocking=True) for x in self))

    def seen_as(self, view: View) -> "Batch":
        """The same batch with one modality withheld."""
        audio_BU = self.audio_present_BU if view != "text" else torch.zeros_like(self.audio_present_BU)
        text_BU = self.text_present_BU if view != "audio" else torch.zeros_like(self.text_present_BU)
        return self._replace(
            audio_present_BU=audio_BU, text_present_BU=text_BU, mask_BU=self.mask_BU & (audio_BU | text_BU)
        )


def text_key(row: Row) -> str | None:
    return None if row.text is None else content_key(row.text.encode())


def load_dialogues(
    manifest: Manifest,
    split: Split,
    labels: Sequence[str],
    widths: Mapping[Modality, int],
    features: Mapping[Modality, Vectors],
    modalities: Sequence[Modality] = ("audio", "text"),
) -> list[Dialogue]:
    """The calls of a split; vectors in the manifest itself come before those of the store.

    Raises:
        DataError: a split without labels, an unknown label, a vector that is missing, not finite or of another
            width.
    """
    if not any(row.label for row in manifest.split(split)):
        way = "; bcaf-train prepare --dev-share 0.1 draws it from train" if split == "dev" else ""
        raise DataError(f"{manifest.corpus.name}: its {split} split has no labelled utterance{way}")
    index = {label: number for number, label in enumerate(labels)}
    dialogues = []
    for _, rows in calls_of(manifest.split(split)):
        columns = {
            m: [_vector(row, m, widths[m], features.get(m, {}), modalities) for row in rows] for m in widths
        }
        tensors = {m: _column(vectors, widths[m]) for m, vectors in columns.items()}
        there_U = tensors["audio"][1] | tensors["text"][1]
        label_U = torch.tensor([_label(row, index) for row in rows]).masked_fill(~there_U, IGNORED_LABEL)
        dialogues.append(
            Dialogue(
                rows=tuple(rows),
                audio_UA=tensors["audio"][0],
                text_UT=tensors["text"][0],
                audio_present_U=tensors["audio"][1],
                text_present_U=tensors["text"][1],
                label_U=label_U,
            )
        )
    if not any((dialogue.label_U != IGNORED_LABEL).any() for dialogue in dialogues):
        raise DataError(
            f"{manifest.corpus.name}: no labelled utterance of its {split} split has {' or '.join(modalities)}"
        )
    return dialogues


def collate(dialogues: Sequence[Dialogue]) -> Batch:
    """Pad B dialogues behind their ends."""

    def padded(parts: Sequence[Tensor], value: float = 0.0) -> Tensor:
        return pad_sequence(list(parts), batch_first=True, padding_value=value)

    audio_present_BU = padded([d.audio_present_U for d in dialogues], False)
    text_present_BU = padded([d.text_present_U for d in dialogues], False)
    return Batch(
        padded([d.audio_UA for d in dialogues]),
        padded([d.text_UT for d in dialogues]),
        audio_present_BU | text_present_BU,
        audio_present_BU,
        text_present_BU,
        padded([d.label_U for d in dialogues], IGNORED_LABEL),
    )


def vectors_of(dialogues: Sequence[Dialogue], modality: Modality) -> Tensor:
    """The vectors that are there, (N, X)."""
    return torch.cat(
        [getattr(d, f"{modality}_{LAST[modality]}")[getattr(d, f"{modality}_present_U")] for d in dialogues]
    )


def _label(row: Row, index: Mapping[str, int]) -> int:
    if row.label is None:
        return IGNORED_LABEL
    if row.label not in index:
        raise DataError(f"{row.name}: label {row.label!r} is unknown to the model, which has {', '.join(index)}")
    return index[row.label]


def _vector(
    row: Row, modality: Modality, width: int, store: Vectors, modalities: Sequence[Modality]
) -> NDArray[np.float32] | None:
    if modality not in modalities:
        return None
    found = row.audio_vector if modality == "audio" else row.text_vector
    if found is None:
        key = row.audio_key if modality == "audio" else text_key(row)
        if key is None:
            return None
        if key not in store:
            raise DataError(f"{row.name}: its {modality} has no features yet; run bcaf-train features")
        found = store[key]
    if found.shape != (width,):
        raise DataError(
            f"{row.name}: its {modality} vector is {found.size} wide; the model takes {width}; "
            f"to train one for it, set model.{modality}_width: {found.size}"
        )
    if not np.isfinite(found).all():
        raise DataError(f"{row.name}: its {modality} vector holds NaN or infinity; compute it again")
    return found


def _column(vectors: Sequence[NDArray[np.float32] | None], width: int) -> tuple[Tensor, Tensor]:
    rows_UX = np.zeros((len(vectors), width), np.float32)
    for row, found in zip(rows_UX, vectors, strict=True):
        if found is not None:
            row[:] = found
    return torch.from_numpy(rows_UX), torch.tensor([found is not None for found in vectors])
