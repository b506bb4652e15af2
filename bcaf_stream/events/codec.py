"""Event v1 as msgpack bytes and as one JSON line: the same map, checked field by field in both directions.

Unusual: what is written is checked as strictly as what is read, so that no process can publish an event that
another one refuses. Fields that a reader does not know are ignored. Errors name the field, never its value.
Each event is checked twice at most: `_is_plain` passes what is common and right in a few microseconds; the rest
goes through the table of checks, which also knows what to say.
"""

# ruff: noqa: SIM110 - a loop is twice as fast as all() with a generator, and this runs for each event
import contextlib
import json
from collections.abc import Callable, Collection
from dataclasses import fields
from operator import attrgetter
from typing import Any

import msgpack

from bcaf_stream.errors import EventError
from bcaf_stream.events.messages import EVENT_TYPES, VERSION, Event

Check = Callable[[Any], Any]  # the value as an Event holds it, or ValueError that says what is allowed

INT64 = 2**63
LIMITS = {"max_array_len": 10_000, "max_map_len": 10_000}  # what a nested header may claim before it is believed


def encode(event: Event, offset: int | None = None) -> bytes:
    """The msgpack map of the event; `offset` takes the place of the event's own, where given.

    Raises:
        EventError: a field holds what event v1 does not allow (NaN, a wrong type).
    """
    values = dict(zip(_NAMES, _VALUES(event), strict=True))
    if offset is not None:
        values["offset"] = offset
    if _is_plain(values):
        with contextlib.suppress(UnicodeEncodeError):  # the table below names the field
            return bytes(msgpack.packb(values))
    return bytes(msgpack.packb(_checked_map(values)))


def decode(data: bytes) -> Event:
    """The event of a msgpack map; no input raises anything but EventError."""
    try:
        values = msgpack.unpackb(data, **LIMITS)
        if type(values) is dict and _is_plain(values):
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
    return _checked_map(dict(zip(_NAMES, _VALUES(event), strict=True)))


def _checked_map(values: dict[str, Any]) -> dict[str, Any]:
    checked = {name: _checked(name, value) for name, value in values.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in checked.items()}


def from_map(data: Any) -> Event:
    """The event of plain values.

    Raises:
        EventError: not a map, a required field is missing, or a value is not allowed.
    """
    if not isinstance(data, dict):
        raise EventError("event: must be a map")
    missing = [name for name in _CHECKS if name not in data and name not in ADDED]
    if missing:
        raise EventError(f"event: the field {missing[0]} is missing")
    return Event(**{name: _checked(name, data[name]) for name in _CHECKS if name in data})


def _event(values: dict[str, Any]) -> Event:
    """The event of a map that `_is_plain` passed."""
    known = values if len(values) == len(_NAMES) else {name: values[name] for name in _NAMES if name in values}
    known["modalities"] = tuple(known["modalities"])
    if known["degraded"] is not None:
        known["degraded"] = tuple(known["degraded"])
    return Event(**known)


def _is_plain(m: dict[str, Any]) -> bool:
    """Whether every field is of the usual type and in its range; False says nothing but "look closer".

    Strings are not looked into: msgpack takes and gives valid Unicode alone.
    """
    try:
        return (
            m["v"] == VERSION
            and type(m["v"]) is int
            and m["type"] in _TYPES
            and m["role"] in _ROLES
            and m["text_source"] in _TEXT_SOURCES
            and _are_whole(m["seq"], m["revision"], m["emitted_at"])
            and _are_whole_or_none(m["utterance"], m["offset"], m["start_ms"], m["end_ms"], m["speech_ended_at"])
            and _are_text(m["id"], m["call"], m["channel"], m["model"])
            and _are_text_or_none(m["text"], m["emotion"], m.get("reason"))
            and (m["confidence"] is None or (type(m["confidence"]) is float and 0.0 <= m["confidence"] <= 1.0))
            and m["probs"] is not None
            and _are_probabilities(m["probs"], m["audio_probs"], m["text_probs"])
            and type(m["modalities"]) in _LISTS
            and _MODALITIES.issuperset(m["modalities"])
            and (m["degraded"] is None or (type(m["degraded"]) in _LISTS and _are_text(*m["degraded"])))
        )
    except (KeyError, TypeError):  # a field is missing, or cannot be looked up in a set
        return False


