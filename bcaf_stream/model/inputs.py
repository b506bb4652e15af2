"""The input of the network: H_m from the encoder's vector, or the learned absent vector in its place.

Legend: B dialogues, U utterances, X width of this modality's encoder, D width.
"""

import torch
from torch import Tensor, nn

from bcaf_stream.errors import ModelError


class ModalityInput(nn.Module):
    """H_m: the encoder's vector, projected if its width is not D, or the learned absent vector."""

    def __init__(self, name: str, in_features: int, width: int) -> None:
        super().__init__()
        self.name, self.in_features = name, in_features
        self.projection = nn.Linear(in_features, width) if in_features != width else nn.Identity()
        self.absent_D = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, x_BUX: Tensor, present_BU: Tensor) -> Tensor:
        if x_BUX.shape[-1] != self.in_features:
            raise ModelError(
                f"{self.name} features are {x_BUX.shape[-1]} wide; this model takes {self.in_features}"
            )
        # The absent vectors are blanked before the projection: NaN times a zero gradient would still be NaN.
        x_BUX = x_BUX.to(self.absent_D.dtype).masked_fill(~present_BU[..., None], 0.0)
        return torch.where(present_BU[..., None], self.projection(x_BUX), self.absent_D)
