"""The correlative attention network (eq. 13-16): joint attention, and correlations that weigh each modality.

cor_m is one scalar per utterance and modality: the cosine of e_m, from the connection network, with
h^b = Linear(h*, E). The paper gives h*_m width 512 though h^s_m has 1024; h*_m = Linear(h^s_m, E) * cor_m.

Legend: B dialogues, U utterances, T utterances that may be seen, D width, E latent width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from bcaf_stream.model.attention import Cache, JointAttention


class PlainProjection(nn.Module):
    """The ablation "without the correlative attention network": no joint attention, cor = 1.

    h*_m = Linear(h^s_m, E) stays, so that the classifier keeps its input and its size.
    """

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.audio_projection, self.text_projection = nn.Linear(width, latent), nn.Linear(width, latent)
        self.cache_width = 0

    def project(self, audio_BUD: Tensor, text_BUD: Tensor) -> tuple[Tensor, Tensor]:
        return self.audio_projection(audio_BUD), self.text_projection(text_BUD)


class CorrelativeAttention(PlainProjection):
    """From h^s and e of both modalities to h*_a, h*_l, each (B, U, E)."""

    def __init__(self, width: int, latent: int, heads: int, lambda_init: float) -> None:
        super().__init__(width, latent)
        self.joint = JointAttention(width, heads, lambda_init)
        self.fusion = nn.Linear(width, latent)
        self.cache_width = self.joint.cache_width

    def forward(
        self,
        audio_BUD: Tensor,
        text_BUD: Tensor,
        audio_latent_BUE: Tensor,
        text_latent_BUE: Tensor,
        visible_B1UT: Tensor,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:
        fused_BUE = self.fusion(self.joint(audio_BUD, text_BUD, visible_B1UT, cache))
        audio_BUE, text_BUE = self.project(audio_BUD, text_BUD)
        return (
            audio_BUE * correlation(audio_latent_BUE, fused_BUE),
            text_BUE * correlation(text_latent_BUE, fused_BUE),
        )


def correlation(latent_BUE: Tensor, fused_BUE: Tensor) -> Tensor:
    """Eq. 15: the cosine of each utterance's two vectors, (B, U, 1); 0 where one of them is zero."""
    return F.cosine_similarity(latent_BUE, fused_BUE, dim=-1)[..., None]
