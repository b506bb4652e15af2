"""Attention over the utterances of one dialogue (eq. 4-14): masks, blocks, and the cache of a live step.

The sequence axis is the dialogue. The paper gives one vector per utterance and modality, and attention over
a single key is the constant 1, so its queries and keys would never learn. There are no positional
encodings in the paper and none here; the cache stays in time order all the same. Heads have no output
projection, so that one head is the paper to the letter: the feed-forward layer mixes them. Blocks that do not
wait for each other stand side by side (parallel.py), and projections of the same input are one matrix, in the
order of its name.

Legend: P blocks side by side, B dialogues, U utterances that ask, T utterances that may be seen (U in a batch,
`context` in a step), K = context - 1 cached utterances, D width, H heads, F = D / H, W width of one cached row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaf_stream.model.parallel import ParallelLinear, ParallelNorm


def visible(mask_BU: Tensor, context: int | None) -> Tensor:
    """Which utterance may see which: (B, 1, U, U), True = seen.

    `context` counts the utterance itself; None is the whole dialogue, the future included. Distance counts
    valid utterances only, so padding before, between or behind them changes nothing. Every row sees at
    least itself: a softmax over nothing would be NaN.
    """
    seen_BUT = mask_BU[:, None, :].expand(-1, mask_BU.shape[1], -1)
    if context is not None:
        rank_BU = mask_BU.long().cumsum(1)
        age_BUT = rank_BU[:, :, None] - rank_BU[:, None, :]
        seen_BUT = seen_BUT & (age_BUT >= 0) & (age_BUT < context)
    itself_UT = torch.eye(mask_BU.shape[1], dtype=torch.bool, device=mask_BU.device)
    return (seen_BUT | itself_UT)[:, None]


def visible_in_step(count_B: Tensor, cached: int) -> Tensor:
    """The same for one new utterance behind `cached` slots, the newest `count_B` of them filled: (B, 1, 1, T)."""
    slot_T = torch.arange(cached + 1, device=count_B.device)
    return (slot_T >= cached - count_B[:, None])[:, None, None]


class Cache:
    """Keys and values of the past during one step; the order of `extend` calls defines the columns of a row.

    past_BKW is read, never written: the step has one copy of it, with a row for the new utterance behind, which
    `extend` fills and every block looks into.
    """

    def __init__(self, past_BKW: Tensor) -> None:
        batch, cached, width = past_BKW.shape
        self._rows_BTW = past_BKW.new_empty(batch, cached + 1, width)
        self._rows_BTW[:, :cached] = past_BKW
        self._used = 0

    def extend(self, new_B1X: Tensor) -> Tensor:
        """The past of these columns with the new utterance behind it: (B, K + 1, X)."""
        start, self._used = self._used, self._used + new_B1X.shape[-1]
        columns_BTX = self._rows_BTW[..., start : self._used]
        columns_BTX[:, -1:] = new_B1X
        return columns_BTX

    def rolled(self) -> Tensor:
        """The past of the next step: the oldest utterance gone, the new one last; same shape as before."""
        assert self._used == self._rows_BTW.shape[-1], "a step must fill every column of its row"
        return self._rows_BTW[:, 1:]


def heads_of(x_PBUD: Tensor, heads: int) -> Tensor:
    """(B, P H, U, F): the heads of all blocks, for one call of attention."""
    return x_PBUD.unflatten(-1, (heads, -1)).permute(1, 0, 3, 2, 4).flatten(1, 2)


def blocks_of(x_BHUF: Tensor, count: int) -> Tensor:
    """The way back: (P, B, U, D)."""
    return x_BHUF.unflatten(1, (count, -1)).permute(1, 0, 3, 2, 4).flatten(-2)


def row_of(parts_PBUX: Tensor, parts: int) -> Tensor:
    """What is kept of each utterance, (B, U, P X): the first part of all blocks, then the next."""
    return parts_PBUX.unflatten(-1, (parts, -1)).permute(1, 2, 3, 0, 4).flatten(2)


def parts_of(row_BTW: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """The parts of such rows, each as `heads_of` has them; views, because a step would copy its whole past."""
    return tuple(part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in row_BTW.chunk(parts, dim=-1))


class AddNorm(nn.Module):
    """Residual, LayerNorm, feed-forward, residual, LayerNorm (eq. 5-6, 8-9, 11-12) of P blocks.

    Dropout acts on what each residual adds and inside the feed-forward layer.
    """

    def __init__(self, count: int, width: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = ParallelNorm(count, width)
        self.up = ParallelLinear(count, width, feed_forward)
        self.down = ParallelLinear(count, feed_forward, width)
        self.output_norm = ParallelNorm(count, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, own_PBUD: Tensor, found_PBUD: Tensor) -> Tensor:
        hidden_PBUD = self.attention_norm(own_PBUD + self.dropout(found_PBUD))
        change_PBUD = self.down(self.dropout(F.relu(self.up(hidden_PBUD))))
        return self.output_norm(hidden_PBUD + self.dropout(change_PBUD))


class AttentionBlocks(nn.Module):
    """P attention blocks: self-attention (eq. 4-6) where a block asks itself, else cross-attention (eq. 7-12).

    Keys, values and the residual of a block belong to its own input; its queries come from the input of the
    block that `query_sources` names for it: (0, 1) are two that ask themselves, (1, 0) two that ask each other.
    """

    def __init__(
        self, query_sources: tuple[int, ...], width: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        count = len(query_sources)
        self.query_sources, self.heads = query_sources, heads
        self.crossed = query_sources != tuple(range(count))
        self.cache_width = 2 * count * width
        self.query = ParallelLinear(count, width, width, bias=False)
        self.key_value = ParallelLinear(count, width, 2 * width, bias=False)
        self.add_norm = AddNorm(count, width, feed_forward, dropout)

    def forward(self, own_PBUD: Tensor, visible_B1UT: Tensor, cache: Cache | None = None) -> Tensor:
        asking_PBUD = (
            torch.stack([own_PBUD[source] for source in self.query_sources]) if self.crossed else own_PBUD
        )
        kept = row_of(self.key_value(own_PBUD), 2)
        kept = cache.extend(kept) if cache is not None else kept
        key, value = parts_of(kept, 2, len(self.query_sources) * self.heads)
        query = heads_of(self.query(asking_PBUD), self.heads)
        found_BHUF = F.scaled_dot_product_attention(query, key, value, attn_mask=visible_B1UT)
        return self.add_norm(own_PBUD, blocks_of(found_BHUF, len(self.query_sources)))


class JointAttention(nn.Module):
    """Eq. 13-14: (softmax((Qa Ka' + Ql Kl') / sqrt(dk)) - lambda softmax(Qa Kl' / sqrt(dk))) V, V = (Va + Vl) / 2.

    Both softmaxes see the same utterances; lambda is one learnable scalar. The first score is a plain dot
    product of the concatenated queries and keys, scaled by the width of one of them. The two inputs are audio and
    text, (2, B, U, D); returns (B, U, D).
    """

    def __init__(self, width: int, heads: int, lambda_init: float) -> None:
        super().__init__()
        self.heads = heads
        self.cache_width = 3 * width
        self.query_key_value = ParallelLinear(2, width, 3 * width, bias=False)
        self.lambda_ = nn.Parameter(torch.tensor(float(lambda_init)))

    def forward(self, pair_2BUD: Tensor, visible_B1UT: Tensor, cache: Cache | None = None) -> Tensor:
        query, key, value = self.query_key_value(pair_2BUD).chunk(3, dim=-1)
        kept = torch.cat((*key, value.mean(0)), dim=-1)
        kept = cache.extend(kept) if cache is not None else kept
        audio_key, text_key, value = parts_of(kept, 3, self.heads)
        audio_query, text_query = heads_of(query, self.heads).chunk(2, dim=1)
        within_BHUF = F.scaled_dot_product_attention(
            torch.cat((audio_query, text_query), dim=-1),
            torch.cat((audio_key, text_key), dim=-1),
            value,
            attn_mask=visible_B1UT,
            scale=audio_query.shape[-1] ** -0.5,
        )
        across_BHUF = F.scaled_dot_product_attention(audio_query, text_key, value, attn_mask=visible_B1UT)
        return blocks_of(within_BHUF - self.lambda_ * across_BHUF, 1)[0]
