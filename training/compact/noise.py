"""What calls do to sound and recognisers do to words, for training: both random, both from one generator.

Sound: speed, crop, other voices or noise, level, 8 kHz mu-law (half of it through a telephone's band). Words: no
punctuation, some words lost.
"""

import math
import random
import re
from collections.abc import Sequence

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor

from bcaf_stream.types import SAMPLE_RATE

TELEPHONE = 8_000  # Hz
SPEEDS = (88, 92, 96, 104, 108, 112)  # per cent
LONGEST = 64_000  # samples of a training clip, 4 s


class Telephone:
    """16 kHz sound as a telephone would have it: 8 kHz, 8 bit mu-law (G.711), back at 16 kHz."""

    def __init__(self) -> None:
        self._down = torchaudio.transforms.Resample(SAMPLE_RATE, TELEPHONE)
        self._up = torchaudio.transforms.Resample(TELEPHONE, SAMPLE_RATE)

    def __call__(self, wave_N: Tensor, band: bool = False) -> Tensor:
        """`band` takes away what lies below 300 Hz, too."""
        wave_N = self._down(wave_N).clamp(-1, 1)
        if band:
            wave_N = torchaudio.functional.highpass_biquad(wave_N, TELEPHONE, 300.0)
        code_N = torchaudio.functional.mu_law_encoding(wave_N, 256)
        return self._up(torchaudio.functional.mu_law_decoding(code_N, 256))


class SoundSpoiler:
    """Random spoiling of clips; `voices` are other clips (float waves) to be heard in the background."""

    def __init__(self, voices: Sequence[Tensor], seed: int) -> None:
        self._voices = voices
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._telephone = Telephone()
        self._speeds = [torchaudio.transforms.Resample(speed, 100) for speed in SPEEDS]

    def __call__(self, wave_N: Tensor, speech: tuple[int, int]) -> Tensor:
        """`speech`: first and last sample with sound; a quarter of the clips keep their silent ends."""
        chance = self._random.random
        if chance() < 0.75:
            first, last = speech
            first = max(0, first - self._random.randint(0, 4000))
            wave_N = wave_N[first : last + self._random.randint(1, 6000)]
        if chance() < 0.4:
            wave_N = self._random.choice(self._speeds)(wave_N)
        wave_N = self._crop(wave_N[:LONGEST])
        if chance() < 0.45:
            wave_N = self._with_noise(wave_N)
        if chance() < 0.7:
            wave_N = wave_N * 10 ** (self._random.uniform(-22, 8) / 20)
        if chance() < 0.5:
            wave_N = self._telephone(wave_N, band=chance() < 0.5)
        return wave_N.clamp(-1, 1)

    def _crop(self, wave_N: Tensor) -> Tensor:
        if len(wave_N) <= 2 * SAMPLE_RATE or self._random.random() >= 0.3:
            return wave_N
        length = self._random.randint(24_000, len(wave_N))
        start = self._random.randint(0, len(wave_N) - length)
        return wave_N[start : start + length]

    def _with_noise(self, wave_N: Tensor) -> Tensor:
        kind = self._random.random()
        if kind < 0.45:
            voice_N = self._random.choice(self._voices)
            noise_N = voice_N.repeat(math.ceil(len(wave_N) / len(voice_N)))[: len(wave_N)]
        else:
            noise_N = torch.randn(len(wave_N), generator=self._generator)
            if kind > 0.75:  # pink: half the energy per doubling of the frequency
                spectrum_F = torch.fft.rfft(noise_N)
                slope_F = torch.arange(1, len(spectrum_F) + 1).sqrt()
                noise_N = torch.fft.irfft(spectrum_F / slope_F, n=len(wave_N))
        snr_db = self._random.uniform(8, 30)
        power = wave_N.square().mean() / (noise_N.square().mean() + 1e-9) * 10 ** (-snr_db / 10)
        return wave_N + noise_N * power.sqrt()


def spoil_text(text: str, rng: random.Random, share: float) -> str:
    """With chance `share`: without punctuation (3 of 5), and every second time with a tenth of the words lost."""
    if rng.random() >= share:
        return text
    if rng.random() < 0.6:
        text = re.sub(r"[^\w\s']", " ", text)
    words = text.split()
    if rng.random() < 0.5 and len(words) > 2:
        words = [word for word in words if rng.random() > 0.1] or words
    return " ".join(words)


def float_wave(samples_N: NDArray[np.int16]) -> Tensor:
    return torch.from_numpy(samples_N.astype(np.float32) / 32768)


def speech_of(samples_N: NDArray[np.int16]) -> tuple[int, int]:
    """First and last sample louder than 3 % of the loudest 25 ms."""
    loudness_N = np.sqrt(np.convolve(samples_N.astype(np.float32) ** 2, np.full(400, 1 / 400), "same"))
    loud = np.flatnonzero(loudness_N > max(0.03 * loudness_N.max(), 1.0))
    return (int(loud[0]), int(loud[-1])) if len(loud) else (0, len(samples_N))
