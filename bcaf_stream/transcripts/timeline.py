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
were. Where the words of a cue are is known by its id: a new version costs what its own words cost, however many
others wait.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bcaf_stream.transcripts.cue_attribution import CueAttribution, Moment, UnlabelledCue
from bcaf_stream.types import SpeechSegment, Words

SAME_BREATH_MS = 500  # words with times of their own and no longer pause between them belong together

# A cue may stay on the screen after its last word; slower than this nobody speaks (usual: 60 to 90 ms a letter).
SLOWEST_MS_PER_CHAR = 120
LONGEST_WORD = 200  # characters; what goes on without a space, as other scripts do, is several: words are counted
MOST_IN_A_SEGMENT = 1000  # words; a segment lasts 15 s at most, and nobody says a tenth of that in it
MOST_UNDECIDED = 1000  # cues of nobody whose time has come; it is decided of each 15 s later at the latest


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
    words = cue.text.split()
    tokens = [word[at : at + LONGEST_WORD] for word in words for at in range(0, len(word), LONGEST_WORD)]
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
        self._pending: dict[str, list[Moment]] = {}  # in order of time
        self._unlabelled: list[UnlabelledCue] = []  # by start, then in the order in which they came
        self._unlabelled_words = 0
        self._reach_ms = 0.0  # of the last zone
        self._homes: dict[str, dict[Moment, str | Key | UnlabelledCue]] = {}  # of cues with an id: where words are
        self._frontier: dict[str, float] = {}  # where the last zone of a channel ended
        self._claimed: dict[Key, Claimed] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pending.values())) + self._unlabelled_words

    def add(self, words: Iterable[Words]) -> set[Key]:
        """Take words, or new versions of some; return the claimed segments whose words have changed by it."""
        changed: set[Key] = set()
        loose: list[UnlabelledCue] = []
        for cue in _latest(words):
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
        self._unlabelled_words += sum(len(one.moments) for one in loose)
        for one in self._undecided(loose, self._now_ms, changed):  # nothing is new for those that waited before
            insort(self._unlabelled, one, key=_place_of)
            self._note(one.moments, one)
        self._bound_undecided()
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
        zone = Zone(begin, end, end if segment.split else end + self.tolerance_ms)
        self._reach_ms = max(self._reach_ms, zone.reach_ms)
        return zone

    def is_open(self, zone: Zone) -> bool:
        """Whether the zone may still get words of a cue of which nobody knows yet whose it is."""
        return any(zone.touches(cue) for cue in self._unlabelled[: self._begun_by(zone.reach_ms)])

    def claim(self, segment: SpeechSegment, zone: Zone) -> list[str]:
        """Take the words of a segment, in order of time; what lies before its zone has missed its chance."""
        key = segment.channel, segment.index
        claimed: list[Moment] = []
        later: list[Moment] = []
        pending = self._pending.get(segment.channel, [])
        reached = bisect_left(pending, zone.reach_ms, key=_middle)
        for moment in pending[:reached]:
            if zone.holds(moment) and len(claimed) < MOST_IN_A_SEGMENT:
                claimed.append(moment)
            elif moment.middle_ms < zone.to_ms:
                self._give_up([moment])
            else:
                later.append(moment)
        pending[:reached] = later
        self._claimed[key] = Claimed(zone, claimed)
        self._note(claimed, key)
        words = self.words_of(key)
        while len(self._claimed) > self.remember:
            self._forget(self._claimed.pop(next(iter(self._claimed))).moments)
        return words

    def peek(self, segment: SpeechSegment) -> list[str]:
        """The words of the channel that wait for a segment which is still open."""
        begin = max(self._frontier.get(segment.channel, 0), segment.start_ms - self.tolerance_ms)
        pending = self._pending.get(segment.channel, [])
        first, last = (bisect_left(pending, at, key=_middle) for at in (begin, segment.end_ms))
        return [moment.text for moment in pending[first : min(last, first + MOST_IN_A_SEGMENT)]]

    def words_of(self, key: Key) -> list[str]:
        """The words that a remembered segment has now, in order of time."""
        return [moment.text for moment in sorted(self._claimed[key].moments)]

    def settle(self) -> set[Key]:
        """Decide all cues with what is known: no more segments come."""
        return self._settle(float("inf"))

    def hasten(self, zone: Zone) -> set[Key]:
        """Decide the cues that keep a zone open, where what is known allows it: nobody waits any longer."""
        changed: set[Key] = set()
        for cue in self._unlabelled[: self._begun_by(zone.reach_ms)]:
            if not zone.touches(cue):
                continue
            said_by = self._attribution.guess(cue)
            if said_by is not None:
                del self._unlabelled[bisect_left(self._unlabelled, _place_of(cue), key=_place_of)]
                changed |= self._deal(cue, said_by)
        return changed

    def close(self) -> None:
        """Count everything that still waits as unpaired."""
        self.unpaired += len(self)
        self._pending.clear()
        self._unlabelled.clear()
        self._unlabelled_words = 0
        self._claimed.clear()
        self._homes.clear()

    def _settle(self, now_ms: float) -> set[Key]:
        changed: set[Key] = set()
        begun = self._begun_by(now_ms, including=True)
        self._unlabelled[:begun] = self._undecided(self._unlabelled[:begun], now_ms, changed)
        self._bound_undecided()
        return changed

    def _begun_by(self, at_ms: float, including: bool = False) -> int:
        """How many cues of nobody begin before a time."""
        return bisect_left(self._unlabelled, (at_ms, float("inf") if including else -1), key=_place_of)

    def _bound_undecided(self) -> None:
        """Each advance and each segment looks at the cues whose time has come: they must be few."""
        excess = self._begun_by(max(self._now_ms, self._reach_ms)) - MOST_UNDECIDED
        for cue in self._unlabelled[: max(0, excess)]:
            self._unlabelled_words -= len(cue.moments)
            self._give_up(cue.moments)
        del self._unlabelled[: max(0, excess)]

    def _undecided(self, cues: Sequence[UnlabelledCue], now_ms: float, changed: set[Key]) -> list[UnlabelledCue]:
        """Deal the words of those of the cues that can be decided; return the others."""
        left: list[UnlabelledCue] = []
        for cue in cues:
            said_by = None if cue.start_ms > now_ms else self._attribution.decide(cue, now_ms)
            if said_by is None:
                left.append(cue)
            else:
                changed |= self._deal(cue, said_by)
        return left

    def _deal(self, cue: UnlabelledCue, said_by: Sequence[str | None]) -> set[Key]:
        self._unlabelled_words -= len(cue.moments)
        self._give_up([moment for moment, one in zip(cue.moments, said_by, strict=True) if one is None])
        changed: set[Key] = set()
        for channel in self._channels:
            changed |= self._place(
                channel, [m for m, one in zip(cue.moments, said_by, strict=True) if one == channel]
            )
        return changed

    def _place(self, channel: str, moments: Sequence[Moment], had_it: Sequence[Key] = ()) -> set[Key]:
        """Let words wait on their channel; late ones go to the segment that should have had them."""
        changed: set[Key] = set()
        pending = self._pending.setdefault(channel, [])
        for moment in moments:
            key = next((k for k, c in self._claimed.items() if k[0] == channel and c.zone.holds(moment)), None)
            key = had_it[0] if key is None and had_it else key
            if key is None:
                insort(pending, moment)
                self._note([moment], channel)
            elif len(self._claimed[key].moments) < MOST_IN_A_SEGMENT:
                self._claimed[key].moments.append(moment)
                self._note([moment], key)
                changed.add(key)
            else:
                self._give_up([moment])
        return changed

    def _withdraw(self, cue: str) -> list[Key]:
        """Take the words of an earlier version back; return the claimed segments that had some."""
        had_it: dict[Key, set[Moment]] = defaultdict(set)
        loose: UnlabelledCue | None = None
        for moment, home in self._homes.pop(cue, {}).items():
            if isinstance(home, str):
                pending = self._pending[home]
                del pending[bisect_left(pending, moment)]
            elif isinstance(home, UnlabelledCue):
                loose = home
            else:
                had_it[home].add(moment)
        if loose is not None:
            del self._unlabelled[bisect_left(self._unlabelled, _place_of(loose), key=_place_of)]
            self._unlabelled_words -= len(loose.moments)
        for key, moments in had_it.items():
            kept = [moment for moment in self._claimed[key].moments if moment not in moments]
            self._claimed[key].moments[:] = kept
        return sorted(had_it, key=list(self._claimed).index)

    def _note(self, moments: Iterable[Moment], home: "str | Key | UnlabelledCue") -> None:
        for moment in moments:
            if moment.cue is not None:
                self._homes.setdefault(moment.cue, {})[moment] = home

    def _forget(self, moments: Iterable[Moment]) -> None:
        """These words are nowhere any more."""
        for moment in moments:
            homes = self._homes.get(moment.cue, {}) if moment.cue is not None else {}
            homes.pop(moment, None)
            if not homes and moment.cue is not None:
                self._homes.pop(moment.cue, None)

    def _give_up(self, moments: Sequence[Moment]) -> None:
        self.unpaired += len(moments)
        self._forget(moments)

    def _forget_oldest(self) -> None:
        """Give up the word (or the whole cue of nobody) that begins first."""
        fronts = [(pending[0].middle_ms, name) for name, pending in self._pending.items() if pending]
        first = min(fronts, default=None)
        if self._unlabelled and (first is None or self._unlabelled[0].start_ms <= first[0]):
            cue = self._unlabelled.pop(0)
            self._unlabelled_words -= len(cue.moments)
            self._give_up(cue.moments)
        elif first is not None:
            self._give_up([self._pending[first[1]].pop(0)])


def _middle(moment: Moment) -> float:
    return moment.middle_ms


def _place_of(cue: UnlabelledCue) -> tuple[float, float]:
    return cue.start_ms, cue.moments[0].order


def _latest(words: Iterable[Words]) -> list[Words]:
    """Of several versions of a cue the last one."""
    cues = list(words)
    last = {cue.id: place for place, cue in enumerate(cues) if cue.id is not None}
    return [cue for place, cue in enumerate(cues) if cue.id is None or last[cue.id] == place]


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
