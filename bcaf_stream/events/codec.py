"""Event v1 as msgpack bytes and as one JSON line: the same map, checked field by field in both directions.

Everything here follows from the table of fields in `event`. msgspec reads and checks the map in one pass; what is
written is read before it leaves, so that no process can publish an event that another one refuses. Fields that a
reader does not know are ignored. Errors name the field and what it may hold, never its value.
"""

import json
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, get_type_hints

import msgpack
import msgspec
from msgspec import UNSET, UnsetType, inspect

from bcaf_stream.errors import EventError
from bcaf_stream.events.event import SINCE_1_0, Event

LIMITS = {"max_array_len": 10_000, "max_map_len": 10_000}  # what a nested header may claim before it is believed

TYPES: dict[str, Any] = get_type_hints(Event, include_extras=True)  # each field's name and what it may hold
FIELDS = tuple(field.name for field in fields(Event))
ADDED = FIELDS[FIELDS.index("reason") + 1 :]  # left out of the map where they are None
REQUIRED = FIELDS[: -len(ADDED)]  # of the map, but for those that the first writers did not know


def _written(name: str) -> tuple[Any, ...]:
    if name in ADDED:
        return name, TYPES[name] | UnsetType, UNSET
    return (name, TYPES[name], None) if name in SINCE_1_0 else (name, TYPES[name])


EventMap = msgspec.defstruct("EventMap", [_written(name) for name in FIELDS], frozen=True)
"""The map as it is written: a field that is left out is UNSET."""


def _as_float(value: object) -> float:
    if isinstance(value, float):  # numpy's
        return float(value)
    raise TypeError


_encode = msgspec.msgpack.Encoder(enc_hook=_as_float).encode
_decode = msgspec.msgpack.Decoder(EventMap).decode
_values: Callable[[Event], tuple[Any, ...]] = attrgetter(*FIELDS)
_OFFSET = REQUIRED.index("offset")
_OPEN = b"\xa6offset\xc0"  # the key and nil, as msgpack writes them


def encode(event: Event) -> bytes:
    """The msgpack map of the event.

    Raises:
        EventError: a field holds what event v1 does not allow (NaN, a wrong type).
    """
    return _packed(event, _values(event))


def draft(event: Event) -> bytes:
    """`encode` of an event whose offset is not known yet."""
    values = _values(event)
    return _packed(event, (*values[:_OFFSET], None, *values[_OFFSET + 1 :]))


def numbered(draft: bytes, offset: int) -> bytes:
    """The msgpack map of a draft's event with its offset."""
    # Found in no text before it: this is no valid UTF-8.
    return draft.replace(_OPEN, _OPEN[:-1] + _encode(offset), 1)


def read_map(data: bytes) -> Any:
    """The EventMap of these bytes; what is wrong with them is an exception, of no closed set."""
    return _decode(data)


def _packed(event: Event, values: tuple[Any, ...]) -> bytes:
    added = [UNSET if value is None else value for value in values[len(REQUIRED) :]]
    try:
        return _encode(_decode(_encode(EventMap(*values[: len(REQUIRED)], *added))))
    except Exception:
        raise _refusal({name: getattr(event, name) for name in FIELDS}) from None


def decode(data: bytes) -> Event:
    """The event of a msgpack map; no input raises anything but EventError."""
    try:
        return _event(_decode(data))
    except Exception:
        pass
    try:
        values = msgpack.unpackb(data, **LIMITS)
    # msgpack documents no closed set of errors ("other exceptions can be raised during unpacking")
    except Exception as error:
        raise EventError(f"event: not a msgpack map ({type(error).__name__})") from None
    raise _refusal(values)


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
    values: dict[str, Any] = msgspec.msgpack.decode(encode(event))
    return values


def from_map(data: Any) -> Event:
    """The event of plain values.

    Raises:
        EventError: not a map, a required field is missing, or a value is not allowed.
    """
    if isinstance(data, dict):
        try:
            return _event(_decode(_encode({name: data[name] for name in FIELDS if name in data})))
        except Exception:
            pass
    raise _refusal(data)


def _event(written: Any) -> Event:
    values = msgspec.structs.asdict(written)
    for name in ADDED:
        if values[name] is UNSET:
            del values[name]
    return Event(**values)


def _refusal(values: object) -> EventError:
    """What is wrong with the values of an event that was refused: the first field that is, by itself."""
    if not isinstance(values, dict):
        return EventError("event: must be a map")
    for name in FIELDS:
        if name not in values:
            if name in ADDED or name in SINCE_1_0:
                continue
            return EventError(f"event: the field {name} is missing")
        try:
            msgspec.msgpack.decode(_encode(values[name]), type=TYPES[name])
        except Exception:
            return EventError(f"event: {name} must be {_allowed(inspect.type_info(TYPES[name]))}")
    return EventError("event: not a map of event v1")


def _allowed(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=types):
            return " or ".join(_allowed(each) for each in types if not isinstance(each, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.IntType():
            return "a whole number from 0"
        case inspect.FloatType(ge=-1, le=1):
            return "a number from -1 to 1"
        case inspect.FloatType(le=1):
            return "a probability from 0 to 1"
        case inspect.FloatType():
            return "a finite number"
        case inspect.BoolType():
            return "true or false"
        case inspect.DictType(value_type=each):
            return f"a map of names, each with {_allowed(each)}"
        case inspect.ListType(item_type=each) | inspect.VarTupleType(item_type=each):
            return f"a list, each item {_allowed(each)}"
    return "a string of valid Unicode"
