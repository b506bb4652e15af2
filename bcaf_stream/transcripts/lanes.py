"""The sound of one channel cut between the speakers whom its transcript tells apart: a lane for each of them.

Every sample belongs to exactly one lane, and the others have silence for it, so that nothing is heard twice or
lost: while two speak at once, the sound is that of who began last; between two turns the cut lies in the quietest
moment, for the times of a transcript are seldom exact. Speech that the transcript gives nobody has a lane too.
"""

import heapq
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bcaf_stream.types import AudioChunk, PcmN, Words

SAME_TURN_MS = 700  # a longer pause between two words ends a speaker's turn
REACH_MS = 200  # how far from its place by the times a cut may lie
FAR_MS = 1000  # from every turn: half of it may still belong to the turn, for nobody times a transcript exactly
LISTENED_MS = 40  # over this long a moment is quiet


class Turn(NamedTuple):
    start_ms: int
    end_ms: int
    lane: str


class Cut(NamedTuple):
    """From somewhere in [from_ms, to_ms] on, the sound belongs to `lane`."""

    from_ms: int
    to_ms: int
    lane: str


def cuts_between(words: Iterable[Words], rest: str) -> list[Cut]:
    """Where the sound passes from one lane to another, in order; the first one begins it.

    What lies far from every turn belongs to the lane `rest`: nobody knows who speaks there. Words without a
    channel have no say.
    """
    owned = _with_rest(_owned(_turns(words)), rest)
    cuts = [Cut(0, 0, owned[0].lane)]
    for before, after in pairwise(owned):
        if before.lane != after.lane:
            middle = (before.end_ms + after.start_ms) // 2
            earliest = max(middle - REACH_MS, (before.start_ms + before.end_ms) // 2, cuts[-1].to_ms)
            latest = min(middle + REACH_MS, (after.start_ms + after.end_ms) // 2)
            cuts.append(Cut(min(earliest, middle), max(latest, earliest, middle), after.lane))
    return cuts


def _with_rest(owned: Sequence[Turn], rest: str) -> list[Turn]:
    """The same with what lies between the turns, where it is long; the last one has no end."""
    done: list[Turn] = []
    end_ms = 0
    for turn in owned:
        begin = end_ms + FAR_MS if done else 0
        if turn.start_ms - FAR_MS > begin:
            done.append(Turn(begin, turn.start_ms - FAR_MS, rest))
        done.append(turn)
        end_ms = turn.end_ms
    begin = end_ms + FAR_MS if done else 0
    return [*done, Turn(begin, begin + 2 * FAR_MS, rest)]


def _turns(words: Iterable[Words]) -> list[Turn]:
    """What each speaker says without a long pause."""
    done: list[Turn] = []
    latest: dict[str, Turn] = {}
    for word in sorted(words, key=lambda w: w.start_ms):
        if word.channel is None:
            continue
        turn = latest.get(word.channel)
        if turn is not None and word.start_ms - turn.end_ms <= SAME_TURN_MS:
            latest[word.channel] = turn._replace(end_ms=max(turn.end_ms, word.end_ms))
            continue
        done += [turn] if turn else []
        latest[word.channel] = Turn(word.start_ms, word.end_ms, word.channel)
    return sorted([*done, *latest.values()])


def _owned(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without their overlaps: where several go on, the one that began last."""
    times = sorted({time for turn in turns for time in (turn.start_ms, turn.end_ms)})
    going: list[tuple[int, int, Turn]] = []
    coming = iter([*enumerate(turns), (len(turns), None)])
    number, following = next(coming)
    owned: list[Turn] = []
    for start, end in pairwise(times):
        while following is not None and following.start_ms <= start:
            heapq.heappush(going, (-following.start_ms, -number, following))
            number, following = next(coming)
        while going and going[0][2].end_ms <= start:
            heapq.heappop(going)
        if not going:
            continue
        lane = going[0][2].lane
        if owned and owned[-1].lane == lane and owned[-1].end_ms == start:
            owned[-1] = owned[-1]._replace(end_ms=end)
        else:
            owned.append(Turn(start, end, lane))
    return owned


class LaneCutter:
    """Deals one channel's sound out to lanes: chunks in, a chunk for each lane out, in step.

    Args:
        lanes: their names, in the order of their chunks.
        cuts: from `cuts_between`, at least one.
    """

    def __init__(self, lanes: Sequence[str], cuts: Sequence[Cut]) -> None:
        self._lanes = list(lanes)
        self._cuts = list(cuts)
        self._current = cuts[0].lane
        self._next = 1  # cut
        self._start = 0  # of what is kept
        self._kept = np.zeros(0, np.int16)
        self._rate = 0
        self._received_at = 0

    def push(self, chunk: AudioChunk) -> list[AudioChunk]:
        """Take consecutive sound; return what is decided by it."""
        self._rate, self._received_at = chunk.rate, chunk.received_at
        self._kept = np.concatenate([self._kept, chunk.samples])
        return self._deal(at_end=False)

    def flush(self) -> list[AudioChunk]:
        """The sound is over: return the rest."""
        return self._deal(at_end=True) + self._take(len(self._kept))

    def _deal(self, *, at_end: bool) -> list[AudioChunk]:
        dealt: list[AudioChunk] = []
        while self._next < len(self._cuts):
            cut = self._cuts[self._next]
            first, last = (ms * self._rate // 1000 - self._start for ms in (cut.from_ms, cut.to_ms))
            if len(self._kept) < last and not (at_end and first < len(self._kept)):
                return dealt + self._take(min(len(self._kept), max(0, first)))
            dealt += self._take(_quietest(self._kept, max(0, first), max(0, last), self._rate))
            self._current = cut.lane
            self._next += 1
        return dealt + self._take(len(self._kept))

    def _take(self, count: int) -> list[AudioChunk]:
        if count <= 0:
            return []
        taken, self._kept = self._kept[:count], self._kept[count:]
        start, self._start = self._start, self._start + count
        silence = np.zeros(count, np.int16)
        return [
            AudioChunk(lane, start, self._rate, taken if lane == self._current else silence, self._received_at)
            for lane in self._lanes
        ]


def _quietest(samples_N: PcmN, first: int, last: int, rate: int) -> int:
    """The middle of the quietest moment from `first` to `last`; of equal ones the middle one."""
    width = max(1, LISTENED_MS * rate // 1000)
    searched = samples_N[first:last].astype(np.float64)
    if len(searched) <= width:
        return min((first + last) // 2, len(samples_N))
    power = np.concatenate([[0.0], np.cumsum(searched**2)])
    levels = power[width:] - power[:-width]
    quiet = np.flatnonzero(levels <= levels.min() + width)  # one step of int16 is no sound
    return first + width // 2 + int(quiet[np.argmin(np.abs(quiet - (len(levels) - 1) // 2))])
