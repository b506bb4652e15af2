"""Noise in which speech cannot be told: silence in the events must not look like silence in the call.

Down to 0 dB the voice activity detector finds nine tenths of the frames of speech in white or pink noise, at
-10 dB nearly none. Where a channel is loud and even for a while and nobody is heard in it, that is said once.
"""

from collections.abc import Iterable

from bcaf_stream.audio.frames import FRAME_MS, Frame

WINDOW = 500  # frames: 10 s
FLOOR_DB = -40.0  # full scale; real calls stay below -50
EVEN_DB = 10.0  # between the faint and the loud frames of noise, speech in it included
HEARD = 0.02  # share of frames that are speech


class NoiseWatch:
    """Looks at one channel's decided frames, window after window; remembers when it first was too noisy."""

    def __init__(self) -> None:
        self.too_noisy_ms: int | None = None  # stream time at the end of that window
        self._frames = 0
        self._levels: list[float] = []
        self._heard = 0

    def push(self, frames: Iterable[Frame]) -> None:
        if self.too_noisy_ms is not None:
            return
        for frame in frames:
            self._levels.append(frame.level_db)
            self._heard += frame.speech
            if len(self._levels) == WINDOW and self._judge():
                return

    def skip(self, frames: int) -> None:
        """Let time pass without sound: a new window begins."""
        self._frames += len(self._levels) + frames
        self._levels, self._heard = [], 0

    def _judge(self) -> bool:
        self._frames += WINDOW
        levels = sorted(self._levels)
        floor_db, loud_db = levels[WINDOW // 10], levels[WINDOW * 95 // 100]
        if floor_db > FLOOR_DB and loud_db - floor_db < EVEN_DB and self._heard < HEARD * WINDOW:
            self.too_noisy_ms = self._frames * FRAME_MS
        self._levels, self._heard = [], 0
        return self.too_noisy_ms is not None
