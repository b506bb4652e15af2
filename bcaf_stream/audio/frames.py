"""The record between the voice activity decision and the segmenter; the grid on which both work."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.types import SAMPLE_RATE, PcmN

FRAME_MS = 20
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decided frame of FRAME_SAMPLES samples at SAMPLE_RATE; only a channel's last one may hold fewer.

    `level_db` is the frame's power in dB below full scale, `ended_at` the wall clock (unix ns) of its last
    sample, 0 where it is not known.
    """

    speech: bool
    level_db: float
    samples: PcmN
    ended_at: int = 0


def decimated(samples: PcmN) -> NDArray[np.float32]:
    """Sound at half of SAMPLE_RATE, in units of full scale; an odd last sample is left out."""
    whole = samples[: len(samples) // 2 * 2].astype(np.float32)
    return (whole[::2] + whole[1::2]) * np.float32(1 / 65536)
