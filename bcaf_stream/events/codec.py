"""Event v1 as msgpack bytes and as one JSON line: the same map, checked field by field in both directions.

Unusual: what is written is checked as strictly as what is read, so that no process can publish an event that
another one refuses. Fields that a reader does not know are ignored. Errors name the field, never its value.
Each event is checked twice at most: `is_plain` passes what is common and right in a few microseconds; the rest
goes through the table of `fields`, which also knows what to say.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

import msgpack

from bcaf_stream.errors import EventError
from bcaf_stream.events.fields import ADDED, CHECKS, checked, is_plain
from bcaf_stream.events.messages import Event

LIMITS = {"max_array_len": 10_000, "max_map_len": 10_000}  # what a nested header may claim before it is believed


def encode(event: Event) -> bytes:
    """The msgpack map of the event.

    Raises:
        EventError: a field holds what event v1 does not allow (NaN, a wrong type).
    """
    return _packed(_values(event))


def draft(event: Event) -> bytes:
    """`encode` of an event whose offset is not known yet."""
    values = _values(event)
    values["offset"] = None
    return _packed(values)


def numbered(draft: bytes, offset: int) -> bytes:
    """The msgpack map of a draft's event with its offset."""
    # Found in no text before it: this is no valid UTF-8.
    return draft.replace(_OPEN, _OPEN[:-1] + _own.pack(offset), 1)


def _packed(values: dict[str, Any]) -> bytes:
    if is_plain(values):
        try:
            return _own.pack(values)
        except UnicodeEncodeError:
            pass  # the table below names the field
    return bytes(msgpack.packb(_checked_map(values)))


def decode(data: bytes) -> Event:
    """The event of a msgpack map; no input raises anything but EventError."""
    try:
        values = msgpack.unpackb(data, **LIMITS)
        if type(values) is dict and is_plain(values):
            return _event(values)
        return from_map(values)
    except EventError:
        raise
    # msgpack documents no closed set of errors ("other exceptions can be raised during unpacking")
    except Exception as error:
        raise EventError(f"event: not a msgpack map ({type(error).__name__})") from None


def to_json(event: Event) -> str:
    """The event as one line of JSON, without its newline.

    Raises:
        EventError: a field holds what event v1 does not allow (NaN, a wrong type).
    """
    return json.dumps(to_map(event), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_json(line: str | bytes) -> Event:
    """The event of one line of JSON; no input raises anything but EventError."""
    try:
        return from_map(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise EventError(f"event: not a line of JSON ({type(error).__name__})") from None


def to_map(event: Event) -> dict[str, Any]:
    """The event as plain values in the order of event v1; raises EventError like `encode`."""
    return _checked_map(_values(event))


def _checked_map(values: dict[str, Any]) -> dict[str, Any]:
    right = {name: checked(name, value) for name, value in values.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in right.items()}


def from_map(data: Any) -> Event:
    """The event of plain values.

    Raises:
        EventError: not a map, a required field is missing, or a value is not allowed.
    """
    if not isinstance(data, dict):
        raise EventError("event: must be a map")
    missing = [name for name in CHECKS if name not in data and name not in ADDED]
    if missing:
        raise EventError(f"event: the field {missing[0]} is missing")
    return Event(**{name: checked(name, data[name]) for name in CHECKS if name in data})


def _event(values: dict[str, Any]) -> Event:
    """The event of a map that `is_plain` passed."""
    known = values if values.keys() <= CHECKS.keys() else {name: values[name] for name in CHECKS if name in values}
    known["modalities"] = tuple(known["modalities"])
    if known["degraded"] is not None:
        known["degraded"] = tuple(known["degraded"])
    return Event(**known)


class _Own(threading.local):
    """A packer of each thread's own: it keeps its buffer, and is not made for each event."""

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer().pack


_own = _Own()
_OPEN = b"\xa6offset\xc0"  # the key and nil, as msgpack writes them


def _values(event: Event) -> dict[str, Any]:
    """The fields in the order of event v1, spelled out: half the time of a loop, and it runs for each event."""
    values: dict[str, Any] = {
        "v": event.v,
        "type": event.type,
        "id": event.id,
        "call": event.call,
        "channel": event.channel,
        "role": event.role,
        "utterance": event.utterance,
        "revision": event.revision,
        "offset": event.offset,
        "seq": event.seq,
        "start_ms": event.start_ms,
        "end_ms": event.end_ms,
        "speech_ended_at": event.speech_ended_at,
        "emitted_at": event.emitted_at,
        "text": event.text,
        "text_source": event.text_source,
        "emotion": event.emotion,
        "confidence": event.confidence,
        "probs": event.probs,
        "audio_probs": event.audio_probs,
        "text_probs": event.text_probs,
        "modalities": event.modalities,
        "model": event.model,
        "degraded": event.degraded,
        "reason": event.reason,
    }
    if event.text_confidence is not None:
        values["text_confidence"] = event.text_confidence
    return values
