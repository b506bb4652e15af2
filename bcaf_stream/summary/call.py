"""One call, as its events tell it so far."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from bcaf_stream.events.event import Event
from bcaf_stream.summary.emotion_mass import BINS, TurningPoint, mass, sparkline, trend, turning_points
from bcaf_stream.summary.floor import Floor
from bcaf_stream.summary.said import JUDGED, Key, Said, said_of
from bcaf_stream.summary.totals import Quality, RoleSummary
from bcaf_stream.types import Role

WINDOW_MS = 30_000  # of the negative mass that calls are ranked by
TREND_MS = 120_000  # its last quarter is held against the mean of those before
MOST_MISSING = 1000  # events that may still come late


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
        self._floors: dict[str, Floor] = {}  # of each role by itself
        self._role_of: dict[str, str] = {}  # by who spoke
        self.call: str | None = None
        self.model = ""
        self.models: Counter[str] = Counter()  # by what made finals and revisions
        self.started_at: int | None = None  # unix ns
        self.told_at: int | None = None
        self.ended = False
        self.reason: str | None = None  # why it has ended
        self.policy: str | None = None
        self.protocol: str | None = None  # how it came in
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
                self.protocol = event.protocol
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
            case "speaker.relabelled":
                self._relabel(event.relabelled or {})
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

    @property
    def talked_over_ms(self) -> Counter[str]:
        """By role: the time in which it went on with what it had begun while somebody else was speaking."""
        by_role: Counter[str] = Counter()
        for who, ms in self.floor.talked_over_ms.items():
            by_role[self._role_of.get(who, "speaker")] += ms
        return by_role

    def longest_silence_of(self, role: str) -> tuple[int, int]:
        """Begin and end, in ms, of the longest time between two utterances of one role."""
        return self._floors[role].longest_silence if role in self._floors else (0, 0)

    def to_map(self) -> dict[str, Any]:
        """The aggregates as plain values of JSON."""
        talked_over_ms = self.talked_over_ms
        return {
            "call": self.call,
            "model": self.model,
            "started_at": self.started_at,
            "ended": self.ended,
            "reason": self.reason,
            "policy": self.policy,
            "protocol": self.protocol,
            "duration_ms": self.now_ms,
            "negative_mass": self.negative_mass(self.now_ms),
            "talk_over_ms": self.talk_over_ms,
            "longest_silence": _span(self.longest_silence),
            "roles": {
                role: {
                    "channels": sorted(one.channels),
                    "utterances": one.utterances,
                    "judged": one.judged,
                    "talk_ms": one.talk_ms,
                    "talk_over_ms": talked_over_ms[role],
                    "longest_silence": _span(self.longest_silence_of(role)),
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
            self._role_of[one.who] = role = one.role or "speaker"
            self._floors.setdefault(role, Floor(self._keep)).add(one.start_ms, one.end_ms, one.who)
        self._said[one.key] = one
        self._count(one)
        self.latest = one
        if self._keep and len(self._said) > self._keep:
            channel, index = next(iter(self._said))
            del self._said[channel, index]
            self._forgotten[channel] = max(index, self._forgotten.get(channel, -1))

    def _relabel(self, names: Mapping[str, str]) -> None:
        """Some speakers turned out to be others of their channel."""
        for key, one in self._said.items():
            if one.who in names and one.who != one.channel:
                self._said[key] = replace(one, who=names[one.who])
        self.floor.relabel(names)
        self._role_of |= {new: self._role_of[was] for was, new in names.items() if was in self._role_of}

    def _count(self, one: Said, sign: int = 1) -> None:
        self.roles.setdefault(one.role or "speaker", RoleSummary()).count(one, sign)
        self.quality.count(one, sign)

    def _gap(self, event: Event) -> None:
        start_ms, end_ms = event.start_ms or 0, event.end_ms or 0
        self.quality.gaps += 1
        self.quality.lost_ms[event.channel] += max(0, end_ms - start_ms)
        self.floor.add(start_ms, end_ms, "")
        own = self._floors.get(self.channels.get(event.channel) or "speaker")
        if own is not None:
            own.add(start_ms, end_ms, "")
        self.gaps = [*self.gaps, (event.channel, start_ms, end_ms, event.reason or "")][-(self._keep or 0) :]


def _span(span: tuple[int, int]) -> dict[str, int]:
    return {"start_ms": span[0], "end_ms": span[1]}
