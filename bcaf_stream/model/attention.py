"""Attention over the utterances of one dialogue (eq. 4-14): masks, blocks, and the cache of a live step.

The sequence axis is the dialogue. The paper gives one vector per utterance and modality, and attention over
a single key is the constant 1, so its queries and keys would never learn. There are no positional
encodings in the paper and none here; the cache stays in time order all the same. Heads have no output
projection, so that one head is the paper to the letter: the feed-forward layer mixes them. Projections of
the same input are one matrix (rows in the order of its name), because a live step is bound by memory and by
the number of calls.

Legend: B dialogues, U utterances that ask, T utterances that may be seen (U in a batch, `context` in a
step), K = context - 1 cached utterances, D width, H heads, F = D / H, W width of one cached row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def split_heads(x_BUD: Tensor, heads: int) -> Tensor:
    return x_BUD.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x_BHUF: Tensor) -> Tensor:
    return x_BHUF.transpose(1, 2).flatten(2)


def _projection(width: int, count: int = 1) -> nn.Linear:
    return nn.Linear(width, count * width, bias=False)


class AddNorm(nn.Module):
    """Residual, LayerNorm, feed-forward, residual, LayerNorm (eq. 5-6, 8-9, 11-12).

    Dropout acts on what each residual adds and inside the feed-forward layer.
    """

    def __init__(self, width: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.rise = nn.Linear(width, feed_forward)
        self.fall = nn.Linear(feed_forward, width)
        self.output_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, own_BUD: Tensor, found_BUD: Tensor) -> Tensor:
        hidden_BUD = self.attention_norm(own_BUD + self.dropout(found_BUD))
        change_BUD = self.fall(self.dropout(F.relu(self.rise(hidden_BUD))))
        return self.output_norm(hidden_BUD + self.dropout(change_BUD))


class AttentionBlock(nn.Module):
    """One self-attention block (eq. 4-6), or one cross-attention block (eq. 7-9, 10-12) with another asker.

    Keys, values and the residual belong to `own_BUD`; the queries come from `asking_BUD`, which is the same
    tensor for self-attention and the other modality for cross-attention.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.cache_width = 2 * width
        self.query, self.key_value = _projection(width), _projection(width, 2)
        self.add_norm = AddNorm(width, feed_forward, dropout)

    def forward(
        self, asking_BUD: Tensor, own_BUD: Tensor, visible_B1UT: Tensor, cache: Cache | None = None
    ) -> Tensor:
        kept = self.key_value(own_BUD)
        kept = cache.extend(kept) if cache is not None else kept
        query, key, value = (split_heads(x, self.heads) for x in (self.query(asking_BUD), *kept.chunk(2, dim=-1)))
        found_BHUF = F.scaled_dot_product_attention(query, key, value, attn_mask=visible_B1UT)
        return self.add_norm(own_BUD, join_heads(found_BHUF))


class JointAttention(nn.Module):
    """Eq. 13-14: (softmax((Qa Ka' + Ql Kl') / sqrt(dk)) - lambda softmax(Qa Kl' / sqrt(dk))) V, V = (Va + Vl) / 2.

    Both softmaxes see the same utterances; lambda is one learnable scalar. The first score is a plain dot
    product of the concatenated queries and keys, scaled by the width of one of them. Returns (B, U, D).
    """

    def __init__(self, width: int, heads: int, lambda_init: float) -> None:
        super().__init__()
        self.heads = heads
        self.cache_width = 3 * width
        self.audio_query_key_value, self.text_query_key_value = _projection(width, 3), _projection(width, 3)
        self.lambda_ = nn.Parameter(torch.tensor(float(lambda_init)))

    def forward(
        self, audio_BUD: Tensor, text_BUD: Tensor, visible_B1UT: Tensor, cache: Cache | None = None
    ) -> Tensor:
        audio_query, audio_key, audio_value = self.audio_query_key_value(audio_BUD).chunk(3, dim=-1)
        text_query, text_key, text_value = self.text_query_key_value(text_BUD).chunk(3, dim=-1)
        kept = torch.cat((audio_key, text_key, (audio_value + text_value) / 2), dim=-1)
        kept = cache.extend(kept) if cache is not None else kept
        audio_key, text_key, value = (split_heads(x, self.heads) for x in kept.chunk(3, dim=-1))
        audio_query, text_query = split_heads(audio_query, self.heads), split_heads(text_query, self.heads)
        within_BHUF = F.scaled_dot_product_attention(
            torch.cat((audio_query, text_query), dim=-1),
            torch.cat((audio_key, text_key), dim=-1),
            value,
            attn_mask=visible_B1UT,
            scale=audio_query.shape[-1] ** -0.5,
        )
        across_BHUF = F.scaled_dot_product_attention(audio_query, text_key, value, attn_mask=visible_B1UT)
        return join_heads(within_BHUF - self.lambda_ * across_BHUF)
