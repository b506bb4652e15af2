"""Words waiting for the speech they were said in; decides which segment gets which word, without the future.

A cue is spread over its time, so that every word has a moment (the middle of its share). A segment's zone is
half-open and zones of one channel never overlap, so a word falls in exactly one segment:

    from  start - tolerance, but not before the previous segment's zone has ended
    to    end + half of the silence that closed it, at most the tolerance; to the end itself where it was split

Silence before a segment belongs to it further than silence behind it, because the next segment of the channel
could begin right after the closing silence, and is not known yet when this one goes out.

A cue without a channel goes, whole, to the channel that says it (see `cue_attribution`); a segment that it touches
waits until that is decided. Its words are then taken by the segments of that channel which it touches, also those
that lie in pauses: it was said there.

Words that come too late, or are replaced by a later version of their cue (the same id), change segments that have
been claimed already; the last `remember` of them are kept for this. An unlabelled version goes where its words
were.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bcaf_stream.transcripts.cue_attribution import CueAttribution, Moment, UnlabelledCue
from bcaf_stream.types import SpeechSegment, Words

SAME_BREATH_MS = 500  # words with times of their own and no longer pause between them belong together

# A cue may stay on the screen after its last word; slower than this nobody speaks (usual: 60 to 90 ms a letter).
SLOWEST_MS_PER_CHAR = 120


Key = tuple[str, int]  # channel and index of a segment


class Zone(NamedTuple):
    """The stretch of a channel, [from_ms, to_ms), whose words belong to one segment.

    A cue that named no channel and ends by `reach_ms` ends in it.
    """

    from_ms: float
    to_ms: float
    reach_ms: float

    def holds(self, moment: Moment) -> bool:
        if moment.until_ms is None:
            return self.from_ms <= moment.middle_ms < self.to_ms
        if moment.middle_ms < self.to_ms:
            return self.from_ms <= max(moment.middle_ms, moment.until_ms)
        return moment.until_ms <= self.reach_ms

    def touches(self, cue: UnlabelledCue) -> bool:
        return cue.start_ms < self.reach_ms and cue.end_ms >= self.from_ms


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

    def __init__(
        self, channels: Sequence[str], tolerance_ms: int, max_words: int | None = None, remember: int = 0
    ) -> None:
        self.tolerance_ms = tolerance_ms
        self.max_words = max_words
        self.remember = remember
        self.unpaired = 0
        self._channels = list(channels)
        self._attribution = CueAttribution(channels, tolerance_ms)
        self._now_ms = 0.0
        self._added = 0
        self._pending: dict[str, deque[Moment]] = {}
        self._unlabelled: list[UnlabelledCue] = []  # by start
        self._frontier: dict[str, float] = {}  # where the last zone of a channel ended
        self._claimed: dict[Key, Claimed] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pending.values())) + sum(len(cue.moments) for cue in self._unlabelled)

    def add(self, words: Iterable[Words]) -> set[Key]:
        """Take words, or new versions of some; return the claimed segments whose words have changed by it."""
        changed: set[Key] = set()
        loose: list[UnlabelledCue] = []
        for cue in words:
            had_it = self._withdraw(cue.id) if cue.id is not None else []
            changed.update(had_it)
            end_ms, moments = spread(cue, self._added)
            self._added += len(moments)
            if cue.channel is not None:
                changed |= self._place(cue.channel, moments)
            elif moments:
                moments = [moment._replace(until_ms=cue.end_ms) for moment in moments]
                known = had_it[0][0] if had_it else self._channels[0] if len(self._channels) == 1 else None
                if known is not None:
                    changed |= self._place(known, moments, had_it)
                else:
                    _collect(loose, UnlabelledCue(cue.start_ms, end_ms, moments))
        for one in loose:
            insort(self._unlabelled, one, key=lambda c: c.start_ms)
        changed |= self._settle(self._now_ms)
        while self.max_words is not None and len(self) > self.max_words:
            self._forget_oldest()
        return changed

    def advance(self, now_ms: float) -> set[Key]:
        """Learn of the stream time, and decide whose the cues are that have become ripe by it.

        Returns:
            The claimed segments whose words have changed by it.
        """
        self._now_ms = max(self._now_ms, now_ms)
        return self._settle(self._now_ms)

    def zone(self, segment: SpeechSegment) -> Zone:
        """Lay out the zone of the channel's next segment."""
        self._attribution.enter(segment)
        tail = 0 if segment.split else min(self.tolerance_ms, (segment.closed_ms - segment.end_ms) / 2)
        begin = max(self._frontier.get(segment.channel, 0), segment.start_ms - self.tolerance_ms)
        end = max(begin, segment.end_ms + max(0, tail))
        self._frontier[segment.channel] = end
        return Zone(begin, end, end if segment.split else end + self.tolerance_ms)

    def is_open(self, zone: Zone) -> bool:
        """Whether the zone may still get words of a cue of which nobody knows yet whose it is."""
        return any(zone.touches(cue) for cue in self._unlabelled)

    def claim(self, segment: SpeechSegment, zone: Zone) -> list[str]:
        """Take the words of a segment, in order of time; what lies before its zone has missed its chance."""
        claimed: list[Moment] = []
        later: list[Moment] = []
        pending = self._pending.get(segment.channel, deque())
        while pending and pending[0].middle_ms < zone.reach_ms:
            moment = pending.popleft()
            if zone.holds(moment):
                claimed.append(moment)
            elif moment.middle_ms < zone.to_ms:
                self.unpaired += 1
            else:
                later.append(moment)
        pending.extendleft(reversed(later))
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

    def settle(self) -> set[Key]:
        """Decide all cues with what is known: no more segments come."""
        return self._settle(float("inf"))

    def hasten(self, zone: Zone) -> set[Key]:
        """Decide the cues that keep a zone open, where what is known allows it: nobody waits any longer."""
        changed: set[Key] = set()
        for cue in [cue for cue in self._unlabelled if zone.touches(cue)]:
            said_by = self._attribution.guess(cue)
            if said_by is not None:
                self._unlabelled.remove(cue)
                changed |= self._deal(cue, said_by)
        return changed

    def close(self) -> None:
        """Count everything that still waits as unpaired."""
        self.unpaired += len(self)
        self._pending.clear()
        self._unlabelled.clear()
        self._claimed.clear()

    def _settle(self, now_ms: float) -> set[Key]:
        changed: set[Key] = set()
        left: list[UnlabelledCue] = []
        for place, cue in enumerate(self._unlabelled):
            if cue.start_ms > now_ms:
                left += self._unlabelled[place:]
                break
            said_by = self._attribution.decide(cue, now_ms)
            if said_by is None:
                left.append(cue)
                continue
            changed |= self._deal(cue, said_by)
        self._unlabelled = left
        return changed

    def _deal(self, cue: UnlabelledCue, said_by: Sequence[str | None]) -> set[Key]:
        self.unpaired += said_by.count(None)
        changed: set[Key] = set()
        for channel in self._channels:
            changed |= self._place(
                channel, [m for m, one in zip(cue.moments, said_by, strict=True) if one == channel]
            )
        return changed

    def _place(self, channel: str, moments: Sequence[Moment], had_it: Sequence[Key] = ()) -> set[Key]:
        """Let words wait on their channel; late ones go to the segment that should have had them."""
        changed: set[Key] = set()
        pending = self._pending.setdefault(channel, deque())
        for moment in moments:
            key = next((k for k, c in self._claimed.items() if k[0] == channel and c.zone.holds(moment)), None)
            key = had_it[0] if key is None and had_it else key
            if key is not None:
                self._claimed[key].moments.append(moment)
                changed.add(key)
            elif not pending or pending[-1] <= moment:
                pending.append(moment)
            else:
                insort(pending, moment)
        return changed

    def _withdraw(self, cue: str) -> list[Key]:
        """Take the words of an earlier version back; return the claimed segments that had some."""
        for channel, pending in self._pending.items():
            if any(moment.cue == cue for moment in pending):
                self._pending[channel] = deque(moment for moment in pending if moment.cue != cue)
        self._unlabelled = [loose for loose in self._unlabelled if loose.moments[0].cue != cue]
        had_it = []
        for key, claimed in self._claimed.items():
            if any(moment.cue == cue for moment in claimed.moments):
                had_it.append(key)
                claimed.moments[:] = [moment for moment in claimed.moments if moment.cue != cue]
        return had_it

    def _forget_oldest(self) -> None:
        """Give up the word (or the whole cue of nobody) that begins first."""
        fronts = [(pending[0].middle_ms, name) for name, pending in self._pending.items() if pending]
        first = min(fronts, default=None)
        if self._unlabelled and (first is None or self._unlabelled[0].start_ms <= first[0]):
            self.unpaired += len(self._unlabelled.pop(0).moments)
        elif first is not None:
            self._pending[first[1]].popleft()
            self.unpaired += 1


def _collect(cues: list[UnlabelledCue], cue: UnlabelledCue) -> None:
    """Add a cue; single words with times of their own, that follow closely, become one."""
    last = cues[-1] if cues else None
    single = len(cue.moments) == 1 and cue.moments[0].cue is None
    follows = last is not None and 0 <= cue.start_ms - last.end_ms <= SAME_BREATH_MS
    if last is None or not single or not follows or not (last.timed or len(last.moments) == 1):
        cues.append(cue)
        return
    last.moments += cue.moments
    last.end_ms = max(last.end_ms, cue.end_ms)
    last.timed = True
    last.moments[:] = [moment._replace(until_ms=last.end_ms) for moment in last.moments]
