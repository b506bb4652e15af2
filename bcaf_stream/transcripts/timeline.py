"""Words waiting for the speech they were said in; decides which segment gets which word, without the future.

A cue is spread over its time, so that every word has a moment (the middle of its share). A segment's zone is
half-open and zones of one channel never overlap, so a word falls in exactly one segment:

    from  start - tolerance, but not before the previous segment's zone has ended
    to    end + half of the silence that closed it, at most the tolerance; to the end itself where it was split

Silence before a segment belongs to it further than silence behind it, because the next segment of the channel
could begin right after the closing silence, and is not known yet when this one goes out.

A cue without a channel goes, word by word, to the first segment in segment order that covers at least half of
what has passed of it: so a cue that runs through both sides' turns is divided between them, and a short "mhm" of
one side does not take the words out of the middle of the other's sentence. A cue that no speech covers goes to
the next segment that begins within the tolerance.

Words that come too late, or are replaced by a later version of their cue (the same id), change segments that have
been claimed already; the last `remember` of them are kept for this. An unlabelled version goes where its words
were.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from bcaf_stream.types import SpeechSegment, Words

# A cue may stay on the screen after its last word; slower than this nobody speaks (usual: 60 to 90 ms a letter).
SLOWEST_MS_PER_CHAR = 120


Key = tuple[str, int]  # channel and index of a segment


class Moment(NamedTuple):
    """One word at the middle of its time; `order` is its place among all words that were added."""

    middle_ms: float
    order: int
    text: str
    cue: str | None = None  # the id of the cue that it came with


@dataclass(slots=True)
class LooseCue:
    """What is left of a cue of unknown channel; `touched` where some segment has covered a part of it."""

    start_ms: float
    end_ms: float
    moments: list[Moment]
    touched: bool = False


class Zone(NamedTuple):
    """The stretch of a channel, [from_ms, to_ms), whose words belong to one segment."""

    from_ms: float
    to_ms: float


class Claimed(NamedTuple):
    """What a segment that is out has got."""

    zone: Zone
    moments: list[Moment]


def spread(cue: Words, first_order: int = 0) -> tuple[int, list[Moment]]:
    """Give each word of a cue its moment, by linear interpolation over the letters.

    Returns:
        The end of the cue's speech in ms (before the cue's end, if it lasts longer than its words can), and
        the words in order.
    """
    tokens = cue.text.split()
    letters = sum(map(len, tokens))
    length = min(cue.end_ms - cue.start_ms, letters * SLOWEST_MS_PER_CHAR)
    moments, before = [], 0
    for order, token in enumerate(tokens, first_order):
        middle = cue.start_ms + length * (before + len(token) / 2) / letters
        moments.append(Moment(middle, order, token, cue.id))
        before += len(token)
    return cue.start_ms + length, moments


class Timeline:
    """The pending words of one call; `unpaired` counts those that no segment can claim any more.

    Segments must be entered (`zone`) and claimed (`claim`) in segment order. At most `max_words` wait at a
    time if it is set; the oldest then count as unpaired. The last `remember` segments can still change.
    """

    def __init__(self, tolerance_ms: int, max_words: int | None = None, remember: int = 0) -> None:
        self.tolerance_ms = tolerance_ms
        self.max_words = max_words
        self.remember = remember
        self.unpaired = 0
        self._added = 0
        self._pending: dict[str, deque[Moment]] = {}
        self._loose: list[LooseCue] = []
        self._frontier: dict[str, float] = {}  # where the last zone of a channel ended
        self._claimed: dict[Key, Claimed] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pending.values())) + sum(len(cue.moments) for cue in self._loose)

    def add(self, words: Iterable[Words]) -> set[Key]:
        """Take words, or new versions of some; return the claimed segments whose words have changed by it."""
        changed: set[Key] = set()
        for cue in words:
            had_it = self._withdraw(cue.id) if cue.id is not None else []
            end_ms, moments = spread(cue, self._added)
            self._added += len(moments)
            changed.update(had_it)
            late = {m: key for m in moments if (key := self._too_late_for(cue.channel, m, had_it)) is not None}
            for moment, key in late.items():
                self._claimed[key].moments.append(moment)
                changed.add(key)
            waiting = [moment for moment in moments if moment not in late]
            if waiting and cue.channel is None:
                start_ms = waiting[0].middle_ms if late else cue.start_ms
                insort(self._loose, LooseCue(start_ms, end_ms, waiting), key=lambda c: c.start_ms)
            elif waiting and cue.channel is not None:
                self._wait(cue.channel, waiting)
        while self.max_words is not None and len(self) > self.max_words:
            self._forget_oldest()
        return changed

    def zone(self, segment: SpeechSegment) -> Zone:
        """Lay out the zone of the channel's next segment."""
        tail = 0 if segment.split else min(self.tolerance_ms, (segment.closed_ms - segment.end_ms) / 2)
        begin = max(self._frontier.get(segment.channel, 0), segment.start_ms - self.tolerance_ms)
        end = max(begin, segment.end_ms + max(0, tail))
        self._frontier[segment.channel] = end
        return Zone(begin, end)

    def claim(self, segment: SpeechSegment, zone: Zone) -> list[str]:
        """Take the words of a segment, in order of time; what lies before its zone has missed its chance."""
        claimed = self._claim_loose(segment, zone)
        pending = self._pending.get(segment.channel, deque())
        while pending and pending[0].middle_ms < zone.to_ms:
            moment = pending.popleft()
            if moment.middle_ms >= zone.from_ms:
                claimed.append(moment)
            else:
                self.unpaired += 1
        self._claimed[segment.channel, segment.index] = Claimed(zone, claimed)
        words = self.words_of((segment.channel, segment.index))
        while len(self._claimed) > self.remember:
            del self._claimed[next(iter(self._claimed))]
        return words

    def peek(self, segment: SpeechSegment) -> list[str]:
        """The words of the channel that wait for a segment which is still open."""
        begin = max(self._frontier.get(segment.channel, 0), segment.start_ms - self.tolerance_ms)
        pending = self._pending.get(segment.channel, ())
        return [moment.text for moment in pending if begin <= moment.middle_ms < segment.end_ms]

    def words_of(self, key: Key) -> list[str]:
        """The words that a remembered segment has now, in order of time."""
        return [moment.text for moment in sorted(self._claimed[key].moments)]

    def close(self) -> None:
        """Count everything that still waits as unpaired."""
        self.unpaired += len(self)
        self._pending.clear()
        self._loose.clear()
        self._claimed.clear()

    def _withdraw(self, cue: str) -> list[Key]:
        """Take the words of an earlier version back; return the claimed segments that had some."""
        for channel, pending in self._pending.items():
            if any(moment.cue == cue for moment in pending):
                self._pending[channel] = deque(moment for moment in pending if moment.cue != cue)
        self._loose = [loose for loose in self._loose if loose.moments[0].cue != cue]
        had_it = []
        for key, claimed in self._claimed.items():
            if any(moment.cue == cue for moment in claimed.moments):
                had_it.append(key)
                claimed.moments[:] = [moment for moment in claimed.moments if moment.cue != cue]
        return had_it

    def _too_late_for(self, channel: str | None, moment: Moment, had_it: list[Key]) -> Key | None:
        """The claimed segment that this word should have been in."""
        for key, claimed in self._claimed.items():
            fits = key in had_it if channel is None and had_it else channel in (None, key[0])
            if fits and claimed.zone.from_ms <= moment.middle_ms < claimed.zone.to_ms:
                return key
        return had_it[0] if channel is None and had_it else None

    def _claim_loose(self, segment: SpeechSegment, zone: Zone) -> list[Moment]:
        """Take from the cues of unknown channel the words that this segment settles.

        Those before the zone are taken too: the channel's earlier segments are out, and the sentence must not
        be torn. The rest of a cue stays loose, for the other side may have gone on with it.
        """
        claimed, left = [], []
        for cue in self._loose:
            if cue.start_ms < zone.to_ms and self._settles(segment, zone, cue):
                claimed += [moment for moment in cue.moments if moment.middle_ms < zone.to_ms]
                rest = [moment for moment in cue.moments if moment.middle_ms >= zone.to_ms]
                left += [LooseCue(zone.to_ms, max(cue.end_ms, zone.to_ms), rest)] if rest else []
            else:
                left.append(cue)
        self._loose = sorted(left, key=lambda cue: cue.start_ms)
        return claimed

    @staticmethod
    def _settles(segment: SpeechSegment, zone: Zone, cue: LooseCue) -> bool:
        if cue.start_ms == cue.end_ms:
            return zone.from_ms <= cue.start_ms
        passed_ms = min(cue.end_ms, segment.end_ms) - cue.start_ms
        overlap_ms = min(cue.end_ms, segment.end_ms) - max(cue.start_ms, segment.start_ms)
        if overlap_ms > 0:
            cue.touched = True
            return 2 * overlap_ms >= passed_ms
        return not cue.touched and zone.from_ms <= (cue.start_ms + cue.end_ms) / 2 < segment.start_ms

    def _wait(self, channel: str, moments: list[Moment]) -> None:
        pending = self._pending.setdefault(channel, deque())
        for moment in moments:
            if not pending or pending[-1] <= moment:
                pending.append(moment)
            else:
                insort(pending, moment)

    def _forget_oldest(self) -> None:
        """Give up the word (or the whole loose cue) that begins first."""
        fronts = [(pending[0].middle_ms, name) for name, pending in self._pending.items() if pending]
        first = min(fronts, default=None)
        if self._loose and (first is None or self._loose[0].start_ms <= first[0]):
            self.unpaired += len(self._loose.pop(0).moments)
        elif first is not None:
            self._pending[first[1]].popleft()
            self.unpaired += 1
