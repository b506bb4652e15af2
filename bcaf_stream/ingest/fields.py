"""The one validator of untrusted input: fields of a JSON or msgpack map, and channels of a configuration.

Errors begin with whose message it is, name the field, and never quote its content.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, get_args

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import MAX_CHANNELS, MAX_INT, MAX_NAME, MAX_TEXT, RATES, ChannelConfig
from bcaf_stream.types import Channel, Role

T = TypeVar("T")


class Fields:
    """The map of one message; `what` is whose. Each method but `get` raises LinkError for what it cannot take."""

    __slots__ = ("_fields", "_what")

    def __init__(self, what: str, fields: Any) -> None:
        if not isinstance(fields, dict):
            raise LinkError(f"{what}: must be a map")
        self._what = what
        self._fields: dict[Any, Any] = fields

    @classmethod
    def of_json(cls, what: str, data: str | bytes) -> "Fields":
        try:
            return cls(what, json.loads(data))
        except (ValueError, RecursionError):  # not JSON, not UTF-8, or a number of thousands of digits
            raise LinkError(f"{what}: not a JSON message") from None

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def get(self, name: str) -> Any:
        return self._fields.get(name)

    def whole(self, *names: str) -> int | None:
        """The first of these that is given, a whole number from 0; telephony platforms write it as text."""
        for name in names:
            value = self._fields.get(name)
            if value is None:
                continue
            if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
                value = int(value)
            if not is_whole(value):
                raise self.wrong(name, "must be a whole number from 0")
            return value
        return None

    def name(self, *names: str) -> str | None:
        """The first of these that is given, as the name of a call, channel or session."""
        for name in names:
            value = self._fields.get(name)
            if value is None:
                continue
            if not is_name(value):
                raise self.wrong(name, f"must have 1 to {MAX_NAME} characters")
            return str(value)
        return None

    def text(self, name: str) -> str:
        return text_in(self._what, name, self._fields.get(name))

    def flag(self, name: str, default: bool) -> bool:
        value = self._fields.get(name)
        if not isinstance(value, bool | None):
            raise self.wrong(name, "must be true or false")
        return default if value is None else value

    def group(self, name: str) -> "Fields":
        """The map under `name`, empty where there is none."""
        value = self._fields.get(name)
        if not isinstance(value, dict | None):
            raise self.wrong(name, "must be a map")
        return Fields(self._what, value or {})

    def one_of(self, name: str, kind: Any) -> Any:
        """One of the words of a Literal."""
        return one_of(self._what, name, self._fields.get(name), kind)

    def needed(self, name: str, kind: type[T]) -> T:
        value = self._fields.get(name)
        if not isinstance(value, kind):
            raise self.wrong(name, f"must be given as {kind.__name__}")
        return value

    def needed_whole(self, name: str) -> int:
        value = self._fields.get(name)
        if not is_whole(value):
            raise self.wrong(name, "must be a whole number from 0")
        return value

    def needed_name(self, name: str) -> str:
        value = self.name(name)
        if value is None:
            raise self.wrong(name, f"must be given, and have 1 to {MAX_NAME} characters")
        return value

    def rate(self) -> int:
        rate = self.needed_whole("rate")
        if not RATES[0] <= rate <= RATES[1]:
            raise self.wrong("rate", f"must be from {RATES[0]} to {RATES[1]} Hz, not {rate}")
        return rate

    def channels(self) -> tuple[Channel, ...]:
        """[[name, role], ...]"""
        listed = self.needed("channels", list)
        if not 1 <= len(listed) <= MAX_CHANNELS:
            raise self.wrong("channels", f"must be 1 to {MAX_CHANNELS}, each with its own name")
        channels = tuple(self._channel(item) for item in listed)
        if len({channel.name for channel in channels}) < len(channels):
            raise self.wrong("channels", f"must be 1 to {MAX_CHANNELS}, each with its own name")
        return channels

    def _channel(self, item: Any) -> Channel:
        if not isinstance(item, list) or len(item) != 2:
            raise LinkError(f"{self._what}: a channel must be [name, role]")
        if not is_name(item[0]):
            raise LinkError(f"{self._what}: the name of a channel must have 1 to {MAX_NAME} characters")
        return Channel(item[0], one_of(self._what, "role", item[1], Role))

    def wrong(self, name: str, why: str) -> LinkError:
        return LinkError(f"{self._what}: {name} {why}")


def is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_INT


def is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME and is_unicode(value)


def is_unicode(text: str) -> bool:
    """Whether the text can be written in UTF-8: JSON may hold halves of surrogate pairs."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def one_of(what: str, name: str, value: Any, kind: Any) -> Any:
    """One of the words of a Literal.

    Raises:
        LinkError: it is none of them.
    """
    if not isinstance(value, str) or value not in get_args(kind):
        raise LinkError(f"{what}: {name} must be one of {', '.join(get_args(kind))}")
    return value


def text_in(what: str, name: str, value: Any) -> str:
    """Words of a call.

    Raises:
        LinkError: it is no text, too long a one, or not valid Unicode.
    """
    if not isinstance(value, str) or len(value) > MAX_TEXT or not is_unicode(value):
        raise LinkError(f"{what}: {name} must be a string of at most {MAX_TEXT} characters")
    return value


def require_unique_names(channels: Mapping[Any, ChannelConfig] | Sequence[ChannelConfig]) -> None:
    """Check the channels of a configuration.

    Raises:
        ValueError: there is none, or two have one name.
    """
    listed = list(channels.values()) if isinstance(channels, Mapping) else channels
    if not listed or len({channel.name for channel in listed}) < len(listed):
        raise ValueError("channels: there must be at least one, each with its own name")
