"""What comes out of the network and how it is judged: logits, classifier, cross-entropies (eq. 17-24).

Legend: B dialogues, U utterances, C classes.
"""

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from bcaf_stream.model.connection import Connection

IGNORED_LABEL = -100


class BCAFOutput(NamedTuple):
    """Logits of the three heads, which modalities stood behind them, and what the connection loss compares.

    `connection` is None in a step and without a connection network, `linear_BUC` in training and without a linear
    path. Presence is False in padding.
    """

    fused_BUC: Tensor
    audio_BUC: Tensor
    text_BUC: Tensor
    audio_present_BU: Tensor
    text_present_BU: Tensor
    connection: Connection | None
    linear_BUC: Tensor | None = None


def classifier(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Fully connected layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for in_features, out_features in pairwise(widths):
        layers += [nn.Linear(in_features, out_features), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


def cross_entropy(logits_BUC: Tensor, labels_BU: Tensor, present_BU: Tensor, weight_C: Tensor | None) -> Tensor:
    """The (weighted) mean over present, labelled utterances; a zero with a graph where there are none."""
    labels_BU = labels_BU.masked_fill(~present_BU, IGNORED_LABEL)
    labelled_BU = labels_BU != IGNORED_LABEL
    total = F.cross_entropy(
        logits_BUC.flatten(0, 1), labels_BU.flatten(), weight_C, ignore_index=IGNORED_LABEL, reduction="sum"
    )
    if weight_C is None:
        return total / labelled_BU.sum().clamp_min(1)
    return total / weight_C[labels_BU[labelled_BU]].sum().clamp_min(1e-8)
