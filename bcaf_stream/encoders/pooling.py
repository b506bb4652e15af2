"""From frames or tokens to one vector, and from utterances to batches that do not disturb each other.

Shape letters: B utterances, T frames or tokens, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def masked_mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the valid T, in float32: (B, D). A row without valid T gives zeros."""
    weight_BT1 = mask_BT.unsqueeze(-1).float()
    return (hidden_BTD.float() * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1.0)


def length_groups(lengths: Sequence[int], most: int, exact: bool = False) -> list[list[int]]:
    """Indices grouped by like length: at most `most` in a group, the longest under 1.5 x the shortest.

    `exact` groups equal lengths only, for models whose numbers change with padding.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        last = groups[-1] if groups else None
        limit = 0.0 if last is None else lengths[last[0]] * (1.0 if exact else 1.5)
        if last is not None and len(last) < most and lengths[index] <= limit:
            last.append(index)
        else:
            groups.append([index])
    return groups


def padding_share(lengths: Sequence[int], most: int) -> float:
    """The share of padding, from 0 to 1, when utterances of these lengths are encoded in their groups."""
    groups = length_groups(lengths, most)
    frames = sum(len(group) * max(lengths[i] for i in group) for group in groups)
    return 1 - sum(lengths) / frames if frames else 0.0


def pad_rows(rows: Sequence[Tensor], value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Stack tensors of unequal first dimension: (B, T, ...) padded with `value`, and the mask (B, T), bool."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
    lengths_B1 = torch.tensor([len(row) for row in rows]).unsqueeze(1)
    return padded, torch.arange(padded.shape[1]) < lengths_B1
