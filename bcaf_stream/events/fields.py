"""What each field of event v1 may hold: a quick look that passes what is common and right, and a table of checks.

The table also knows what to say of what is wrong, and never says the value. Both take what is written as strictly
as what is read.
"""

# ruff: noqa: SIM110 - a loop is twice as fast as all() with a generator, and this runs for each event
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any

from bcaf_stream.errors import EventError
from bcaf_stream.events.messages import EVENT_TYPES, VERSION, Event

Check = Callable[[Any], Any]  # the value as an Event holds it, or ValueError that says what is allowed

INT64 = 2**63


def is_plain(m: dict[str, Any]) -> bool:
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


def checked(name: str, value: Any) -> Any:
    """The value as an Event holds it; raises EventError that names the field."""
    try:
        return CHECKS[name](value)
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


CHECKS: dict[str, Check] = {
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
_TYPES = frozenset(EVENT_TYPES)
_ROLES = frozenset(("customer", "agent", "speaker", None))
_TEXT_SOURCES = frozenset(("given", "asr", "none"))
_MODALITIES = frozenset(("audio", "text"))
_LISTS = (list, tuple)
ADDED = frozenset({"reason"})  # fields that came after v1 was first written: absent in old events
assert list(CHECKS) == [f.name for f in fields(Event)]
