"""The input of the network: H_m from the encoder's vector, or the learned absent vector in its place.

Legend: B dialogues, U utterances, N vectors, X width of this modality's encoder, D width.
"""

import torch
from torch import Tensor, nn

from bcaf_stream.errors import ModelError

BOUND = 10.0  # deviations: what lies further out than any training vector must not drown the rest
CONSTANT = 1e-6  # a deviation under this part of the largest value is rounding


def presence(
    mask_BU: Tensor, audio_present_BU: Tensor | None, text_present_BU: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Where audio and text are there, of what `mask_BU` keeps; None = everywhere."""
    return (
        mask_BU if audio_present_BU is None else mask_BU & audio_present_BU,
        mask_BU if text_present_BU is None else mask_BU & text_present_BU,
    )


class ModalityInput(nn.Module):
    """H_m: the encoder's vector, projected if its width is not D, or the learned absent vector.

    With `standardize` each dimension is first brought to mean 0 and deviation 1 of the train split (`set_scale`):
    two buffers that lie in the checkpoint.
    """

    mean_X: Tensor
    inverse_X: Tensor

    def __init__(self, name: str, in_features: int, width: int, standardize: bool = False) -> None:
        super().__init__()
        self.name, self.in_features, self.standardize = name, in_features, standardize
        self.feature_dropout = 0.0  # the trainer's
        self.projection = nn.Linear(in_features, width) if in_features != width else nn.Identity()
        self.absent_D = nn.Parameter(torch.randn(width) * 0.02)
        if standardize:
            self.register_buffer("mean_X", torch.zeros(in_features))
            self.register_buffer("inverse_X", torch.ones(in_features))

    def set_scale(self, mean_X: Tensor, inverse_X: Tensor) -> None:
        self.mean_X.copy_(mean_X)
        self.inverse_X.copy_(inverse_X)

    def forward(self, x_BUX: Tensor, present_BU: Tensor) -> Tensor:
        return self.project(self.scaled(x_BUX, present_BU), present_BU)

    def scaled(self, x_BUX: Tensor, present_BU: Tensor) -> Tensor:
        """The vectors as the network takes them: standardised if it does that; those of absent ones are blanked.

        Raises:
            ModelError: features of another width.
        """
        if x_BUX.shape[-1] != self.in_features:
            raise ModelError(
                f"{self.name} features are {x_BUX.shape[-1]} wide; this model takes {self.in_features}"
            )
        # The absent vectors are blanked before the projection: NaN times a zero gradient would still be NaN.
        x_BUX = x_BUX.to(self.absent_D.dtype).masked_fill(~present_BU[..., None], 0.0)
        return standardized(x_BUX, self.mean_X, self.inverse_X) if self.standardize else x_BUX

    def project(self, x_BUX: Tensor, present_BU: Tensor) -> Tensor:
        if self.training and self.feature_dropout:
            x_BUX = nn.functional.dropout(x_BUX, self.feature_dropout)
        return torch.where(present_BU[..., None], self.projection(x_BUX), self.absent_D)


def standardized(x: Tensor, mean_X: Tensor, inverse_X: Tensor) -> Tensor:
    return ((x - mean_X) * inverse_X).clamp(-BOUND, BOUND)


def scale_of(vectors_NX: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each dimension and one over its deviation, float32; 0 for a dimension that does not vary.

    What never varied in training says nothing, and must not say anything later either. No vectors at all give
    mean 0 and deviation 1.
    """
    width = vectors_NX.shape[1]
    if not len(vectors_NX):
        return torch.zeros(width), torch.ones(width)
    # Row blocks, because all rows as doubles would take twice the memory of the corpus.
    blocks = vectors_NX.split(4096)
    mean_X = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(vectors_NX)
    squares = [(block.double() - mean_X).square().sum(0) for block in blocks]
    deviation_X = (torch.stack(squares).sum(0) / len(vectors_NX)).sqrt()
    constant_X = deviation_X <= CONSTANT * vectors_NX.abs().amax(0)
    return mean_X.float(), deviation_X.reciprocal().masked_fill(constant_X, 0.0).float()
