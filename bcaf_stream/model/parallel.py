"""Layers of the same shape side by side: one product computes them all.

The two modalities, and the self and the cross track of the bimodal network, go through layers of the same shape
and never wait for each other. As one batched product they take a quarter of the calls, of which a live step of a
small model mostly consists, and a group of workers exchanges fewer, larger gradients.

Legend: P layers side by side, I width of the input, O of the output, N rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ParallelLinear(nn.Module):
    """P linear layers: (P, ..., I) to (P, ..., O). Weights begin as those of nn.Linear do."""

    def __init__(self, count: int, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(count, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x_PNI = x.flatten(1, -2)
        y_PNO = (
            torch.bmm(x_PNI, self.weight) if self.bias is None else torch.baddbmm(self.bias, x_PNI, self.weight)
        )
        return y_PNO.view(*x.shape[:-1], -1)


class ParallelNorm(nn.Module):
    """P layer normalisations over the last axis of (P, B, U, D)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(count, 1, 1, width))

    def forward(self, x_PBUD: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x_PBUD, x_PBUD.shape[-1:]), self.weight)
