"""What stands in the place of an event that the journal has and cannot read any more.

It keeps the offset, and the id, call, channel and `seq` where these can still be read: whoever counts misses
nothing, and nobody takes it for what was felt.
"""

from typing import Any

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import encode
from bcaf_stream.events.event import DAMAGED, INT64, Event, EventType, event_id, topic_of
from bcaf_stream.events.journal.rows import Entry


def stand_in(row: tuple[Any, ...], before: int, now: int) -> Entry:
    """For a row of which nothing but the offset is sure.

    Its time is its own, or that of the row before (unix ns, 0 where nobody knows), or `now`.
    """
    offset, id, call, channel, type, seq, _, own_stored_at, *_ = row
    kept: EventType = type if type in ("call.start", "call.end") else "degraded"
    stored_at = _whole(own_stored_at) or before
    event = Event(
        type=kept,
        id=_text(id) or event_id("", "", offset, "degraded", 0),
        call=_text(call),
        channel=_text(channel),
        seq=_whole(seq) or 0,
        offset=offset,
        emitted_at=stored_at or now,
        degraded=DAMAGED,
        reason=f"event {offset} of the journal is damaged: `bcaf-stream repair` saves the others",
    )
    try:
        topic = topic_of(event.call, event.channel, event.type)
        return Entry(offset, stored_at, topic, encode(event))
    except EventError:  # its names are none
        return stand_in((offset, *[None] * 9), before, now)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < INT64 else None
