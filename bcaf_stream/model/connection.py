"""The interactive connection network (eq. 1-2) and its loss (eq. 3).

Two decisions where the paper is silent. Dropout follows the two hidden layers of the encoder and of the
decoder, not e and d themselves, for those are what eq. 3 and eq. 15 measure. The reconstruction target H is
a constant, as with the paper's frozen encoders: were it not, a learned input projection could lower the
loss by shrinking H.

Legend: B dialogues, U utterances, N utterances with both modalities, D width, E latent width; 2 is audio, text.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaf_stream.model.parallel import ParallelLinear

ConnectionForm = Literal["stable", "printed", "off"]
STANDARDISATION_EPS = 1e-5  # added to the variance, as batch normalisation does


class Connection(NamedTuple):
    """What eq. 3 compares, of both modalities: inputs H, reconstructions d, latents e."""

    H_2BUD: Tensor
    d_2BUD: Tensor
    e_2BUE: Tensor


def widths(start: int, end: int) -> list[int]:
    """Four widths falling (or rising) evenly, both ends included: 1024, 853, 683, 512."""
    return [round(start + (end - start) * step / 3) for step in range(4)]


class ConnectionNetwork(nn.Module):
    """An auto-encoder per modality, encoder and decoder of three fully connected layers each (eq. 1-2).

    The encoder ends in a ReLU as the paper has it; the decoder's last layer is linear, because a ReLU there
    could not reconstruct negative features. Gives e of both modalities, and with `decode` what eq. 3 needs.
    """

    def __init__(self, width: int, latent: int, dropout: float) -> None:
        super().__init__()
        down, up = widths(width, latent), widths(latent, width)
        self.encoder = nn.ModuleList(ParallelLinear(2, a, b) for a, b in pairwise(down))
        self.decoder = nn.ModuleList(ParallelLinear(2, a, b) for a, b in pairwise(up))
        self.dropout = nn.Dropout(dropout)

    def forward(self, H_2BUD: Tensor, decode: bool) -> tuple[Tensor, Connection | None]:
        e_2BUE = F.relu(self._run(self.encoder, H_2BUD))
        if not decode:
            return e_2BUE, None
        return e_2BUE, Connection(H_2BUD, self._run(self.decoder, e_2BUE), e_2BUE)

    def _run(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers[:-1]:
            x = self.dropout(F.relu(layer(x)))
        return layers[-1](x)


class PlainLatent(nn.Module):
    """The ablation "without the interactive connection network": e_m = Linear(H_m, E), no decoder, no loss."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.projection = ParallelLinear(2, width, latent)

    def forward(self, H_2BUD: Tensor, decode: bool) -> tuple[Tensor, None]:
        return self.projection(H_2BUD), None


def connection_loss(
    H_2BUD: Tensor,
    d_2BUD: Tensor,
    e_2BUE: Tensor,
    mask_BU: Tensor,
    form: Literal["stable", "printed"] = "stable",
    mu: float = 0.1,
) -> Tensor:
    """Eq. 3 over the N utterances where `mask_BU` is True: a scalar, with gradient even where N is 0.

    The caller leaves only utterances with both modalities in the mask, because a learned "absent" vector has
    nothing to reconstruct or to agree with. With N < 2 there is no correlation and only the reconstruction counts.

    `stable`: means instead of sums, e and d standardised per feature over N, both correlation terms with a
    plus, as the prose says. `printed`: eq. 3 to the letter; it is unbounded below.
    """
    H_2ND, d_2ND, e_2NE = (x[:, mask_BU] for x in (H_2BUD.detach(), d_2BUD, e_2BUE))
    loss, count = (H_2ND - d_2ND).square().sum(), e_2NE.shape[1]
    if form == "printed":
        return loss if count < 2 else loss + mu * (_disagreement(*e_2NE) - _disagreement(*d_2ND))
    # A mean over nothing is NaN; the sum keeps the graph, so that every parameter still gets its (zero) gradient.
    loss = loss / max(H_2ND[0].numel(), 1)
    if count < 2:
        return loss
    (e_a, e_l), (d_a, d_l) = _standardise(e_2NE), _standardise(d_2ND)
    latent = _disagreement(e_a, e_l / count) / e_a.shape[-1]
    rebuilt = _disagreement(d_a, d_l / count) / d_a.shape[-1]
    return loss + mu * (latent + rebuilt)


def _standardise(x_2NE: Tensor) -> Tensor:
    apart_2NE = x_2NE - x_2NE.mean(1, keepdim=True)
    return apart_2NE * (apart_2NE.square().mean(1, keepdim=True) + STANDARDISATION_EPS).rsqrt()


def _disagreement(x_NE: Tensor, y_NE: Tensor) -> Tensor:
    identity_EE = torch.eye(x_NE.shape[-1], dtype=x_NE.dtype, device=x_NE.device)
    return (identity_EE - x_NE.mT @ y_NE).square().sum()
