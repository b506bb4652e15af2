"""What a call amounts to: events in, aggregates out. Pure; what page, report and alerts share.

`CallSummary.push` takes the events of one call as they come. An utterance is counted as it was told last: a
revision replaces its final, a final its interim result. Interim results are the present, never part of a total.
With `keep`, memory is bounded: the utterances beyond it stay in the totals and are forgotten one by one; a later
revision of such a one is counted in `quality.late_revisions` and changes nothing.

Time is the call's: integer ms of stream time. `now_ms` is the latest that its events speak of.

A voice's anger is not a person's: every share here is of what the model read, weighted by speech.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from bcaf_stream.events.event import Event
from bcaf_stream.types import Modality, Role, TextSource

NEGATIVE = ("anger", "disgust", "fear", "sadness")
WINDOW_MS = 30_000  # of the negative mass that calls are ranked by
TREND_MS = 120_000  # its last quarter is held against the mean of those before
BINS = 24  # of a sparkline
TURN_SIDE = 3  # utterances on each side of a turning point
MOST_MISSING = 1000  # events that may still come late
TURN_STEP = 0.3  # by which the negative mass must differ between them

Key = tuple[str, int]  # channel and number of an utterance
Weight = Literal["speech", "utterances"]


@dataclass(frozen=True, slots=True)
class Said:
    """An utterance as it was told last; `emotion` is None where it was not judged, and `reason` says why.

    `who` is the speaker where speakers are told apart, and else the channel. `id`, `seq` and `offset` are those of
    the event that told it last.
    """

    id: str
    channel: str
    index: int
    role: Role | None
    who: str
    start_ms: int
    end_ms: int
    emotion: str | None
    confidence: float | None
    probs: dict[str, float]
    modalities: tuple[Modality, ...]
    text: str | None
    text_source: TextSource
    text_confidence: float | None
    degraded: tuple[str, ...]
    reason: str | None
    revision: int
    seq: int
    offset: int | None
    redacted: int = 0  # spans of its words
    interim: bool = False
    was: str | None = None  # the emotion before the last revision

    @property
    def key(self) -> Key:
        return self.channel, self.index

    @property
    def speech_ms(self) -> int:
        return self.end_ms - self.start_ms

    def mass(self, emotions: Iterable[str] = NEGATIVE) -> float:
        """The probability, from 0 to 1, of any of these emotions."""
        return min(1.0, sum(self.probs.get(emotion, 0.0) for emotion in emotions))

    def within_ms(self, from_ms: float, to_ms: float) -> float:
        """How much of it lies there."""
        return max(0, min(self.end_ms, to_ms) - max(self.start_ms, from_ms))


JUDGED = ("emotion", "confidence", "probs", "modalities")


def said_of(event: Event) -> Said | None:
    """The utterance that an event tells; None where it tells none."""
    if event.utterance is None or event.start_ms is None or event.end_ms is None:
        return None
    return Said(
        id=event.id,
        channel=event.channel,
        index=event.utterance,
        role=event.role,
        who=getattr(event, "speaker", None) or event.channel,
        start_ms=event.start_ms,
        end_ms=max(event.start_ms, event.end_ms),
        emotion=event.emotion,
        confidence=event.confidence,
        probs=dict(event.probs),
        modalities=event.modalities,
        text=event.text,
        text_source=event.text_source,
        text_confidence=event.text_confidence,
        degraded=event.degraded or (),
        reason=event.reason,
        revision=event.revision,
        seq=event.seq,
        offset=event.offset,
        redacted=getattr(event, "redacted", None) or 0,
        interim=event.type == "emotion.interim",
    )


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


@dataclass(slots=True)
class RoleSummary:
    """Of one role: `emotions_ms` is judged speech by emotion, `talk_ms` all of it."""

    channels: set[str] = field(default_factory=set)
    utterances: int = 0
    judged: int = 0
    talk_ms: int = 0
    words: int = 0
    emotions_ms: Counter[str] = field(default_factory=Counter)
    negative_ms: float = 0.0  # speech, weighted by its negative mass

    @property
    def judged_ms(self) -> int:
        return sum(self.emotions_ms.values())

    @property
    def shares(self) -> dict[str, float]:
        """Share of judged speech by emotion, the largest first; they add up to 1."""
        total = self.judged_ms
        return {emotion: ms / total for emotion, ms in self.emotions_ms.most_common() if ms} if total else {}

    @property
    def negative_mass(self) -> float | None:
        total = self.judged_ms
        return self.negative_ms / total if total else None

    def count(self, one: Said, sign: int = 1) -> None:
        self.channels.add(one.channel)
        self.utterances += sign
        self.talk_ms += sign * one.speech_ms
        self.words += sign * len((one.text or "").split())
        if one.emotion is not None:
            self.judged += sign
            self.emotions_ms[one.emotion] += sign * one.speech_ms
            self.negative_ms += sign * one.speech_ms * one.mass()


@dataclass(slots=True)
class Quality:
    """How much of a call could be analysed, and what was missing.

    `modalities` counts utterances as they were told last: "audio+text", "audio", "text", and "none" for those that
    were not judged. `missing` counts the events that never came, as `seq` shows.
    """

    gaps: int = 0
    lost_ms: Counter[str] = field(default_factory=Counter)  # by channel
    degraded: Counter[str] = field(default_factory=Counter)  # by reason, of the call or of an utterance
    modalities: Counter[str] = field(default_factory=Counter)
    revised: int = 0
    late_revisions: int = 0
    redacted: int = 0  # spans of the words
    missing: int = 0

    def to_map(self) -> dict[str, Any]:
        counters = {"lost_ms": self.lost_ms, "degraded": self.degraded, "modalities": self.modalities}
        plain = ("gaps", "revised", "late_revisions", "redacted", "missing", "audio_only")
        return {name: getattr(self, name) for name in plain} | {name: dict(one) for name, one in counters.items()}

    def share(self, modalities: str) -> float | None:
        """The share, from 0 to 1, of the utterances with these modalities."""
        total = sum(self.modalities.values())
        return self.modalities[modalities] / total if total else None

    @property
    def audio_only(self) -> float | None:
        """The share of utterances that were judged by their sound alone."""
        return self.share("audio")

    def count(self, one: Said, sign: int = 1) -> None:
        self.modalities["+".join(one.modalities) or "none"] += sign
        self.redacted += sign * one.redacted
        for reason in one.degraded:
            self.degraded[reason] += sign
            if not self.degraded[reason]:
                del self.degraded[reason]


class Floor:
    """Who speaks when: talk-over and silence, in bounded memory.

    Spans may come in any order, as long as they end after `folded_ms`.
    """

    def __init__(self, keep: int | None = None) -> None:
        self._keep = keep
        self._spans: list[tuple[int, int, str]] = []  # start, end, channel; "" is lost sound
        self._over_ms = 0  # before folded_ms
        self._quiet = (0, 0)  # the longest silence before it
        self._spoken_to: int | None = None  # the end of all speech before it
        self.folded_ms = 0

    def add(self, start_ms: int, end_ms: int, channel: str) -> None:
        if end_ms > start_ms and end_ms > self.folded_ms:
            self._spans.append((max(start_ms, self.folded_ms), end_ms, channel))
        if self._keep and len(self._spans) > 2 * self._keep:
            self._fold(sorted(start for start, *_ in self._spans)[-self._keep])

    @property
    def talk_over_ms(self) -> int:
        """Time in which two channels and more are spoken in."""
        return self._over_ms + self._swept(float("inf"))[0]

    @property
    def longest_silence(self) -> tuple[int, int]:
        """Begin and end, in ms, of the longest time between utterances without speech or lost sound."""
        return self._swept(float("inf"))[1]

    def talk_over_between(self, from_ms: float, to_ms: float) -> float:
        """Time between the two in which two channels and more are spoken in, as far as it is remembered."""
        clipped = [(max(a, from_ms), min(b, to_ms), c) for a, b, c in self._spans if a < to_ms and b > from_ms]
        return sum(b - a for a, b, channels in _swept(clipped) if len(channels - {""}) > 1)

    def _fold(self, to_ms: int) -> None:
        over_ms, self._quiet, self._spoken_to = self._swept(to_ms)
        self._over_ms += over_ms
        self._spans = [(max(a, to_ms), b, channel) for a, b, channel in self._spans if b > to_ms]
        self.folded_ms = to_ms

    def _swept(self, to_ms: float) -> tuple[int, tuple[int, int], int | None]:
        over_ms, quiet, spoken_to = 0, self._quiet, self._spoken_to
        for a, b, channels in _swept([(a, min(b, to_ms), c) for a, b, c in self._spans if a < to_ms]):
            if len(channels - {""}) > 1:
                over_ms += int(b - a)
            if spoken_to is not None and a - spoken_to > quiet[1] - quiet[0]:
                quiet = (spoken_to, int(a))
            if spoken_to is not None or channels - {""}:
                spoken_to = int(b)
        return over_ms, quiet, spoken_to


def _swept(spans: Iterable[tuple[float, float, str]]) -> Iterator[tuple[float, float, set[str]]]:
    """The stretches in which somebody speaks, and who, in the order of time."""
    edges = sorted([(a, 1, c) for a, b, c in spans if b > a] + [(b, -1, c) for a, b, c in spans if b > a])
    now: Counter[str] = Counter()
    last = 0.0
    for at, change, channel in edges:
        if +now and at > last:
            yield last, at, set(+now)
        now[channel] += change
        last = at


class CallSummary:
    """One call, as its events tell it.

    Args:
        keep: how many of the last utterances are remembered one by one; None for all of them (a report).
    """

    def __init__(self, keep: int | None = None) -> None:
        self._keep = keep
        self._said: dict[Key, Said] = {}
        self._forgotten: dict[str, int] = {}  # number of the last utterance of a channel that is forgotten
        self._seqs: set[int] = set()  # that came before a smaller one
        self._next_seq: int | None = None
        self.floor = Floor(keep)
        self.call: str | None = None
        self.model = ""
        self.models: Counter[str] = Counter()  # by what made finals and revisions
        self.started_at: int | None = None  # unix ns
        self.told_at: int | None = None
        self.ended = False
        self.reason: str | None = None  # why it has ended
        self.policy: str | None = None
        self.now_ms = 0
        self.offset: int | None = None
        self.roles: dict[str, RoleSummary] = {}
        self.channels: dict[str, Role | None] = {}
        self.quality = Quality()
        self.gaps: list[tuple[str, int, int, str]] = []  # channel, begin, end, reason; the last `keep`
        self.notes: list[tuple[int, str]] = []  # stream time and reason of what was degraded; the last `keep`
        self.interims: dict[str, Said] = {}  # what is being said, by channel
        self.alerts: dict[tuple[str, str], Event] = {}  # rule and channel -> its last event
        self.latest: Said | None = None  # the last utterance that was told, interim or not

    def push(self, event: Event) -> None:
        """Take the next event of the call; events of other calls must not come here."""
        self.call = event.call if self.call is None else self.call
        self.model = event.model or self.model
        self.told_at = max(self.told_at or 0, event.emitted_at)
        self.now_ms = max(self.now_ms, event.end_ms or 0)
        if event.offset is not None:
            self.offset = max(self.offset or 0, event.offset)
        self._number(event.seq)
        match event.type:
            case "call.start":
                self.started_at, self.policy = event.emitted_at, event.reason
            case "call.end":
                self.ended, self.reason = True, event.reason
                self.interims.clear()
            case "emotion.interim":
                self._preview(event)
            case "emotion.final" | "emotion.revised":
                self.models[event.model] += 1
                self._tell(event)
            case "degraded" if event.utterance is not None:
                self._tell(event)
            case "degraded":
                self.quality.degraded[event.reason or "unknown"] += 1
                self.notes = [*self.notes, (self.now_ms, event.reason or "")][-(self._keep or 0) :]
            case "audio.gap":
                self._gap(event)
            case "alert":
                self.alerts[getattr(event, "rule", None) or "", event.channel] = event
            case _:
                pass  # a heartbeat, and what later versions add

    # What is remembered

    @property
    def said(self) -> list[Said]:
        """The utterances that are remembered, by begin."""
        return sorted(self._said.values(), key=lambda one: (one.start_ms, one.end_ms, one.channel, one.index))

    def lately(self, interims: bool = False, channel: str | None = None, role: str | None = None) -> list[Said]:
        """The same, of one channel or role, and with what is being said."""
        all_said = [*self.said, *(self.interims.values() if interims else ())]
        return [one for one in all_said if channel in (None, one.channel) and role in (None, one.role)]

    def negative_mass(
        self, over_ms: int = WINDOW_MS, at_ms: int | None = None, interims: bool = False, role: str | None = None
    ) -> float | None:
        """The negative mass of the last `over_ms` before `at_ms` (now); None where nothing was judged in them."""
        to_ms = self.now_ms if at_ms is None else at_ms
        return mass(self.lately(interims, role=role), to_ms - over_ms, to_ms)

    def trend(self, over_ms: int = TREND_MS, at_ms: int | None = None, role: str | None = None) -> float | None:
        """See `trend`: from -1 to 1, above 0 where it gets worse."""
        to_ms = self.now_ms if at_ms is None else at_ms
        return trend(self.lately(role=role), to_ms - over_ms, to_ms)

    def sparkline(self, over_ms: int = TREND_MS, bins: int = BINS, role: str | None = None) -> list[float | None]:
        """The negative mass of the last `over_ms`, in so many parts."""
        return sparkline(self.lately(role=role), self.now_ms - over_ms, self.now_ms, bins)

    @property
    def turning_points(self) -> list[TurningPoint]:
        """Of the utterances that are remembered."""
        return turning_points(self.said)

    @property
    def talk_over_ms(self) -> int:
        return self.floor.talk_over_ms

    @property
    def longest_silence(self) -> tuple[int, int]:
        return self.floor.longest_silence

    def to_map(self) -> dict[str, Any]:
        """The aggregates as plain values of JSON."""
        start_ms, end_ms = self.longest_silence
        return {
            "call": self.call,
            "model": self.model,
            "started_at": self.started_at,
            "ended": self.ended,
            "reason": self.reason,
            "policy": self.policy,
            "duration_ms": self.now_ms,
            "negative_mass": self.negative_mass(self.now_ms),
            "talk_over_ms": self.talk_over_ms,
            "longest_silence": {"start_ms": start_ms, "end_ms": end_ms},
            "roles": {
                role: {
                    "channels": sorted(one.channels),
                    "utterances": one.utterances,
                    "judged": one.judged,
                    "talk_ms": one.talk_ms,
                    "words": one.words,
                    "shares": one.shares,
                    "negative_mass": one.negative_mass,
                }
                for role, one in self.roles.items()
            },
            "turning_points": [asdict(point) for point in self.turning_points],
            "quality": self.quality.to_map(),
        }

    # How

    def _number(self, seq: int) -> None:
        if self._next_seq is None:
            self._next_seq = seq + 1
        elif seq >= self._next_seq:
            self.quality.missing += seq - self._next_seq
            self._seqs.update(range(max(self._next_seq, seq - MOST_MISSING), seq))
            if len(self._seqs) > MOST_MISSING:
                self._seqs.clear()
            self._next_seq = seq + 1
        elif seq in self._seqs:  # it came late
            self._seqs.remove(seq)
            self.quality.missing -= 1

    def _preview(self, event: Event) -> None:
        one = said_of(event)
        if one is not None and one.key not in self._said and one.index > self._forgotten.get(one.channel, -1):
            self.channels[one.channel] = one.role
            self.interims[one.channel] = self.latest = one

    def _tell(self, event: Event) -> None:
        one = said_of(event)
        if one is None:
            return
        open_one = self.interims.get(one.channel)
        if open_one is not None and open_one.index <= one.index:
            del self.interims[one.channel]
        before = self._said.get(one.key)
        if before is None and one.index <= self._forgotten.get(one.channel, -1):
            self.quality.late_revisions += 1
            return
        if before is not None:
            if (one.revision, one.seq) <= (before.revision, before.seq):
                return  # told before, or replaced since
            if one.emotion is None and before.emotion is not None:
                # A revision that failed: what was said before stands, and that it failed is said.
                one = replace(one, **{name: getattr(before, name) for name in JUDGED})
            else:
                one = replace(one, was=before.emotion)
            self._count(before, -1)
            self.quality.revised += 1
        else:
            self.channels[one.channel] = one.role
            self.floor.add(one.start_ms, one.end_ms, one.who)
        self._said[one.key] = one
        self._count(one)
        self.latest = one
        if self._keep and len(self._said) > self._keep:
            channel, index = next(iter(self._said))
            del self._said[channel, index]
            self._forgotten[channel] = max(index, self._forgotten.get(channel, -1))

    def _count(self, one: Said, sign: int = 1) -> None:
        self.roles.setdefault(one.role or "speaker", RoleSummary()).count(one, sign)
        self.quality.count(one, sign)

    def _gap(self, event: Event) -> None:
        start_ms, end_ms = event.start_ms or 0, event.end_ms or 0
        self.quality.gaps += 1
        self.quality.lost_ms[event.channel] += max(0, end_ms - start_ms)
        self.floor.add(start_ms, end_ms, "")
        self.gaps = [*self.gaps, (event.channel, start_ms, end_ms, event.reason or "")][-(self._keep or 0) :]
