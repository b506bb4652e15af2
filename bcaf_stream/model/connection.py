"""The interactive connection network (eq. 1-2) and its loss (eq. 3).

Two decisions where the paper is silent. Dropout follows the two hidden layers of the encoder and of the
decoder, not e and d themselves, for those are what eq. 3 and eq. 15 measure. The reconstruction target H is
a constant, as with the paper's frozen encoders: were it not, a learned input projection could lower the
loss by shrinking H.

Legend: B dialogues, U utterances, N utterances with both modalities, D width, E latent width.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ConnectionForm = Literal["stable", "printed", "off"]
STANDARDISATION_EPS = 1e-5  # added to the variance, as batch normalisation does


class Connection(NamedTuple):
    """What eq. 3 compares: inputs H and reconstructions d (B, U, D), latents e (B, U, E)."""

    H_audio_BUD: Tensor
    d_audio_BUD: Tensor
    H_text_BUD: Tensor
    d_text_BUD: Tensor
    e_audio_BUE: Tensor
    e_text_BUE: Tensor


def widths(start: int, end: int) -> list[int]:
    """Four widths falling (or rising) evenly, both ends included: 1024, 853, 683, 512."""
    return [round(start + (end - start) * step / 3) for step in range(4)]


class AutoEncoder(nn.Module):
    """Encoder and decoder of one modality, three fully connected layers each (eq. 1-2).

    The encoder ends in a ReLU as the paper has it; the decoder's last layer is linear, because a ReLU there
    could not reconstruct negative features.
    """

    def __init__(self, width: int, latent: int, dropout: float) -> None:
        super().__init__()
        down, up = widths(width, latent), widths(latent, width)
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(down))
        self.decoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(up))
        self.dropout = nn.Dropout(dropout)

    def encode(self, H_BUD: Tensor) -> Tensor:
        return F.relu(self._run(self.encoder, H_BUD))

    def decode(self, e_BUE: Tensor) -> Tensor:
        return self._run(self.decoder, e_BUE)

    def _run(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers[:-1]:
            x = self.dropout(F.relu(layer(x)))
        return layers[-1](x)


class ConnectionNetwork(nn.Module):
    """An auto-encoder per modality: gives e_a, e_l, and with `decode` what eq. 3 needs."""

    def __init__(self, width: int, latent: int, dropout: float) -> None:
        super().__init__()
        self.audio, self.text = AutoEncoder(width, latent, dropout), AutoEncoder(width, latent, dropout)

    def forward(
        self, audio_BUD: Tensor, text_BUD: Tensor, decode: bool
    ) -> tuple[Tensor, Tensor, Connection | None]:
        e_audio, e_text = self.audio.encode(audio_BUD), self.text.encode(text_BUD)
        if not decode:
            return e_audio, e_text, None
        d_audio, d_text = self.audio.decode(e_audio), self.text.decode(e_text)
        return e_audio, e_text, Connection(audio_BUD, d_audio, text_BUD, d_text, e_audio, e_text)


class PlainLatent(nn.Module):
    """The ablation "without the interactive connection network": e_m = Linear(H_m, E), no decoder, no loss."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.audio, self.text = nn.Linear(width, latent), nn.Linear(width, latent)

    def forward(self, audio_BUD: Tensor, text_BUD: Tensor, decode: bool) -> tuple[Tensor, Tensor, None]:
        return self.audio(audio_BUD), self.text(text_BUD), None


def connection_loss(
    H_a: Tensor,
    d_a: Tensor,
    H_l: Tensor,
    d_l: Tensor,
    e_a: Tensor,
    e_l: Tensor,
    mask: Tensor,
    form: Literal["stable", "printed"] = "stable",
    mu: float = 0.1,
) -> Tensor:
    """Eq. 3 over the N utterances where `mask` is True: a scalar, with gradient even where N is 0.

    Shapes: H, d (..., D), e (..., E), mask (...). The caller leaves only utterances with both modalities in
    the mask, because a learned "absent" vector has nothing to reconstruct or to agree with. With N < 2
    there is no correlation and only the reconstruction counts.

    `stable`: means instead of sums, e and d standardised per feature over N, both correlation terms with a
    plus, as the prose says. `printed`: eq. 3 to the letter; it is unbounded below.
    """
    H_a, d_a, H_l, d_l, e_a, e_l = (x[mask] for x in (H_a.detach(), d_a, H_l.detach(), d_l, e_a, e_l))
    count = e_a.shape[0]
    if form == "printed":
        loss = (H_a - d_a).square().sum() + (H_l - d_l).square().sum()
        return loss if count < 2 else loss + mu * (_disagreement(e_a, e_l) - _disagreement(d_a, d_l))
    # A mean over nothing is NaN; the sum keeps the graph, so that every parameter still gets its (zero) gradient.
    loss = ((H_a - d_a).square().sum() + (H_l - d_l).square().sum()) / max(H_a.numel(), 1)
    if count < 2:
        return loss
    e_a, e_l, d_a, d_l = map(_standardise, (e_a, e_l, d_a, d_l))
    latent = _disagreement(e_a, e_l / count) / e_a.shape[-1]
    rebuilt = _disagreement(d_a, d_l / count) / d_a.shape[-1]
    return loss + mu * (latent + rebuilt)


def _standardise(x_NE: Tensor) -> Tensor:
    return F.batch_norm(x_NE, None, None, training=True, eps=STANDARDISATION_EPS)


def _disagreement(x_NE: Tensor, y_NE: Tensor) -> Tensor:
    identity_EE = torch.eye(x_NE.shape[-1], dtype=x_NE.dtype, device=x_NE.device)
    return (identity_EE - x_NE.mT @ y_NE).square().sum()
