"""What the parsers of several protocols share: their answers, and fields of JSON that a stranger wrote.

Errors name the field and never quote its content.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import MAX_NAME, CallEnd, CallStart, ChannelConfig, TextUpdate
from bcaf_stream.types import AudioChunk, Gap

MAX_WHOLE = 2**53


def require_unique_names(channels: Mapping[Any, ChannelConfig]) -> None:
    """Check the channels of a configuration.

    Raises:
        ValueError: there is none, or two have one name.
    """
    if not channels or len({channel.name for channel in channels.values()}) < len(channels):
        raise ValueError("channels must be at least one, each with its own name")


@dataclass(frozen=True, slots=True)
class Reply:
    """What is to be sent back to the peer, as it is."""

    data: str | bytes


Item = CallStart | AudioChunk | Gap | TextUpdate | CallEnd | Reply


def json_map(what: str, data: str | bytes) -> dict[str, Any]:
    """The map that a JSON text holds.

    Raises:
        LinkError: it is no JSON, or not a map.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):  # ValueError: not JSON, not UTF-8, or a number of thousands of digits
        raise LinkError(f"{what}: not a JSON message") from None
    if not isinstance(fields, dict):
        raise LinkError(f"{what}: must be a JSON map")
    return fields


def group(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The map under `name`, empty where there is none.

    Raises:
        LinkError: it is something else.
    """
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise LinkError(f"message: {name} must be a map")
    return value


def whole(fields: Mapping[str, Any], *names: str) -> int | None:
    """The first of these fields that is given, a whole number from 0; telephony platforms write it as text.

    Raises:
        LinkError: it is no such number.
    """
    for name in names:
        value = fields.get(name)
        if value is None:
            continue
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_WHOLE:
            raise LinkError(f"message: {name} must be a whole number from 0")
        return value
    return None


def name_in(fields: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that is given, as the name of a call, channel or session.

    Raises:
        LinkError: it is no text of 1 to MAX_NAME characters, or not valid Unicode.
    """
    for name in names:
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not is_unicode(value):
            raise LinkError(f"message: {name} must have 1 to {MAX_NAME} characters")
        return value
    return None


def is_unicode(text: str) -> bool:
    """Whether the text can be written in UTF-8: JSON may hold halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else True
