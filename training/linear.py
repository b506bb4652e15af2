"""The floor under every result: regularised logistic regression on the same vectors, one utterance at a time.

It sees no dialogue and learns in seconds, so a network that does not beat it has learned nothing that the vectors
did not show already. One for both modalities joined, and one for each alone; vectors standardised as BCAF's are,
an absent modality at its mean; the strength of the regularisation is chosen on dev by the weighted F1.

What it may cost is bounded: at most ITERATIONS of L-BFGS for each strength, the next one starting from the last;
of a train split with more than CELLS numbers, every k-th labelled utterance is used (`used` says how many).

Legend: N utterances, X width of the vectors shown, C classes.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from bcaf_stream.errors import CheckpointError
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.heads import IGNORED_LABEL
from bcaf_stream.model.inputs import scale_of, standardized
from bcaf_stream.types import Modality
from training.dialogues import Dialogue, View, vectors_of
from training.metrics import Scored, weighted_f1

FILE_NAME = "linear.safetensors"
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, from strong to weak regularisation
ITERATIONS = 100
CELLS = 20_000_000
Summary = Mapping[str, Any]  # of training.metrics
SHOWN: Mapping[View, tuple[Modality, ...]] = {"both": ("audio", "text"), "text": ("text",), "audio": ("audio",)}


@dataclass(frozen=True, slots=True, eq=False)
class LinearFloor:
    """`weights[view]` is (C, X + 1), the bias last; `scales` are mean and inverse deviation of each modality."""

    labels: tuple[str, ...]
    scales: Mapping[Modality, tuple[Tensor, Tensor]]
    weights: Mapping[View, Tensor]
    strengths: Mapping[View, float]
    used: int

    def score(self, dialogues: Sequence[Dialogue]) -> dict[str, Scored]:
        """Predictions of the labelled utterances of which the view leaves something, in the dialogues' order."""
        found: dict[str, Scored] = {}
        for view, weight_CX in self.weights.items():
            x_NX, label_N, call_N = _table(dialogues, self.scales, view)
            if len(label_N):
                logits_NC = x_NX.double() @ weight_CX[:, :-1].double().T + weight_CX[:, -1].double()
                found[view] = Scored(self.labels, logits_NC.softmax(1).numpy(), label_N, call_N)
        return found

    def to_bytes(self) -> bytes:
        """A safetensors file, to lie beside the weights of the model that it is the floor of."""
        tensors = {f"weight.{view}": weight_CX.float().contiguous() for view, weight_CX in self.weights.items()}
        for modality, (mean_X, inverse_X) in self.scales.items():
            tensors |= {f"mean.{modality}": mean_X.contiguous(), f"inverse.{modality}": inverse_X.contiguous()}
        about = {"labels": self.labels, "strengths": dict(self.strengths), "used": self.used}
        return bytes_of(tensors, {"about": json.dumps(about)})

    def install(self, model: BCAF) -> None:
        """Make the model's linear path, if it has one, of these regressions; one that is missing says nothing."""
        path = model.linear_path
        if path is None:
            return
        weights: dict[View, Tensor] = {view: weight_CX.float() for view, weight_CX in self.weights.items()}
        if not model.config.standardize:
            weights = {view: self._unscaled(view, weight_CX) for view, weight_CX in weights.items()}
        for number, (view, layer_CX) in enumerate(
            (("both", path.both_CX), ("audio", path.audio_CX), ("text", path.text_CX))
        ):
            if view in weights:
                layer_CX.copy_(weights[view][:, :-1])
                path.bias_3C[number].copy_(weights[view][:, -1])

    def _unscaled(self, view: View, weight_CX: Tensor) -> Tensor:
        """The same regression on vectors as they are."""
        mean_X, inverse_X = (torch.cat(one) for one in zip(*(self.scales[m] for m in SHOWN[view]), strict=True))
        slope_CX = weight_CX[:, :-1] * inverse_X
        return torch.cat((slope_CX, weight_CX[:, -1:] - slope_CX @ mean_X[:, None]), 1)

    @staticmethod
    def from_bytes(data: bytes) -> "LinearFloor":
        """Raises CheckpointError where `data` is not what `to_bytes` gives."""
        try:
            tensors = tensors_of(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["about"])
            return LinearFloor(
                tuple(about["labels"]),
                {
                    m: (tensors[f"mean.{m}"], tensors[f"inverse.{m}"])
                    for m in SHOWN["both"]
                    if f"mean.{m}" in tensors
                },
                {view: tensors[f"weight.{view}"] for view in SHOWN if f"weight.{view}" in tensors},
                about["strengths"],
                about["used"],
            )
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{FILE_NAME} is broken ({type(error).__name__}); delete it, or train the checkpoint again"
            ) from None


