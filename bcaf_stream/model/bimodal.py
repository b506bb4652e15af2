"""The bimodal attention network (eq. 4-12) and its variants of Table II.

"In parallel" is read as two tracks of L layers that never mix: the self track carries h^s of both
modalities from layer to layer, the cross track h^c. In the cross track, audio at layer n + 1 is asked by
the text of the cross track at layer n, and the mirror image; both start from H. Layers are simultaneous:
no modality sees the other's output of the same layer. So a layer is four blocks side by side.

Variants keep both outputs, so that everything behind them stays the same:

- `ban`    self and cross track
- `self`   BAN-SA: the self track alone; h^c = h^s
- `cross`  BAN-CA: the cross track alone; h^s = h^c
- `jan`    each layer is one joint attention (eq. 13-14), added to both modalities; h^s = h^c
- no layers at all (the ablation "without the bimodal attention network"): h^s = h^c = H

Legend: P blocks side by side, B dialogues, U utterances, T utterances that may be seen, D width; 2 is audio, text.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bcaf_stream.model.attention import AddNorm, AttentionBlocks, Cache, JointAttention

Attention = Literal["ban", "jan", "self", "cross"]
# Of each block, the one whose input asks it; blocks are audio and text, of the self track first.
QUERY_SOURCES: dict[str | None, tuple[int, ...]] = {"ban": (0, 1, 3, 2), "self": (0, 1), "cross": (1, 0)}


class Streams(NamedTuple):
    """The enhanced representations: h^s of audio and text, and h^c."""

    self_2BUD: Tensor
    cross_2BUD: Tensor


class JointLayer(nn.Module):
    """One layer of JAN: what the joint attention finds is added to both modalities, each with its own AddNorm."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, lambda_init: float) -> None:
        super().__init__()
        self.joint = JointAttention(width, heads, lambda_init)
        self.add_norm = AddNorm(2, width, feed_forward, dropout)
        self.cache_width = self.joint.cache_width

    def forward(self, pair_2BUD: Tensor, visible_B1UT: Tensor, cache: Cache | None = None) -> Tensor:
        found_BUD = self.joint(pair_2BUD, visible_B1UT, cache)
        return self.add_norm(pair_2BUD, torch.stack((found_BUD, found_BUD)))  # each with a dropout of its own


class BimodalAttention(nn.Module):
    """From H_a, H_l to the four enhanced representations."""

    def __init__(
        self,
        attention: Attention | None,
        *,
        layers: int,
        width: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        lambda_init: float,
    ) -> None:
        super().__init__()

        def layer() -> AttentionBlocks | JointLayer:
            if attention in QUERY_SOURCES:
                return AttentionBlocks(QUERY_SOURCES[attention], width, heads, feed_forward, dropout)
            return JointLayer(width, heads, feed_forward, dropout, lambda_init)

        built = [layer() for _ in range(layers if attention is not None else 0)]
        self.layers = nn.ModuleList(built)
        self.cache_width = sum(one.cache_width for one in built)
        self.tracks = 2 if attention == "ban" else 1

    def forward(self, pair_2BUD: Tensor, visible_B1UT: Tensor, cache: Cache | None = None) -> Streams:
        x_PBUD = pair_2BUD.repeat(self.tracks, 1, 1, 1)
        for layer in self.layers:
            x_PBUD = layer(x_PBUD, visible_B1UT, cache)
        return Streams(x_PBUD[:2], x_PBUD[-2:])
