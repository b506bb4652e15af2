"""What a call's events say together: how far it has got, for whoever goes on with it; what holds in the end."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bcaf_stream.events.event import UNDECIDED, Event, EventType, is_stand_in
from bcaf_stream.types import TextSource

T = TypeVar("T")

REMEMBERED = 64  # the last utterances of a channel, which make the context of the next one


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance that has had its final event; not `judged` where the model could not take it at all."""

    index: int
    start_ms: int
    end_ms: int
    text: str | None
    text_source: TextSource
    text_confidence: float | None
    degraded: tuple[str, ...]
    revision: int
    judged: bool
    speaker: str | None = None


@dataclass(slots=True)
class Progress:
    """`seq` and `utterances` (by channel) are the next ones; `end_ms` is the latest stream time that is spoken of.

    `occurrences` counts what can happen more than once without an utterance, by channel and type. `started_at` and
    `told_at` are the clock (unix ns) of the first and of the last event. `spoken` are the last utterances of each
    channel that have their final event, `decided` the next index after them, `finals` how many have an emotion;
    `interims` is the last interim result of each utterance that has no final event. `evidence` are the events
    that told those utterances last, by channel and number, and `alerts` the last one of each rule and channel.
    `speakers` is by channel the highest number that one of its speakers has (3 of S3), `relabelled` who of them
    turned out to be whom. `protocol` is the way by which the call came in.
    """

    ended: bool = False
    seq: int = 0
    utterances: Counter[str] = field(default_factory=Counter)
    occurrences: Counter[tuple[str, EventType]] = field(default_factory=Counter)
    end_ms: int = 0
    started_at: int = 0
    told_at: int = 0
    reason: str | None = None  # why it has ended
    damaged: bool = False  # some of it cannot be read
    finals: int = 0
    decided: Counter[str] = field(default_factory=Counter)
    spoken: dict[str, dict[int, Spoken]] = field(default_factory=dict)
    interims: dict[tuple[str, int], int] = field(default_factory=dict)
    evidence: dict[tuple[str, int], Event] = field(default_factory=dict)
    alerts: dict[tuple[str | None, str], Event] = field(default_factory=dict)
    speakers: Counter[str] = field(default_factory=Counter)
    relabelled: dict[str, dict[str, str]] = field(default_factory=dict)
    protocol: str | None = None

    def follow(self, event: Event) -> None:
        """Take note of the next event of the call."""
        self.ended |= event.type == "call.end"
        self.reason = event.reason if event.type == "call.end" else self.reason
        self.seq = max(self.seq, event.seq + 1)
        self.end_ms = max(self.end_ms, event.end_ms or 0)
        self.told_at = event.emitted_at
        self.protocol = event.protocol or self.protocol
        if is_stand_in(event):
            return
        if event.relabelled:
            self.relabelled.setdefault(event.channel, {}).update(event.relabelled)
        for speaker in (event.speaker, *(event.relabelled or ())):
            if speaker is not None and speaker[1:].isdecimal():
                self.speakers[event.channel] = max(self.speakers[event.channel], int(speaker[1:]))
        if event.utterance is None:
            self.occurrences[event.channel, event.type] += 1
            if event.type == "alert":
                self.alerts[event.rule, event.channel] = event
            return
        self.utterances[event.channel] = max(self.utterances[event.channel], event.utterance + 1)
        if event.type == "emotion.interim":
            self.interims[event.channel, event.utterance] = event.revision
        else:
            self._decide(event, event.utterance)

    def name(self, channel: str, speaker: str) -> str:
        """The name that a speaker has by now."""
        names = self.relabelled.get(channel, {})
        for _ in names:
            speaker = names.get(speaker, speaker)
        return speaker

    def _decide(self, event: Event, index: int) -> None:
        self.interims.pop((event.channel, index), None)
        self.decided[event.channel] = max(self.decided[event.channel], index + 1)
        spoken = self.spoken.setdefault(event.channel, {})
        before = spoken.get(index)
        undecided = event.reason == UNDECIDED
        judged = event.emotion is not None or undecided
        self.finals += event.type == "emotion.final"
        if before is not None and not judged:  # a revision failed: what was said before stands
            spoken[index] = replace(before, revision=event.revision)
            return
        spoken[index] = Spoken(
            index=index,
            start_ms=event.start_ms or 0,
            end_ms=event.end_ms or 0,
            text=event.text,
            text_source=event.text_source,
            text_confidence=event.text_confidence,
            degraded=(event.degraded or ())[undecided:] if judged else (),
            revision=event.revision,
            judged=judged,
            speaker=event.speaker,
        )
        self.evidence[event.channel, index] = event
        if len(spoken) > REMEMBERED:
            oldest = next(iter(spoken))
            del spoken[oldest]
            self.evidence.pop((event.channel, oldest), None)


def progress_of(events: Iterable[Event]) -> Progress | None:
    """The progress of the one call that these events are of, in their order; None where there are none.

    An event that cannot be read any more may have been anything, and every number is as if it had been that: no id
    is given twice.
    """
    progress: Progress | None = None
    count = 0
    unknown: Counter[str] = Counter()  # by channel
    for count, event in enumerate(events, 1):
        progress = progress or Progress(started_at=event.emitted_at)
        progress.seq = max(progress.seq, count)
        if is_stand_in(event):
            unknown[event.channel] += 1
        progress.follow(event)
    if progress is not None and unknown:
        progress.damaged = True
        _leave_out(progress, unknown)
    return progress


def _leave_out(progress: Progress, unknown: Counter[str]) -> None:
    """The numbers that damaged events may have had; one without a channel may have been of any."""
    anywhere = unknown.pop("", 0)
    channels = set(unknown) | set(progress.utterances) | {channel for channel, _ in progress.occurrences}
    for channel in channels - {""}:
        progress.utterances[channel] += unknown[channel] + anywhere
        progress.speakers[channel] += unknown[channel] + anywhere
    for channel in channels | {""}:
        for type in ("audio.gap", "speaker.relabelled", "degraded"):
            progress.occurrences[channel, type] += unknown[channel] + anywhere


def settled(events: Iterable[Event]) -> list[Event]:
    """Each utterance's last word on its emotion, in the order of the first: nothing interim, nothing revised.

    Its speaker has the name that holds in the end.
    """
    judged = (event for event in renamed(events) if event.type in ("emotion.final", "emotion.revised"))
    return newest(judged, lambda event: ((event.call, event.channel, event.utterance), event.revision))


def renamed(events: Iterable[Event]) -> list[Event]:
    """The events, with the names that their speakers have after all that speaker.relabelled says."""
    events = list(events)
    names: dict[tuple[str, str], dict[str, str]] = {}
    for event in events:
        for was, becomes in (event.relabelled or {}).items():
            known = names.setdefault((event.call, event.channel), {})
            known |= {one: becomes for one, other in known.items() if other == was} | {was: becomes}
    if not names:
        return events
    found = ((event, names.get((event.call, event.channel), {}).get(event.speaker or "")) for event in events)
    return [replace(event, speaker=name) if name else event for event, name in found]


def newest(items: Iterable[T], key: Callable[[T], tuple[Hashable, int]]) -> list[T]:
    """Of each thing the item of its highest revision, in the order of the first; `key` gives thing and revision.

    Of two with the same revision the later one is taken.
    """
    last: dict[Hashable, tuple[int, T]] = {}
    for item in items:
        thing, revision = key(item)
        if thing not in last or revision >= last[thing][0]:
            last[thing] = revision, item
    return [item for _, item in last.values()]
