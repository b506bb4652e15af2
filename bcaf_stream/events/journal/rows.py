"""How an event lies in the journal: columns for what is looked up by, and the map as it is published.

Of the map only the offset is missing, which is known when the row is. So a new field of events changes nothing
here. Rows of journals that were written before (schema 2) are read by `schema_2`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import encode, numbered, read_map
from bcaf_stream.events.event import DAMAGED, INT64, Event, EventType, event_id, topic_of
from bcaf_stream.events.journal.schema_2 import Context, is_of_schema_2, map_of

CREATE = """
CREATE TABLE events (
    offset    INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, even after rows were deleted
    id        TEXT    NOT NULL UNIQUE,
    call      TEXT    NOT NULL,
    channel   TEXT    NOT NULL,
    type      TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    emotion   TEXT,
    stored_at INTEGER NOT NULL,  -- unix ns, never less than that of the row before
    context   INTEGER NOT NULL,  -- of rows of schema 2; 0
    payload   BLOB    NOT NULL   -- the event's msgpack map, its offset nil
);
CREATE INDEX events_by_call ON events (call);
CREATE TABLE contexts (
    context INTEGER PRIMARY KEY,
    model   TEXT NOT NULL,
    labels  TEXT NOT NULL,  -- a JSON list
    UNIQUE (model, labels)
);
CREATE TABLE latest (call TEXT, channel TEXT, offset INTEGER NOT NULL, PRIMARY KEY (call, channel)) WITHOUT ROWID;
CREATE TABLE epochs (epoch INTEGER PRIMARY KEY AUTOINCREMENT, started_at INTEGER NOT NULL, ended_at INTEGER);
CREATE TABLE audit (at INTEGER NOT NULL, action TEXT NOT NULL, call TEXT, events INTEGER NOT NULL);
CREATE TABLE identity (journal TEXT NOT NULL)
"""
INSERT = "INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?)"
COLUMNS = '"offset", id, call, channel, type, seq, emotion, stored_at, context, payload'

Row = tuple[int, str, str, str, EventType, int, str | None, int, int, bytes]


class Entry(NamedTuple):
    """An event as it is published: where it is in the journal, its topic, and its bytes."""

    offset: int
    stored_at: int
    topic: bytes
    data: bytes


def row_of(event: Event, offset: int, stored_at: int, draft: bytes) -> Row:
    """The row of an event and its `codec.draft`."""
    return (
        *(offset, event.id, event.call, event.channel, event.type),
        *(event.seq, event.emotion, stored_at, 0, draft),
    )


def entry_of(row: Row, context: Callable[[int], Context]) -> Entry:
    """The row's event as it is published; any damage is an exception, and there is no closed set of them."""
    offset, id, call, channel, type, seq, emotion, stored_at, number, payload = row
    if is_of_schema_2(payload):
        data = map_of(row, context(number))
    else:
        data = numbered(payload, offset)
        if _looked_up_by(read_map(data)) != (offset, id, call, channel, type, seq, emotion):
            raise ValueError("the columns are not the event's")
    if not isinstance(stored_at, int):
        raise ValueError("no time")
    return Entry(offset, stored_at, topic_of(call, channel, type), data)


def _looked_up_by(event: Any) -> tuple[object, ...]:
    return event.offset, event.id, event.call, event.channel, event.type, event.seq, event.emotion


def stand_in(row: tuple[Any, ...], before: int, now: int) -> Entry:
    """What stands in the place of an event that cannot be read any more; of its row only the offset is sure.

    It keeps the id, call, channel and `seq` where these can still be read: whoever counts misses nothing, and
    nobody takes it for what was felt.

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
