"""Pieces of one channel in any order -> contiguous chunks and gaps; for protocols that say where a piece belongs.

A piece carries a position on the sender's clock and, mostly, a number. The number gives the order and says
whether something is missing; the position says how long what is missing was. What has not come although
later sound of the call is `wait` samples past it is given up, and what comes after that is late.
"""

from bisect import insort
from dataclasses import dataclass

import numpy as np

from bcaf_stream.types import AudioChunk, Gap, PcmN

LOST = "lost"
SILENT = "nothing sent"
NOT_STARTED = "not started"
DISCONNECTED = "connection lost"
JITTER_MS = 60  # by how much a sender's clock may deviate while its numbers show that nothing is missing
IDLE_MS = 200  # a track that is silent for longer than `wait` and this is said to be silent
MAX_WAITING = 1000  # pieces; more than a bound of 10 s ever needs
MAX_WAITING_S = 30  # of sound in them


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Samples of a track, placed by the sender; `order` is its number, or its position where it has none."""

    order: int
    position: int
    samples: PcmN
    received_at: int
    numbered: bool = True

    @property
    def end(self) -> int:
        return self.position + len(self.samples)


class Track:
    """One channel of a call; `late` counts pieces that came twice, or after they were given up.

    Args:
        before: why nothing has come before its first sound.
    """

    def __init__(self, channel: str, rate: int, before: str = NOT_STARTED) -> None:
        self._channel = channel
        self._rate = rate
        self._before = before
        self._waiting: list[Piece] = []
        self._held = 0  # samples in them
        self._last = -1  # the order of the piece that was given out last
        self._filled_to = 0  # up to here the time of the channel has passed without its sound
        self.end = 0
        self.late = 0

    def push(self, piece: Piece) -> None:
        """Take a piece; `release` gives out what can be given out."""
        known = any(other.order == piece.order for other in self._waiting)
        if known or piece.order <= self._last or piece.end <= self._filled_to:
            self.late += 1
        elif len(piece.samples):
            insort(self._waiting, piece, key=lambda waiting: waiting.order)
            self._held += len(piece.samples)

    def release(self, horizon: int, now: int) -> list[AudioChunk | Gap]:
        """What continues the channel; all that is missing before `horizon` is given up.

        Args:
            now: wall clock (unix ns) at which silence was received, as it were.
        """
        items: list[AudioChunk | Gap] = []
        while self._waiting and self._is_due(self._waiting[0], horizon):
            items += self._take(self._waiting.pop(0))
        return items if self._waiting else items + self._fill(horizon, now)

    @property
    def expected(self) -> int:
        """Where a piece belongs whose sender does not say."""
        return max(self.end, self._waiting[-1].end) if self._waiting else self.end

    def flush(self, now: int) -> list[AudioChunk | Gap]:
        """All that is still here."""
        return self.release(self._waiting[-1].position, now) if self._waiting else []

    def _follows(self, piece: Piece) -> bool:
        return piece.numbered and piece.order == self._last + 1

    def _is_due(self, piece: Piece, horizon: int) -> bool:
        continues = self._follows(piece) or piece.position - self.end <= self._tolerance(piece)
        full = len(self._waiting) > MAX_WAITING or self._held > MAX_WAITING_S * self._rate
        return continues or piece.position <= horizon or full

    def _tolerance(self, piece: Piece) -> int:
        if self._follows(piece):
            return JITTER_MS * self._rate // 1000
        return max(len(piece.samples) // 2, self._rate // 1000)  # positions are told in whole milliseconds

    def _take(self, piece: Piece) -> list[AudioChunk | Gap]:
        items: list[AudioChunk | Gap] = []
        samples = piece.samples
        self._held -= len(samples)
        if piece.position - self.end > self._tolerance(piece):
            items.append(Gap(self._channel, self.end, piece.position, self._reason(piece)))
            self.end = piece.position
        # Overlaps are the sender's jitter and all of it is sound, unless the time was given up already.
        samples = samples[max(0, self._filled_to - piece.position) :] if self._filled_to else samples
        items.append(AudioChunk(self._channel, self.end, self._rate, samples, piece.received_at))
        self.end += len(samples)
        self._last = piece.order
        self._filled_to = 0
        return items

    def _reason(self, piece: Piece) -> str:
        if self._last < 0:
            return self._before
        return SILENT if self._follows(piece) else LOST

    def _fill(self, limit: int, now: int) -> list[AudioChunk | Gap]:
        """Time passes without the channel while others speak: a gap says so once, silence goes on after it."""
        missing_ms = (limit - self.end) * 1000 // self._rate
        begun = self._filled_to > 0
        if missing_ms < (20 if begun else IDLE_MS):
            return []
        start, self.end, self._filled_to = self.end, limit, limit
        if begun and missing_ms <= 1000:
            return [AudioChunk(self._channel, start, self._rate, np.zeros(limit - start, np.int16), now)]
        return [Gap(self._channel, start, limit, self._before if self._last < 0 else SILENT)]
