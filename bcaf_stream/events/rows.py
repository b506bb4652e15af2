"""How an event lies in the journal: columns for what is looked up by, and a compact payload for the rest.

The published map names its fields and its labels each time; a row names none of them, and is less than half
as long. Probabilities are stored as whole millionths, which gives back the same floats exactly; where it would
not (a foreign writer with more decimals), the map itself is stored. Times of day are stored as ages. The labels
and the model's name, the same for thousands of events, are a row of their own, the `context`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack

from bcaf_stream.events.fields import checked, is_plain
from bcaf_stream.events.messages import DIGITS, Event, EventType, topic_of

MILLION = float(10**DIGITS)  # a float: dividing by it is quicker than by an int, and gives the same

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
    context   INTEGER NOT NULL,
    payload   BLOB    NOT NULL   -- msgpack list of the other fields
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
COLUMNS = "offset, id, call, channel, type, seq, emotion, stored_at, context, payload"

Row = tuple[int, str, str, str, EventType, int, str | None, int, int, bytes]
_pack = msgpack.Packer().pack  # the caller holds the journal's lock


class Context(NamedTuple):
    """What thousands of events have in common."""

    model: str
    labels: tuple[str, ...]


class Entry(NamedTuple):
    """An event as it is published: where it is in the journal, its topic, and its bytes."""

    offset: int
    stored_at: int
    topic: bytes
    data: bytes


def context_of(event: Event) -> Context:
    return Context(event.model, tuple(event.probs))


def row_of(event: Event, offset: int, stored_at: int, context: int) -> Row:
    """The row of an event that `encode` took."""
    labels = list(event.probs)
    added = () if event.text_confidence is None else (_thin_number(event.text_confidence),)
    payload = _pack(
        (
            (
                event.v,
                event.role,
                event.utterance,
                event.revision,
                event.start_ms,
                event.end_ms,
                None if event.speech_ended_at is None else event.emitted_at - event.speech_ended_at,
                stored_at - event.emitted_at,
            ),
            (
                event.text,
                event.text_source,
                _thin_number(event.confidence),
                _thin(event.probs, labels),
                _thin(event.audio_probs, labels),
                _thin(event.text_probs, labels),
                event.modalities,
                event.degraded,
                event.reason,
                *added,  # rows written before this was known, and those without it, end here
            ),
        )
    )
    return (
        *(offset, event.id, event.call, event.channel, event.type),
        *(event.seq, event.emotion, stored_at, context, payload),
    )


def entry_of(row: Row, context: Context) -> Entry:
    """The row's event as it is published; any damage is an exception, and there is no closed set of them."""
    offset, id, call, channel, type, seq, emotion, stored_at, _, payload = row
    when, rest = msgpack.unpackb(payload)
    v, role, utterance, revision, start_ms, end_ms, speech_age, age = when
    emitted_at = stored_at - age
    text, text_source, confidence, probs, audio_probs, text_probs, modalities, degraded, reason, *added = rest
    labels = context.labels
    values = {
        "v": v,
        "type": type,
        "id": id,
        "call": call,
        "channel": channel,
        "role": role,
        "utterance": utterance,
        "revision": revision,
        "offset": offset,
        "seq": seq,
        "start_ms": start_ms,
        "end_ms": end_ms,
        "speech_ended_at": speech_age if speech_age is None else emitted_at - speech_age,
        "emitted_at": emitted_at,
        "text": text,
        "text_source": text_source,
        "emotion": emotion,
        "confidence": _whole_number(confidence),
        "probs": _whole(probs, labels),
        "audio_probs": _whole(audio_probs, labels),
        "text_probs": _whole(text_probs, labels),
        "modalities": modalities,
        "model": context.model,
        "degraded": degraded,
        "reason": reason,
        **dict(zip(("text_confidence",), map(_whole_number, added), strict=False)),
    }
    if not is_plain(values):
        for name, value in values.items():
            checked(name, value)
    data = msgpack.packb(values)
    return Entry(offset, stored_at, topic_of(call, channel, type), data)


def _thin(probs: Mapping[str, float] | None, labels: list[str]) -> list[int] | dict[str, float] | None:
    if probs is None:
        return None
    values = list(probs.values())
    millionths = [int(value * MILLION + 0.5) for value in values]
    if [whole / MILLION for whole in millionths] == values and list(probs) == labels:
        return millionths
    return dict(probs)


def _thin_number(prob: float | None) -> int | float | None:
    whole = None if prob is None else int(prob * MILLION + 0.5)
    return whole if whole is not None and whole / MILLION == prob else prob


def _whole_number(stored: float | None) -> float | None:
    return stored / MILLION if isinstance(stored, int) else stored


def _whole(stored: Any, labels: tuple[str, ...]) -> dict[str, float] | None:
    if type(stored) is list:
        return {label: whole / MILLION for label, whole in zip(labels, stored, strict=True)}
    probs: dict[str, float] | None = stored
    return probs
