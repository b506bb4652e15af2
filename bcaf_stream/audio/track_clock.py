"""Decoded blocks put where their time stamps say, on the clock of their file: a pure machine, without I/O.

Containers say when sound was, and decoders give what there is of it. The difference is one of these:

- a stamp that is ahead for good: sound is missing there, and silence takes its place;
- a stamp that is ahead for a moment (a packet that came late and was stamped on arrival): nothing is missing;
- a little, in all stamps for seconds (rounding, a clock that runs some parts per million faster than the
  sampling): the sound is stretched or squeezed by so much, at most one sample in a hundred;
- a clock that starts anew (two recordings in one file): what follows goes on where the one before ended.

So stream time stays within a few milliseconds of the file's clock however long it is, and not a sample is lost.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BlockCN = NDArray[np.int16]  # N samples of C channels

HOLE_S = 0.015  # less than the shortest packet; more than stamps are rounded by
DRIFT_S = 0.001
DRIFT_WINDOW_S = 2.0  # a difference that all stamps share for so long is no jitter
STRETCH = 100  # one sample in so many
BACK_S = 0.5  # a step back by more is a new clock
FORWARD_S = 6 * 3600.0  # and so is a leap by more
_NO_DRIFT = (float("inf"), float("-inf"))
LOOK_S = (0.1, 5.0)  # of sound beyond a jump, and at most, to see whether it lasts


@dataclass(frozen=True, slots=True)
class Silence:
    """So many samples that the file does not have; `late` at its beginning: the track starts after the file."""

    samples: int
    late: bool = False


class TrackClock:
    """Takes one track's blocks with their stamps; gives them back with the silence between them.

    Args:
        rate: of the sound, in Hz.
        zero_s: the stamp that is the beginning of the file.
    """

    def __init__(self, rate: int, zero_s: float | None = 0.0) -> None:
        self._rate = rate
        self._zero = zero_s
        self.reset()

    def reset(self) -> None:
        self.position = 0  # samples given out
        self.restarts: list[int] = []  # the positions where the clock started anew
        self._offset = 0.0  # of the clock since it last started anew, in samples
        self._waiting: deque[tuple[float | None, BlockCN]] = deque()  # (place by its stamp, block)
        self._held = 0  # samples waiting
        self._begun = False
        self._owed = 0  # samples by which the sound is to be stretched
        self._least, self._most = _NO_DRIFT  # what all stamps were ahead at least, since the window began
        self._judge_at = DRIFT_WINDOW_S * self._rate

    def push(self, time_s: float | None, block_CN: BlockCN) -> list[BlockCN | Silence]:
        """Take the next block, whose first sample has this stamp (None: it follows the last one)."""
        if time_s is not None and self._zero is None:
            self._zero = time_s
        at = None if time_s is None or self._zero is None else (time_s - self._zero) * self._rate
        if at is not None and self._begun and not self._waiting and not self._owed:  # nearly always
            ahead = at + self._offset - self.position
            if not self._jumps(ahead):
                self._follow(ahead)
                self.position += block_CN.shape[1]
                return [block_CN]
        self._waiting.append((at, block_CN))
        self._held += block_CN.shape[1]
        return self._place(final=False)

    def flush(self) -> list[BlockCN | Silence]:
        """Give back what waited to be understood."""
        return self._place(final=True)

    def close(self) -> None:
        self.reset()

    def restart(self) -> None:
        """The next block follows the last one, whatever its stamp: another file begins. Flush before."""
        self._zero = None
        self._offset = float(self.position)
        self._forget_drift()

    def _place(self, *, final: bool) -> list[BlockCN | Silence]:
        out: list[BlockCN | Silence] = []
        while self._waiting:
            at, block_CN = self._waiting[0]
            if at is not None:
                ahead = at + self._offset - self.position - self._owed
                if self._jumps(ahead):
                    if not final and self._held < self._look(ahead):
                        break
                    ahead = self._lasting(ahead)
                    if silence := self._bridge(ahead):
                        out.append(silence)
                else:
                    self._follow(ahead)
            self._waiting.popleft()
            self._held -= block_CN.shape[1]
            block_CN = self._stretched(block_CN)
            self.position += block_CN.shape[1]
            self._begun = True
            out.append(block_CN)
        return out

    def _jumps(self, ahead: float) -> bool:
        if not self._begun:
            return ahead >= 1
        return ahead >= HOLE_S * self._rate or ahead <= -BACK_S * self._rate

    def _look(self, ahead: float) -> float:
        """So much sound makes up for a jump that is none: as much as it is long, and a packet more."""
        return min(abs(ahead) + LOOK_S[0] * self._rate, LOOK_S[1] * self._rate)

    def _lasting(self, ahead: float) -> float:
        """What of a jump the stamps after it confirm."""
        expected, look = self.position + self._owed - self._offset, self._look(ahead)
        passed, lasting = 0, ahead
        for at, block_CN in self._waiting:
            if passed > look:
                break
            if at is not None:
                other = at - expected - passed
                lasting = min(lasting, other) if ahead > 0 else max(lasting, other)
            passed += block_CN.shape[1]
        return max(lasting, 0.0) if ahead > 0 else min(lasting, 0.0)

    def _bridge(self, ahead: float) -> Silence | None:
        """Act on a jump that lasts."""
        if not self._jumps(ahead):
            return None
        self._forget_drift()
        if ahead < 0 or ahead > FORWARD_S * self._rate:
            self._offset -= ahead
            self.restarts.append(self.position)
            return None
        silence = Silence(round(ahead), late=not self._begun)
        self.position += silence.samples
        return silence

    def _follow(self, ahead: float) -> None:
        """Learn of a drift from a stamp that fits otherwise."""
        if ahead < self._least:
            self._least = ahead
        if ahead > self._most:
            self._most = ahead
        if self.position < self._judge_at:
            return
        shared = self._least if self._least > 0 else min(self._most, 0.0)
        if abs(shared) >= DRIFT_S * self._rate:
            self._owed += round(shared)
        self._forget_drift()

    def _forget_drift(self) -> None:
        self._least, self._most = _NO_DRIFT
        self._judge_at = self.position + DRIFT_WINDOW_S * self._rate

    def _stretched(self, block_CN: BlockCN) -> BlockCN:
        """The block, longer or shorter by a part of what is owed."""
        count = block_CN.shape[1]
        most = -(-count // STRETCH)
        step = max(-most, min(most, self._owed))
        if not step:
            return block_CN
        self._owed -= step
        places = np.linspace(0, count - 1, count + step)
        return np.stack([np.rint(np.interp(places, np.arange(count), row)) for row in block_CN]).astype(np.int16)