def _are_whole(*values: Any) -> bool:
    for value in values:
        if type(value) is not int or not 0 <= value < INT64:
            return False
    return True


def _are_whole_or_none(*values: Any) -> bool:
    for value in values:
        if value is not None and (type(value) is not int or not 0 <= value < INT64):
            return False
    return True


def _are_text(*values: Any) -> bool:
    for value in values:
        if type(value) is not str:
            return False
    return True


def _are_text_or_none(*values: Any) -> bool:
    for value in values:
        if value is not None and type(value) is not str:
            return False
    return True


def _are_probabilities(*maps: Any) -> bool:
    for probs in maps:
        if probs is None:
            continue
        if type(probs) is not dict:
            return False
        for label, prob in probs.items():
            if type(label) is not str or type(prob) is not float or not 0.0 <= prob <= 1.0:
                return False
    return True


def _checked(name: str, value: Any) -> Any:
    try:
        return _CHECKS[name](value)
    except ValueError as error:
        raise EventError(f"event: {name} must be {error}") from None


def _text(value: Any) -> str:
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        pass  # a lone surrogate, which JSON can express and UTF-8 cannot
    raise ValueError("a string of valid Unicode")


def _version(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value == VERSION:
        return value
    raise ValueError(f"{VERSION}: this reader knows no other version")


def _whole(low: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value < INT64:
            return value
        raise ValueError(f"a whole number from {low}")

    return check


def _one_of(allowed: Collection[str]) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise ValueError("one of " + ", ".join(allowed))

    return check


def _probability(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError("a probability from 0 to 1")


def _probabilities(value: Any) -> dict[str, float]:
    if isinstance(value, dict):
        return {_text(label): _probability(prob) for label, prob in value.items()}
    raise ValueError("a map of labels to probabilities")


def _list_of(check: Check) -> Check:
    def check_list(value: Any) -> tuple[Any, ...]:
        if isinstance(value, list | tuple):
            return tuple(check(item) for item in value)
        raise ValueError("a list")

    return check_list


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


_CHECKS: dict[str, Check] = {
    "v": _version,
    "type": _one_of(EVENT_TYPES),
    "id": _text,
    "call": _text,
    "channel": _text,
    "role": _or_none(_one_of(("customer", "agent", "speaker"))),
    "utterance": _or_none(_whole(0)),
    "revision": _whole(0),
    "offset": _or_none(_whole(0)),
    "seq": _whole(0),
    "start_ms": _or_none(_whole(0)),
    "end_ms": _or_none(_whole(0)),
    "speech_ended_at": _or_none(_whole(0)),
    "emitted_at": _whole(0),
    "text": _or_none(_text),
    "text_source": _one_of(("given", "asr", "none")),
    "emotion": _or_none(_text),
    "confidence": _or_none(_probability),
    "probs": _probabilities,
    "audio_probs": _or_none(_probabilities),
    "text_probs": _or_none(_probabilities),
    "modalities": _list_of(_one_of(("audio", "text"))),
    "model": _text,
    "degraded": _or_none(_list_of(_text)),
    "reason": _or_none(_text),
}
_NAMES = tuple(_CHECKS)
_VALUES = attrgetter(*_NAMES)
_TYPES = frozenset(EVENT_TYPES)
_ROLES = frozenset(("customer", "agent", "speaker", None))
_TEXT_SOURCES = frozenset(("given", "asr", "none"))
_MODALITIES = frozenset(("audio", "text"))
_LISTS = (list, tuple)
ADDED = frozenset({"reason"})  # fields that came after v1 was first written: absent in old events
assert list(_CHECKS) == [f.name for f in fields(Event)]
