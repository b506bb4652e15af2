"""A linear path past the network: logistic regressions on the standardised vectors, a fourth head of the decision.

Not in the paper. On a few thousand vectors of a good encoder one linear layer is hard to beat, and it errs
elsewhere than a network over the dialogue does. So its log-probabilities stand beside those of the three heads in
the decision, whose weights are fitted on dev (decision.py). It is fitted on its own (`bcaf-train fit`), never by
the network's gradients: added to logits that are trained, it would be sure of every utterance of train, and leave
the network nothing to learn.

Legend: B dialogues, U utterances, A / T widths of the audio and text encoders, C classes; 3 is both, audio, text.
"""

import torch
from torch import Tensor, nn


class LinearPath(nn.Module):
    """One regression for each case of presence; all zeros (every class alike) until they are set."""

    both_CX: Tensor
    audio_CX: Tensor
    text_CX: Tensor
    bias_3C: Tensor

    def __init__(self, audio_width: int, text_width: int, classes: int) -> None:
        super().__init__()
        self.audio_width = audio_width
        self.register_buffer("both_CX", torch.zeros(classes, audio_width + text_width))
        self.register_buffer("audio_CX", torch.zeros(classes, audio_width))
        self.register_buffer("text_CX", torch.zeros(classes, text_width))
        self.register_buffer("bias_3C", torch.zeros(3, classes))

    def forward(
        self, audio_BUA: Tensor, text_BUT: Tensor, audio_present_BU: Tensor, text_present_BU: Tensor
    ) -> Tensor:
        """Logits (B, U, C) of standardised vectors, zeros where absent."""
        both_BU = (audio_present_BU & text_present_BU)[..., None]
        joined_BUC = torch.cat((audio_BUA, text_BUT), -1) @ self.both_CX.T + self.bias_3C[0]
        audio_BUC = audio_BUA @ self.audio_CX.T + self.bias_3C[1]
        text_BUC = text_BUT @ self.text_CX.T + self.bias_3C[2]
        return torch.where(both_BU, joined_BUC, torch.where(audio_present_BU[..., None], audio_BUC, text_BUC))
