"""The bimodal attention network (eq. 4-12) and its variants of Table II.

"In parallel" is read as two tracks of L layers that never mix: the self track carries h^s of both
modalities from layer to layer, the cross track h^c. In the cross track, audio at layer n + 1 is asked by
the text of the cross track at layer n, and the mirror image; both start from H. Layers are simultaneous:
no modality sees the other's output of the same layer.

Variants keep both outputs, so that everything behind them stays the same:

- `ban`    self and cross track
- `self`   BAN-SA: the self track alone; h^c = h^s
- `cross`  BAN-CA: the cross track alone; h^s = h^c
- `jan`    each layer is one joint attention (eq. 13-14), added to both modalities; h^s = h^c
- no tracks at all (the ablation "without the bimodal attention network"): h^s = h^c = H

Legend: B dialogues, U utterances, T utterances that may be seen, D width.
"""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from bcaf_stream.model.attention import AddNorm, AttentionBlock, Cache, JointAttention

Attention = Literal["ban", "jan", "self", "cross"]
Pair = tuple[Tensor, Tensor]  # audio_BUD, text_BUD


class Streams(NamedTuple):
    """h^s_a, h^s_l, h^c_a, h^c_l: the enhanced representations, each (B, U, D)."""

    audio_self_BUD: Tensor
    text_self_BUD: Tensor
    audio_cross_BUD: Tensor
    text_cross_BUD: Tensor


class SelfLayer(nn.Module):
    """One layer of the self track: each modality asks itself (eq. 4-6)."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, lambda_init: float) -> None:
        super().__init__()
        self.audio = AttentionBlock(width, heads, feed_forward, dropout)
        self.text = AttentionBlock(width, heads, feed_forward, dropout)
        self.cache_width = self.audio.cache_width + self.text.cache_width

    def forward(self, pair: Pair, visible_B1UT: Tensor, cache: Cache | None) -> Pair:
        audio_BUD, text_BUD = pair
        return (
            self.audio(audio_BUD, audio_BUD, visible_B1UT, cache),
            self.text(text_BUD, text_BUD, visible_B1UT, cache),
        )


class CrossLayer(SelfLayer):
    """One layer of the cross track: text asks audio (eq. 7-9), audio asks text (eq. 10-12)."""

    def forward(self, pair: Pair, visible_B1UT: Tensor, cache: Cache | None) -> Pair:
        audio_BUD, text_BUD = pair
        return (
            self.audio(text_BUD, audio_BUD, visible_B1UT, cache),
            self.text(audio_BUD, text_BUD, visible_B1UT, cache),
        )


class JointLayer(nn.Module):
    """One layer of JAN: what the joint attention finds is added to both modalities, each with its own AddNorm."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, lambda_init: float) -> None:
        super().__init__()
        self.joint = JointAttention(width, heads, lambda_init)
        self.audio = AddNorm(width, feed_forward, dropout)
        self.text = AddNorm(width, feed_forward, dropout)
        self.cache_width = self.joint.cache_width

    def forward(self, pair: Pair, visible_B1UT: Tensor, cache: Cache | None) -> Pair:
        audio_BUD, text_BUD = pair
        found_BUD = self.joint(audio_BUD, text_BUD, visible_B1UT, cache)
        return self.audio(audio_BUD, found_BUD), self.text(text_BUD, found_BUD)


Layer = SelfLayer | JointLayer  # a CrossLayer is a SelfLayer with other askers
TRACKS: dict[Attention, dict[str, type[Layer]]] = {
    "ban": {"self": SelfLayer, "cross": CrossLayer},
    "self": {"self": SelfLayer},
    "cross": {"cross": CrossLayer},
    "jan": {"joint": JointLayer},
}


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
        self.tracks = nn.ModuleDict()
        self.cache_width = 0
        for name, layer in TRACKS[attention].items() if attention is not None else ():
            track = [layer(width, heads, feed_forward, dropout, lambda_init) for _ in range(layers)]
            self.cache_width += sum(one.cache_width for one in track)
            self.tracks[name] = nn.ModuleList(track)

    def forward(
        self, audio_BUD: Tensor, text_BUD: Tensor, visible_B1UT: Tensor, cache: Cache | None = None
    ) -> Streams:
        ends: list[Pair] = []
        for track in self.tracks.values():
            pair = (audio_BUD, text_BUD)
            for layer in track:  # type: ignore[attr-defined]  # a ModuleList, typed as Module by ModuleDict
                pair = layer(pair, visible_B1UT, cache)
            ends.append(pair)
        ends = ends or [(audio_BUD, text_BUD)]
        return Streams(*ends[0], *ends[-1])
