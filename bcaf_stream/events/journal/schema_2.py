"""Rows of journals that were written before the map was stored as it is: a compact list of values without names.

Probabilities are whole millionths, times of day are ages, and the labels and the model's name, the same for
thousands of events, are a row of their own, the `context`.
"""

from typing import Any, NamedTuple

import msgpack

from bcaf_stream.events.codec import encode
from bcaf_stream.events.event import DIGITS, Event

MILLION = float(10**DIGITS)
_LIST_OF_2 = b"\x92"


class Context(NamedTuple):
    """What thousands of events have in common."""

    model: str
    labels: tuple[str, ...]


def is_of_schema_2(payload: bytes) -> bool:
    return payload[:1] == _LIST_OF_2


def map_of(row: tuple[Any, ...], context: Context) -> bytes:
    """The event's map as it was published; any damage is an exception, and there is no closed set of them."""
    offset, id, call, channel, type, seq, emotion, stored_at, _, payload = row
    when, rest = msgpack.unpackb(payload)
    v, role, utterance, revision, start_ms, end_ms, speech_age, age = when
    emitted_at = stored_at - age
    text, text_source, confidence, probs, audio_probs, text_probs, modalities, degraded, reason, *added = rest
    event = Event(
        v=v,
        type=type,
        id=id,
        call=call,
        channel=channel,
        role=role,
        utterance=utterance,
        revision=revision,
        offset=offset,
        seq=seq,
        start_ms=start_ms,
        end_ms=end_ms,
        speech_ended_at=None if speech_age is None else emitted_at - speech_age,
        emitted_at=emitted_at,
        text=text,
        text_source=text_source,
        emotion=emotion,
        confidence=_number(confidence),
        probs=_probabilities(probs, context.labels) or {},
        audio_probs=_probabilities(audio_probs, context.labels),
        text_probs=_probabilities(text_probs, context.labels),
        modalities=modalities,
        model=context.model,
        degraded=degraded,
        reason=reason,
        text_confidence=_number(added[0]) if added else None,
    )
    return encode(event)


def _number(stored: float | None) -> float | None:
    return stored / MILLION if isinstance(stored, int) else stored


def _probabilities(stored: Any, labels: tuple[str, ...]) -> dict[str, float] | None:
    if type(stored) is list:
        return {label: whole / MILLION for label, whole in zip(labels, stored, strict=True)}
    probs: dict[str, float] | None = stored
    return probs
