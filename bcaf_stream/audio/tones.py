"""Tones are no speech: keys (DTMF), dial, busy and ringing tones, announcements' three tones, fax and modems.

All of them are one or two sines that stay where they are, perhaps in noise. In speech the power is spread over
the harmonics of a voice, which moves: a vowel may look like a tone for a moment, a whole segment never does. So
segments are judged as a whole, and no table of each country's frequencies is needed. It is cheap: speech is known
before half of a segment has been looked at.

Shape letters: F windows, N samples of one, K bins, L bins around a sine.
"""

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.frames import decimated
from bcaf_stream.types import SAMPLE_RATE, PcmN

RATE = SAMPLE_RATE // 2
HOP = RATE // 50  # 20 ms
HOPS = 4  # of a window: tells sines that are 40 Hz apart
WINDOW = HOPS * HOP
SIZE = 1024  # of the transform: bins of 7.8 Hz
LOBE = 5  # bins on each side of a sine, as the window smears it
STEADY = 0.3  # bins by which a sine may seem to move from window to window
ALIKE = 3  # windows in which it must not
IN_SINES = 0.9  # share of a window's power in its two sines, without that of an even noise around them,
IN_ALL = 0.4  # and with it
LOUD = 0.05  # of the power of the loudest window: what is fainter is not looked at,
ABOVE_NOISE = 1.5  # nor what has hardly more than the faintest
TONAL = 0.7  # share of a segment's loud windows that are tones: of 320 segments of real speech 0.6 at most
BLOCK = 25  # windows that are looked at together

_HANN = np.hanning(WINDOW).astype(np.float32)
_HOP_WEIGHTS = (_HANN**2).reshape(HOPS, HOP).sum(1)


def are_tones(samples: PcmN) -> bool:
    """Whether a segment at SAMPLE_RATE holds tones and nothing else to speak of."""
    return tonal_share(samples, TONAL) >= TONAL


def tonal_share(samples: PcmN, least: float = 0.0) -> float:
    """The share of a segment's loud windows that hold one or two steady sines; 0 where it is below `least`."""
    sound = decimated(samples)
    if len(sound) < 2 * WINDOW:
        return 0.0
    windows_FN = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
    loud_F = _loud(sound, len(windows_FN))
    if not loud_F.any():
        return 0.0
    spare = (1 - least) * float(loud_F.sum())
    for begin in range(0, len(windows_FN), BLOCK):
        first, last = max(0, begin - ALIKE + 1), begin + BLOCK + ALIKE - 1
        tonal_F = _tonal(windows_FN[first:last])[begin - first : begin - first + BLOCK]
        spare -= float((loud_F[begin : begin + BLOCK] & ~tonal_F).sum())
        if spare < 0:
            return 0.0
    return least + spare / float(loud_F.sum())


def _loud(sound: NDArray[np.float32], windows: int) -> NDArray[np.bool_]:
    """Which windows are loud enough to count, by their power without an offset."""
    hops_FN = sound[: (windows + HOPS - 1) * HOP].reshape(-1, HOP)
    power_F = np.convolve(hops_FN.var(1), _HOP_WEIGHTS, "valid")
    loudest = float(power_F.max())
    noise = float(np.quantile(power_F, 0.1)) * ABOVE_NOISE
    return power_F >= max(LOUD * loudest, noise if noise * ABOVE_NOISE < loudest else 0.0, 1e-12)


def _tonal(windows_FN: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which windows hold one or two sines that stand still in ALIKE windows."""
    power_FK = np.abs(np.fft.rfft(windows_FN * _HANN, SIZE, axis=1)) ** 2
    power_FK[:, :LOBE] = 0  # an offset
    total_F = power_FK.sum(1) + np.float32(1e-12)
    first_F, first_share_F = _strongest(power_FK, total_F)
    second_F, second_share_F = _strongest(power_FK, total_F)
    # Beside one sine alone, the second strongest thing is noise, which may be anywhere.
    lone_F = second_share_F < (1 - IN_SINES) / 2
    low_F = np.where(lone_F, first_F, np.minimum(first_F, second_F))
    high_F = np.where(lone_F, first_F, np.maximum(first_F, second_F))
    sines_F = first_share_F + second_share_F
    # White noise has ln 2 of its mean in the middle bin; a voice, whose strong bins are few, next to nothing.
    noise_F = np.minimum(np.median(power_FK, axis=1) / np.log(2) * power_FK.shape[1] / total_F, 1 - IN_ALL)
    pure_F = (sines_F >= IN_SINES * (1 - noise_F)) & (sines_F >= IN_ALL)
    still_F = (np.abs(np.diff(low_F)) <= STEADY) & (np.abs(np.diff(high_F)) <= STEADY) & pure_F[1:] & pure_F[:-1]
    steady_F = still_F[1:] & still_F[:-1]
    tonal_F = np.zeros(len(pure_F), bool)
    for shift in range(ALIKE):
        tonal_F[shift : len(tonal_F) - ALIKE + 1 + shift] |= steady_F
    return tonal_F


def _strongest(
    power_FK: NDArray[np.float32], total_F: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Place (in bins) and share of the strongest sine of each window, which is taken out of `power_FK`."""
    rows_F1 = np.arange(len(power_FK))[:, None]
    peak_F = power_FK.argmax(1)
    at_FL = np.clip(peak_F[:, None] + np.arange(-LOBE, LOBE + 1), 0, power_FK.shape[1] - 1)
    lobe_FL = power_FK[rows_F1, at_FL]
    before_F, at_F, after_F = np.log(lobe_FL[:, LOBE - 1 : LOBE + 2].T + 1e-18)  # a parabola through its top
    bend_F = np.minimum(before_F - 2 * at_F + after_F, -1e-6)
    power_FK[rows_F1, at_FL] = 0
    return peak_F + np.clip((before_F - after_F) / (2 * bend_F), -1, 1), lobe_FL.sum(1) / total_F
