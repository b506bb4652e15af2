"""How much of some emotions a stretch of a call holds: mass, trend, sparkline and turning points.

A voice's anger is not a person's: every share here is of what the model read, weighted by speech.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from bcaf_stream.summary.said import NEGATIVE, Said

BINS = 24  # of a sparkline
TURN_SIDE = 3  # utterances on each side of a turning point
TURN_STEP = 0.3  # by which the negative mass must differ between them

Weight = Literal["speech", "utterances"]


def mass(
    said: Iterable[Said],
    from_ms: float,
    to_ms: float,
    emotions: Sequence[str] = NEGATIVE,
    weight: Weight = "speech",
) -> float | None:
    """Mean probability, from 0 to 1, of these emotions over what was judged between the two times.

    Each utterance weighs as much as its speech between them, or alike. None where nothing was judged.
    """
    total = found = 0.0
    for one in said:
        share = one.within_ms(from_ms, to_ms)
        if one.emotion is not None and share > 0:
            weighs = share if weight == "speech" else 1.0
            total += weighs
            found += weighs * one.mass(emotions)
    return found / total if total else None


def trend(
    said: Sequence[Said],
    from_ms: float,
    to_ms: float,
    emotions: Sequence[str] = NEGATIVE,
    weight: Weight = "speech",
) -> float | None:
    """The mass of the last quarter between the two times, less the mean of the quarters before; from -1 to 1.

    None where one of the two sides has nothing judged.
    """
    quarter = (to_ms - from_ms) / 4
    edges = [from_ms + quarter * n for n in range(5)]
    masses = [mass(said, a, b, emotions, weight) for a, b in pairwise(edges)]
    before = [one for one in masses[:3] if one is not None]
    return None if masses[3] is None or not before else masses[3] - sum(before) / len(before)


def sparkline(
    said: Sequence[Said], from_ms: float, to_ms: float, bins: int = BINS, emotions: Sequence[str] = NEGATIVE
) -> list[float | None]:
    """The mass in each of so many equal parts of the time, None where nothing was judged."""
    step = (to_ms - from_ms) / bins
    return [mass(said, from_ms + n * step, from_ms + (n + 1) * step, emotions) for n in range(bins)]


@dataclass(frozen=True, slots=True)
class TurningPoint:
    """The utterance from which on somebody's negative mass differs from what it was before it."""

    channel: str
    index: int
    at_ms: int
    before: float
    after: float


def turning_points(
    said: Sequence[Said], side: int = TURN_SIDE, step: float = TURN_STEP, emotions: Sequence[str] = NEGATIVE
) -> list[TurningPoint]:
    """Where the mass of the next `side` utterances of a channel differs by `step` from that of the last `side`.

    Of neighbours the one that differs most; in the order of time.
    """
    found: list[TurningPoint] = []
    for channel in dict.fromkeys(one.channel for one in said):
        own = [one for one in said if one.channel == channel and one.emotion is not None and not one.interim]
        own.sort(key=lambda one: (one.start_ms, one.index))
        points = []
        for n in range(side, len(own) - side + 1):
            before = _weighted(own[n - side : n], emotions)
            after = _weighted(own[n : n + side], emotions)
            if abs(after - before) >= step:
                points.append((n, TurningPoint(channel, own[n].index, own[n].start_ms, before, after)))
        points.sort(key=lambda point: -abs(point[1].after - point[1].before))
        taken: list[int] = []
        for n, point in points:
            if all(abs(n - other) >= side for other in taken):
                taken.append(n)
                found.append(point)
    return sorted(found, key=lambda point: (point.at_ms, point.channel))


def _weighted(said: Sequence[Said], emotions: Sequence[str]) -> float:
    value = mass(said, 0, float("inf"), emotions)
    if value is None:  # utterances of no length
        return sum(one.mass(emotions) for one in said) / len(said)
    return value
