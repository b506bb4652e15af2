"""What may be asked of the replay socket: one class per kind of request; nothing else gets past `request_of`.

The classes are also where asyncapi.json has the requests from.
"""

from typing import Annotated, Any, Literal

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import LIMITS
from bcaf_stream.events.event import INT64

MAX_CREDIT = 100_000  # events of one replay that a client may want at once
MIN_SPEED = 0.001

Whole = Annotated[int, Field(ge=0, lt=INT64)]
Topics = Annotated[
    list[str],
    Field(min_length=1, max_length=1000, description="prefixes of topics, for instance emo.v1.CALL."),
]


class Request(BaseModel):
    """What all requests have in common; fields that are not known are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")
    v: Literal[1]
    id: Whole = Field(description="chosen by the client, another one for each replay or count; in each answer")


class FromOffset(BaseModel):
    """From this offset on, that included."""

    model_config = ConfigDict(strict=True, frozen=True)
    offset: Whole


class FromTime(BaseModel):
    """From what was stored then (unix ns) on."""

    model_config = ConfigDict(strict=True, frozen=True)
    time: Whole


class ReplayRequest(Request):
    """Give what is in the journal."""

    ask: Literal["replay"]
    start: Literal["start", "new", "last"] | FromOffset | FromTime = Field(
        alias="from",
        description="start: the first event; new: nothing, an end at once, which tells where the journal is; "
        "last: the latest event of each channel of each call; offset: this one included; time: stored then "
        "(unix ns) or later",
    )
    topics: Topics
    credit: Whole = Field(description=f"so many events may come at first; more than {MAX_CREDIT} counts as that")
    speed: float | None = Field(
        default=None, ge=MIN_SPEED, description="1: in original time; null or absent: as fast as it goes"
    )


class CreditRequest(Request):
    """So many more events of the replay with this id may come."""

    ask: Literal["credit"]
    n: Whole


class CancelRequest(Request):
    """No more of the replay with this id."""

    ask: Literal["cancel"]


class CountRequest(Request):
    """How many events of these topics lie after one offset, up to another, that included?"""

    ask: Literal["count"]
    after: Whole
    to: Whole
    topics: Topics


AnyRequest = ReplayRequest | CreditRequest | CancelRequest | CountRequest
KINDS: dict[str, type[AnyRequest]] = {
    "replay": ReplayRequest,
    "credit": CreditRequest,
    "cancel": CancelRequest,
    "count": CountRequest,
}
_WHOLE = "must be a whole number from 0"
_ALLOWED: dict[str, str] = {
    "v": "must be 1",
    "topics": "must be a list of 1 to 1000 prefixes",
    "from": 'must be start, new, last, {"offset": n} or {"time": ns}',
    "speed": f"must be a number from {MIN_SPEED}, or null",
}


def unpacked(data: bytes) -> dict[str, Any]:
    """The map of a request's frame; raises EventError, which never says what was sent."""
    try:
        values = msgpack.unpackb(data, **LIMITS)
    except Exception as error:  # msgpack documents no closed set of errors
        raise EventError(f"request: not a msgpack map ({type(error).__name__})") from None
    if type(values) is not dict:
        raise EventError("request: must be a map with v 1")
    return values


def id_of(values: dict[str, Any]) -> int:
    """What the client called its request, for the answer; 0 where nobody can tell."""
    id = values.get("id")
    return id if type(id) is int and 0 <= id < INT64 else 0


def request_of(values: dict[str, Any]) -> AnyRequest:
    """The request of a map; no map raises anything but EventError, which names the field and never its value."""
    ask = values.get("ask")
    kind = KINDS.get(ask) if type(ask) is str else None
    v = values.get("v")
    if type(v) is not int or v != 1:  # True is 1 too
        raise EventError("request: must be a map with v 1")
    if kind is None:
        raise EventError(f"request: ask must be one of {', '.join(KINDS)}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        name = str(error.errors(include_input=False, include_url=False)[0]["loc"][0])
        raise EventError(f"request: {name} {_ALLOWED.get(name, _WHOLE)}") from None
