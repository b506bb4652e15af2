"""bc-LSTM, the baseline that BCAF is compared with: one LSTM over the dialogue's joined vectors.

Source: Poria et al. 2017, "Context-Dependent Sentiment Analysis in User-Generated Videos". There each modality
has an LSTM of its own before they are joined, trained apart; here the joined vectors go straight into one, as
papers on emotion in conversation use it. Offline it runs in both directions, causal in one.

It has one head, which stands for all three; a missing modality is a learned vector, as in BCAF. It is for
`fit`, `evaluate` and `ablate`: it has no step, because its state depends on the whole dialogue, and a live call
that moves to another process gets only the context's reach back.

Legend: B dialogues, U utterances, A / T widths of the audio and text encoders, D width, C classes.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.model.heads import IGNORED_LABEL, BCAFOutput, cross_entropy
from bcaf_stream.model.inputs import ModalityInput, presence


class BCLSTM(nn.Module):
    """The same inputs, outputs and loss as BCAF's; `width`, `layers`, `dropout` and `mode` of the config count."""

    def __init__(self, config: BCAFConfig) -> None:
        super().__init__()
        self.config = config
        self.identity = config.digest()
        D, both_ways = config.width, config.mode == "offline"
        self.audio_input = ModalityInput("audio", config.audio_width, D, config.standardize)
        self.text_input = ModalityInput("text", config.text_width, D, config.standardize)
        between = config.dropout if config.layers > 1 else 0.0
        self.lstm = nn.LSTM(2 * D, D, config.layers, batch_first=True, dropout=between, bidirectional=both_ways)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(D * (2 if both_ways else 1), config.classes)

    def forward(
        self,
        audio_BUA: Tensor,
        text_BUT: Tensor,
        mask_BU: Tensor,
        audio_present_BU: Tensor | None = None,
        text_present_BU: Tensor | None = None,
    ) -> BCAFOutput:
        """Whole dialogues; what mask_BU leaves out is skipped, wherever it stands. Presence None = all present."""
        mask_BU = mask_BU.bool()
        audio_present_BU, text_present_BU = presence(mask_BU, audio_present_BU, text_present_BU)
        inputs = (self.audio_input(audio_BUA, audio_present_BU), self.text_input(text_BUT, text_present_BU))
        order_BU = (~mask_BU).to(torch.int8).argsort(dim=1, stable=True)  # the utterances first, in their order
        joined_BUD = _along(self.dropout(torch.cat(inputs, -1)), order_BU)
        lengths_B = mask_BU.sum(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(joined_BUD, lengths_B, batch_first=True, enforce_sorted=False)
        found_BUD, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=mask_BU.shape[1])
        logits_BUC = self.head(self.dropout(_along(found_BUD, order_BU.argsort(dim=1))))
        return BCAFOutput(logits_BUC, logits_BUC, logits_BUC, audio_present_BU, text_present_BU, None)

    def loss(
        self, output: BCAFOutput, labels_BU: Tensor, mask_BU: Tensor, class_weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over the labelled utterances (-100 is none)."""
        labels_BU = labels_BU.masked_fill(~mask_BU.bool(), IGNORED_LABEL)
        total = cross_entropy(output.fused_BUC, labels_BU, mask_BU.bool(), class_weights)
        return total, {"total": total.detach(), "fused": total.detach()}


def _along(x_BUD: Tensor, order_BU: Tensor) -> Tensor:
    return x_BUD.gather(1, order_BU[..., None].expand_as(x_BUD))