def fit_floor(labels: Sequence[str], train: Sequence[Dialogue], dev: Sequence[Dialogue]) -> LinearFloor | None:
    """One regression for each view that the train split has; None where only one class is there to learn."""
    present = [m for m in SHOWN["both"] if any(getattr(d, f"{m}_present_U").any() for d in train)]
    scales = {m: scale_of(vectors_of(train, m)) for m in present}
    views: list[View] = [view for view in SHOWN if view in present or len(present) == len(SHOWN[view]) == 2]
    weights: dict[View, Tensor] = {}
    strengths: dict[View, float] = {}
    used = 0
    for view in views:
        x_NX, label_N, _ = _table(train, scales, view)
        step = max(1, -(-x_NX.numel() // CELLS))
        x_NX, label_N = x_NX[::step], label_N[::step]
        if len(set(label_N.tolist())) < 2:
            continue
        used = max(used, len(label_N))
        weights[view], strengths[view] = _fit(tuple(labels), view, x_NX.numpy(), label_N, scales, dev)
    return LinearFloor(tuple(labels), scales, weights, strengths, used) if weights else None


def _fit(
    labels: tuple[str, ...],
    view: View,
    x_NX: NDArray[np.float32],
    label_N: NDArray[np.int64],
    scales: Mapping[Modality, tuple[Tensor, Tensor]],
    dev: Sequence[Dialogue],
) -> tuple[Tensor, float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    best = (-1.0, torch.empty(0), 0.0)
    for strength in STRENGTHS:
        model.C = strength
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the bound on its cost, see above
            model.fit(x_NX, label_N)
        weight_CX = _rows(model.coef_, model.intercept_, model.classes_, len(labels))
        one = LinearFloor(labels, scales, {view: weight_CX}, {view: strength}, len(label_N)).score(dev)
        score = weighted_f1(one[view]) if view in one else 0.0
        if score > best[0]:
            best = (score, weight_CX, strength)
    return best[1], best[2]


def _rows(
    coefficients: NDArray[np.float64], bias: NDArray[np.float64], known: NDArray[np.int64], classes: int
) -> Tensor:
    """(C, X + 1) over all classes; one that train does not have is never chosen."""
    rows = np.concatenate([coefficients, bias[:, None]], axis=1)
    if len(known) == 2:  # scikit-learn keeps one row for two classes
        rows = np.concatenate([-rows / 2, rows / 2])
    weight_CX = np.zeros((classes, rows.shape[1]))
    weight_CX[:, -1] = -1e4
    weight_CX[known] = rows
    return torch.from_numpy(weight_CX).float()


def _table(
    dialogues: Sequence[Dialogue], scales: Mapping[Modality, tuple[Tensor, Tensor]], view: View
) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Standardised vectors, labels, and the number of the dialogue, of the utterances that count."""
    rows, labels, calls = [], [], []
    for number, one in enumerate(dialogues):
        columns = {"audio": (one.audio_UA, one.audio_present_U), "text": (one.text_UT, one.text_present_U)}
        shown = [m for m in SHOWN[view] if m in scales]
        there_U = torch.stack([columns[m][1] for m in shown]).any(0) & (one.label_U != IGNORED_LABEL)
        parts = [standardized(columns[m][0], *scales[m]) * columns[m][1][:, None] for m in shown]
        rows.append(torch.cat(parts, 1)[there_U])
        labels.append(one.label_U[there_U])
        calls.append(np.full(int(there_U.sum()), number, np.int64))
    return torch.cat(rows), torch.cat(labels).numpy(), np.concatenate(calls)


MEASURES = {"weighted_f1": "weighted F1", "unweighted_recall": "unweighted recall"}


def compared(bcaf: Mapping[str, Summary], linear: Mapping[str, Summary]) -> list[str]:
    """A line for each view of both: BCAF beside the floor. The last one says where BCAF is below, if it is."""
    lines, below = [], []
    for view in (one for one in SHOWN if one in bcaf and one in linear):
        pairs = {name: (100 * bcaf[view][key], 100 * linear[view][key]) for key, name in MEASURES.items()}
        shown = ", ".join(f"{name} {ours:.1f} (linear floor {floor:.1f})" for name, (ours, floor) in pairs.items())
        lines.append(f"{view}: {shown}")
        below += [
            f"{view}, {name}: {ours:.1f} < {floor:.1f}" for name, (ours, floor) in pairs.items() if ours < floor
        ]
    if below:
        lines.append(f"BELOW THE LINEAR FLOOR, a logistic regression on the same vectors: {'; '.join(below)}")
    return lines
