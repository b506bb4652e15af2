"""Who says a cue that names no channel: the channel whose speech fits it, decided once and for the whole cue.

A channel covers a share of the cue's time, and the cue is a share of the speech that covers it. Both count: a
whole turn covers what the other side says meanwhile, but a short "mhm" fits its own cue better than the turn does;
and the last word of the other side covers little of the cue that begins in it. Only where both sides say a good
part of a cue alone (a paragraph of a recogniser that tells no speakers apart) it is divided between them, word by
word; likewise where the words have times of their own.

The decision depends on stream time and on the segments closed by then, not on what arrived first: it falls
SETTLED_MS after the end of the cue if some channel covers half of it by then, else with the segment that does; at
the latest when the longest segment must have been closed.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bcaf_stream.types import SpeechSegment

SETTLED_MS = 1000  # by then speech that ended with the cue is closed
GIVEN_UP_MS = 15_000  # no segment is longer
HALF = 0.5  # of a cue must be covered by who is to have said it
OWN_SHARE, OWN_MS = 0.3, 1000  # of a cue said by each side alone, so that it is divided
REMEMBERED = 128  # segments


class Moment(NamedTuple):
    """One word at the middle of its time; `order` is its place among all words that were added.

    `cue` is the id of the cue that it came with; `until_ms` the end of a cue that named no channel.
    """

    middle_ms: float
    order: int
    text: str
    cue: str | None = None
    until_ms: float | None = None


@dataclass(slots=True)
class UnlabelledCue:
    """Words of an unknown channel; `timed` where each has its own time, and so is no guess.

    Nothing can be said of it before `undecided_to_ms`, unless another segment than the first `segments` is known.
    """

    start_ms: float
    end_ms: float
    moments: list[Moment]
    timed: bool = False
    undecided_to_ms: float = 0.0
    segments: int = -1


class Span(NamedTuple):
    start_ms: int
    end_ms: int
    closed_ms: int
    channel: str


class CueAttribution:
    """Knows the last segments of a call; decides cues by them.

    Args:
        channels: in the order in which ties are resolved.
        tolerance_ms: how far from all speech a cue may lie.
    """

    def __init__(self, channels: Sequence[str], tolerance_ms: int) -> None:
        self._channels = list(channels)
        self._tolerance_ms = tolerance_ms
        self._spans: deque[Span] = deque(maxlen=REMEMBERED)
        self._entered = 0

    def enter(self, segment: SpeechSegment) -> None:
        """Take the next segment, in segment order."""
        self._entered += 1
        self._spans.append(Span(segment.start_ms, segment.end_ms, segment.closed_ms, segment.channel))

    def decide(self, cue: UnlabelledCue, now_ms: float) -> list[str | None] | None:
        """The channel of each word (None: nobody's); None where it is too early to say."""
        if now_ms < cue.end_ms + SETTLED_MS or (cue.segments == self._entered and now_ms < cue.undecided_to_ms):
            return None
        reach = self._tolerance_ms
        near = [s for s in self._spans if s.start_ms < cue.end_ms + reach and s.end_ms > cue.start_ms - reach]
        last = cue.end_ms + GIVEN_UP_MS
        decisions = sorted({cue.end_ms + SETTLED_MS, *(s.closed_ms for s in near), last})
        for at_ms in decisions:
            if cue.end_ms + SETTLED_MS <= at_ms <= min(now_ms, last):
                known = [s for s in near if s.closed_ms <= at_ms]
                covered = self._covered(cue, known)
                if covered and (at_ms == last or max(covered.values()) >= HALF):
                    return self._attributed(cue, known, covered)
        if now_ms < last:
            cue.segments, cue.undecided_to_ms = self._entered, min(at for at in decisions if at > now_ms)
            return None
        nearest = min(near, key=lambda s: _distance(s, (cue.start_ms + cue.end_ms) / 2), default=None)
        return [nearest.channel if nearest else None] * len(cue.moments)

    def guess(self, cue: UnlabelledCue) -> list[str | None] | None:
        """The same with what is known now, for who cannot wait; None where nobody has said half of it."""
        known = [s for s in self._spans if _overlap(s, cue.start_ms, cue.end_ms + 1)]
        covered = self._covered(cue, known)
        return self._attributed(cue, known, covered) if max(covered.values(), default=0) >= HALF else None

    def _covered(self, cue: UnlabelledCue, spans: Sequence[Span]) -> dict[str, float]:
        """The share of the cue that each channel covers, of those that cover any."""
        length = max(1.0, cue.end_ms - cue.start_ms)
        shares = {}
        for channel in self._channels:
            own = [s for s in spans if s.channel == channel]
            overlap = sum(_overlap(s, cue.start_ms, cue.start_ms + length) for s in own)
            if overlap > 0:
                shares[channel] = overlap / length
        return shares

    def _attributed(
        self, cue: UnlabelledCue, spans: Sequence[Span], covered: dict[str, float]
    ) -> list[str | None]:
        length = max(1.0, cue.end_ms - cue.start_ms)

        def fit(channel: str) -> float:
            own = [s for s in spans if s.channel == channel and _overlap(s, cue.start_ms, cue.start_ms + length)]
            return covered[channel] * math.sqrt(
                covered[channel] * length / sum(s.end_ms - s.start_ms for s in own)
            )

        winner = max(covered, key=fit)
        alone = [self._alone(cue, spans, channel) for channel in covered]
        both = sum(own >= max(OWN_MS, OWN_SHARE * length) for own in alone) > 1
        if not both and not cue.timed:
            return [winner] * len(cue.moments)
        said: list[str | None] = []
        for moment in cue.moments:
            now = {s.channel for s in spans if s.start_ms <= moment.middle_ms < s.end_ms}
            if not now and both:
                now = {min(spans, key=lambda s: _distance(s, moment.middle_ms)).channel}
            said.append(now.pop() if len(now) == 1 else winner)
        return said

    def _alone(self, cue: UnlabelledCue, spans: Sequence[Span], channel: str) -> float:
        """How long the channel speaks in the cue while no other does, in ms."""
        total = 0.0
        for own in (s for s in spans if s.channel == channel):
            start, end = max(cue.start_ms, own.start_ms), min(cue.end_ms, own.end_ms)
            others = sum(_overlap(s, start, end) for s in spans if s.channel != channel)
            total += max(0.0, end - start - others)
        return total


def _overlap(span: Span, start_ms: float, end_ms: float) -> float:
    return max(0.0, min(span.end_ms, end_ms) - max(span.start_ms, start_ms))


def _distance(span: Span, at_ms: float) -> float:
    return max(span.start_ms - at_ms, at_ms - span.end_ms, 0)
