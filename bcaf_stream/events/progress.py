"""How far a call has got, as its events tell: what somebody must know who goes on with it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bcaf_stream.events.damage import is_stand_in
from bcaf_stream.events.messages import Event, EventType


@dataclass(slots=True)
class Progress:
    """`seq` and `utterances` (by channel) are the next ones; `end_ms` is the latest stream time that is spoken of.

    `occurrences` counts what can happen more than once without an utterance, by channel and type. `started_at` and
    `told_at` are the clock (unix ns) of the first and of the last event.
    """

    ended: bool = False
    seq: int = 0
    utterances: Counter[str] = field(default_factory=Counter)
    occurrences: Counter[tuple[str, EventType]] = field(default_factory=Counter)
    end_ms: int = 0
    started_at: int = 0
    told_at: int = 0


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
        progress.ended |= event.type == "call.end"
        progress.seq = max(progress.seq, event.seq + 1, count)
        progress.end_ms = max(progress.end_ms, event.end_ms or 0)
        progress.told_at = event.emitted_at
        if is_stand_in(event):
            unknown[event.channel] += 1
        elif event.utterance is None:
            progress.occurrences[event.channel, event.type] += 1
        else:
            known = progress.utterances[event.channel]
            progress.utterances[event.channel] = max(known, event.utterance + 1)
    if progress is not None and unknown:
        _leave_out(progress, unknown)
    return progress


def _leave_out(progress: Progress, unknown: Counter[str]) -> None:
    """The numbers that damaged events may have had; one without a channel may have been of any."""
    anywhere = unknown.pop("", 0)
    channels = set(unknown) | set(progress.utterances) | {channel for channel, _ in progress.occurrences}
    for channel in channels - {""}:
        progress.utterances[channel] += unknown[channel] + anywhere
    for channel in channels | {""}:
        for type in ("audio.gap", "degraded"):
            progress.occurrences[channel, type] += unknown[channel] + anywhere
