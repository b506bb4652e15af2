"""What each field of event v1 may hold: a quick look that passes what is common and right, and a table of checks.

The table also knows what to say of what is wrong, and never says the value. Both take what is written as strictly
as what is read.
"""

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
        if not (
            m["v"] == VERSION
            and type(m["v"]) is int
            and m["type"] in _TYPES
            and m["role"] in _ROLES
            and m["text_source"] in _TEXT_SOURCES
            and m["probs"] is not None
            and type(m["modalities"]) in _LISTS
            and _MODALITIES.issuperset(m["modalities"])
        ):
            return False
        for name in _NUMBERS:
            value = m[name]
            if (type(value) is not int or not 0 <= value < INT64) and (value is not None or name in _NEEDED):
                return False
        for name in _TEXTS:
            value = m[name]
            if type(value) is not str and (value is not None or name in _NEEDED):
                return False
        return _are_probable(m) and _are_plain_extras(m)
    except (KeyError, TypeError):  # a field is missing, or cannot be looked up in a set
        return False


def _are_probable(m: dict[str, Any]) -> bool:
    for confidence in (m["confidence"], m.get("text_confidence")):
        if confidence is not None and (type(confidence) is not float or not 0.0 <= confidence <= 1.0):
            return False
    for name in _PROBABILITIES:
        probs = m[name]
        if probs is None:
            continue
        if type(probs) is not dict:
            return False
        for label, prob in probs.items():
            if type(label) is not str or type(prob) is not float or not 0.0 <= prob <= 1.0:
                return False
    return True


def _are_plain_extras(m: dict[str, Any]) -> bool:
    degraded, reason = m["degraded"], m.get("reason")
    if reason is not None and type(reason) is not str:
        return False
    return degraded is None or (type(degraded) in _LISTS and all(type(what) is str for what in degraded))


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
    "text_confidence": _or_none(_probability),
}
_TYPES = frozenset(EVENT_TYPES)
_ROLES = frozenset(("customer", "agent", "speaker", None))
_TEXT_SOURCES = frozenset(("given", "asr", "none"))
_MODALITIES = frozenset(("audio", "text"))
_LISTS = (list, tuple)
_NUMBERS = ("seq", "revision", "emitted_at", "utterance", "offset", "start_ms", "end_ms", "speech_ended_at")
_TEXTS = ("id", "call", "channel", "model", "text", "emotion")
_NEEDED = frozenset(("seq", "revision", "emitted_at", "id", "call", "channel", "model"))
_PROBABILITIES = ("probs", "audio_probs", "text_probs")
ADDED = frozenset({"reason", "text_confidence"})  # after v1 was first written: absent in old events
assert list(CHECKS) == [f.name for f in fields(Event)]
