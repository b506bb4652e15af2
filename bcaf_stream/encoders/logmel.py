"""Whisper's log-mel spectrogram, of an utterance at its own length.

Whisper pads every input to 30 s of silence; we do not. What that changes: only the last two frames of the
utterance, which see the signal mirrored instead of silence. The dynamic range is cut 8 decades below the
utterance's own maximum, which silence never moves, so the normalisation is the same with and without padding,
and the same in any batch.
"""

import torch
import torchaudio
from torch import Tensor, nn

from bcaf_stream.types import SAMPLE_RATE

WINDOW = 400  # samples, 25 ms
HOP = 160  # samples: one frame every 10 ms
MELS = 80
SHORTEST = 1600  # samples; shorter utterances are padded with zeros (mirroring needs more than WINDOW / 2)


class LogMel(nn.Module):
    """Mono float waves at 16 kHz (N samples) to (N // HOP, MELS) frames: log10 of the mel power, (x + 4) / 4."""

    window: Tensor  # (WINDOW,)
    filters: Tensor  # (WINDOW // 2 + 1, MELS)

    def __init__(self) -> None:
        super().__init__()
        filters_FM = torchaudio.functional.melscale_fbanks(
            n_freqs=WINDOW // 2 + 1,
            f_min=0.0,
            f_max=SAMPLE_RATE / 2,
            n_mels=MELS,
            sample_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", filters_FM, persistent=False)

    def forward(self, wave_N: Tensor) -> Tensor:
        if len(wave_N) < SHORTEST:
            wave_N = nn.functional.pad(wave_N, (0, SHORTEST - len(wave_N)))
        spectrum_FT = torch.stft(wave_N, WINDOW, HOP, window=self.window, return_complex=True)[:, :-1]
        power_TM = spectrum_FT.abs().square().T @ self.filters
        log_TM = power_TM.clamp(min=1e-10).log10()
        return (torch.maximum(log_TM, log_TM.max() - 8.0) + 4.0) / 4.0
