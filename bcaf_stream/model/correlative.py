"""The correlative attention network (eq. 13-16): joint attention, and correlations that weigh each modality.

cor_m is one scalar per utterance and modality: the cosine of e_m, from the connection network, with
h^b = Linear(h*, E). The paper gives h*_m width 512 though h^s_m has 1024; h*_m = Linear(h^s_m, E) * cor_m.

Legend: B dialogues, U utterances, T utterances that may be seen, D width, E latent width; 2 is audio, text.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from bcaf_stream.model.attention import Cache, JointAttention
from bcaf_stream.model.parallel import ParallelLinear


class PlainProjection(nn.Module):
    """The ablation "without the correlative attention network": no joint attention, cor = 1.

    h*_m = Linear(h^s_m, E) stays, so that the classifier keeps its input and its size.
    """

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.projection = ParallelLinear(2, width, latent)
        self.cache_width = 0

    def project(self, pair_2BUD: Tensor) -> Tensor:
        star_2BUE: Tensor = self.projection(pair_2BUD)
        return star_2BUE


class CorrelativeAttention(PlainProjection):
    """From h^s and e of both modalities to h*_a, h*_l: (2, B, U, E)."""

    def __init__(self, width: int, latent: int, heads: int, lambda_init: float) -> None:
        super().__init__(width, latent)
        self.joint = JointAttention(width, heads, lambda_init)
        self.fusion = nn.Linear(width, latent)
        self.cache_width = self.joint.cache_width

    def forward(
        self, pair_2BUD: Tensor, latent_2BUE: Tensor, visible_B1UT: Tensor, cache: Cache | None = None
    ) -> Tensor:
        fused_BUE = self.fusion(self.joint(pair_2BUD, visible_B1UT, cache))
        return self.project(pair_2BUD) * correlation(latent_2BUE, fused_BUE)


def correlation(latent_2BUE: Tensor, fused_BUE: Tensor) -> Tensor:
    """Eq. 15: the cosine of each utterance's two vectors, (2, B, U, 1); 0 where one of them is zero."""
    return F.cosine_similarity(latent_2BUE, fused_BUE, dim=-1)[..., None]
