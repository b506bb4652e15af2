"""What `fit` says of its data before it trains: the vectors' scale, doubles, and what stands in two splits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from bcaf_stream.model.heads import IGNORED_LABEL
from bcaf_stream.model.inputs import scale_of
from bcaf_stream.types import Modality
from training.datasets.audit import overlaps
from training.dialogues import LAST, Dialogue, vectors_of
from training.training_data import MODALITIES, TrainingData

NAMED = 5  # examples in a line


def inspect(data: TrainingData) -> list[str]:
    """One line for each thing found. NaN never comes so far: load_dialogues refuses it by name."""
    lines = [line for modality in MODALITIES for line in _vectors(data.train, modality)]
    for what, names in overlaps(data.manifest):
        lines.append(f"{len(names)} {what}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}")
    return lines


def _vectors(train: Sequence[Dialogue], modality: Modality) -> Iterator[str]:
    vectors_NX = vectors_of(train, modality)
    if not len(vectors_NX):
        return
    _, inverse_X = scale_of(vectors_NX)
    varying_X = inverse_X[inverse_X > 0]
    constant = len(inverse_X) - len(varying_X)
    if len(varying_X):
        deviation_X = varying_X.reciprocal()
        yield (
            f"{modality}: {len(vectors_NX)} train vectors, {len(inverse_X)} wide, deviation of a dimension "
            f"{float(deviation_X.min()):.3g} to {float(deviation_X.max()):.3g}"
        )
    if constant:
        yield f"{modality}: {constant} of {len(inverse_X)} dimensions are constant in train and say nothing"
    zero = int((vectors_NX == 0).all(1).sum())
    if zero:
        yield f"{modality}: {zero} train vectors are all zeros; null is an utterance without one"
    labels: dict[bytes, list[int]] = defaultdict(list)
    for dialogue in train:
        there_U = getattr(dialogue, f"{modality}_present_U")
        column = getattr(dialogue, f"{modality}_{LAST[modality]}")
        for u in torch.nonzero(there_U).flatten().tolist():
            labels[column[u].numpy().tobytes()].append(int(dialogue.label_U[u]))
    doubles = [found for found in labels.values() if len(found) > 1]
    if doubles:
        differ = sum(len(set(found) - {IGNORED_LABEL}) > 1 for found in doubles)
        yield (
            f"{modality}: {sum(map(len, doubles)) - len(doubles)} train vectors repeat another one"
            + (f"; {differ} vectors have several labels" if differ else "")
        )
