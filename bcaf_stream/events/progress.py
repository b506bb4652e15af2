"""How far a call has got, as its events tell: what somebody must know who goes on with it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

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
    """The progress of the one call that these events are of, in their order; None where there are none."""
    progress: Progress | None = None
    for event in events:
        progress = progress or Progress(started_at=event.emitted_at)
        progress.ended |= event.type == "call.end"
        progress.seq = max(progress.seq, event.seq + 1)
        progress.end_ms = max(progress.end_ms, event.end_ms or 0)
        progress.told_at = event.emitted_at
        if event.utterance is None:
            progress.occurrences[event.channel, event.type] += 1
        else:
            known = progress.utterances[event.channel]
            progress.utterances[event.channel] = max(known, event.utterance + 1)
    return progress
