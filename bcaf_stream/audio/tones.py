"""Tones are no speech: keys (DTMF), dial, busy and ringing tones, announcements' three tones, fax and modems.

All of them are one or two sines that stay where they are. In speech the power is spread over the harmonics of a
voice, which moves: a vowel may look like a tone for a moment, a whole segment never does. So segments are judged
as a whole, and no table of each country's frequencies is needed.
"""

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.types import SAMPLE_RATE, PcmN

HOP = SAMPLE_RATE // 50  # 20 ms
WINDOW = 4 * HOP  # tells sines that are 40 Hz apart
SIZE = 2048  # of the transform: bins of 7.8 Hz
LOBE = 5  # bins on each side of a sine, as the window smears it
STEADY = 0.3  # bins by which a sine may seem to move from window to window
IN_SINES = 0.9  # share of a window's power in its two sines
LOUD = 0.05  # of the power of the loudest window: what is fainter is not looked at
TONAL = 0.7  # share of a segment's loud windows that are tones: of real speech 0.5 at most, of tones 0.89 at least

_HANN = np.hanning(WINDOW).astype(np.float32)


def are_tones(samples: PcmN) -> bool:
    """Whether a segment at SAMPLE_RATE holds tones and nothing else to speak of."""
    return tonal_share(samples) >= TONAL


def tonal_share(samples: PcmN) -> float:
    """The share of a segment's loud windows that hold one or two steady sines."""
    if len(samples) < 2 * WINDOW:
        return 0.0
    windows_FN = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power_FK = np.abs(np.fft.rfft(windows_FN * _HANN, SIZE, axis=1)) ** 2
    power_FK[:, :LOBE] = 0  # an offset
    total_F = power_FK.sum(1) + 1e-9
    first_F, first_share_F = _strongest(power_FK, total_F)
    second_F, second_share_F = _strongest(power_FK, total_F)
    # Beside one sine alone, the second strongest thing is noise, which may be anywhere.
    lone_F = second_share_F < (1 - IN_SINES) / 2
    low_F = np.where(lone_F, first_F, np.minimum(first_F, second_F))
    high_F = np.where(lone_F, first_F, np.maximum(first_F, second_F))
    pure_F = first_share_F + second_share_F >= IN_SINES
    still_F = (np.abs(np.diff(low_F)) <= STEADY) & (np.abs(np.diff(high_F)) <= STEADY) & pure_F[1:] & pure_F[:-1]
    steady_F = still_F[1:] & still_F[:-1]  # in three windows
    tonal_F = np.zeros(len(pure_F), bool)
    for shift in range(3):
        tonal_F[shift : len(tonal_F) - 2 + shift] |= steady_F
    loud_F = total_F >= LOUD * total_F.max()
    return float((tonal_F & loud_F).sum() / loud_F.sum())


def _strongest(
    power_FK: NDArray[np.float32], total_F: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Place (in bins) and share of the strongest sine of each window, which is taken out of `power_FK`."""
    rows_F1 = np.arange(len(power_FK))[:, None]
    peak_F = power_FK.argmax(1)
    at_FL = np.clip(peak_F[:, None] + np.arange(-LOBE, LOBE + 1), 0, power_FK.shape[1] - 1)
    lobe_FL = power_FK[rows_F1, at_FL]
    before_F, at_F, after_F = np.log(lobe_FL[:, LOBE - 1 : LOBE + 2].T + 1e-9)  # a parabola through its top
    bend_F = np.minimum(before_F - 2 * at_F + after_F, -1e-6)
    power_FK[rows_F1, at_FL] = 0
    return peak_F + np.clip((before_F - after_F) / (2 * bend_F), -1, 1), lobe_FL.sum(1) / total_F
