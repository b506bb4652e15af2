"""What may be asked of the replay socket, and how often; pure but for the clock."""

import time
from collections import OrderedDict
from typing import Any

import msgpack

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import LIMITS
from bcaf_stream.events.fields import INT64

MAX_CREDIT = 100_000  # events of one replay that a client may want at once
MAX_ASKERS = 10_000  # remembered at once


class Pace:
    """Lets each asker ask `per_second` times on average, and twice as often at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def allows(self, asker: bytes, now: float | None = None) -> bool:
        """Whether this one more is allowed; it counts if it is."""
        now = time.monotonic() if now is None else now
        most = 2 * self._per_second
        left, since = self._left.pop(asker, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        self._left[asker] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > MAX_ASKERS:
            self._left.popitem(last=False)
        return left >= 1


def parse_request(data: bytes) -> dict[str, Any]:
    """The map of a request; raises EventError, as the next two do."""
    try:
        request = msgpack.unpackb(data, **LIMITS)
    # msgpack documents no closed set of errors
    except Exception as error:
        raise EventError(f"request: not a msgpack map ({type(error).__name__})") from None
    if not isinstance(request, dict) or request.get("v") != 1:
        raise EventError("request: must be a map with v 1")
    whole(request, "id", INT64)
    return request


def whole(request: dict[str, Any], name: str, high: int) -> int:
    """A whole number of the request, cut to `high`."""
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < INT64:
        raise EventError(f"request: {name} must be a whole number from 0")
    return min(value, high)


def prefixes_of(request: dict[str, Any]) -> tuple[bytes, ...]:
    """The topics of the request."""
    topics = request.get("topics")
    if not isinstance(topics, list) or not 0 < len(topics) <= 1000 or any(type(t) is not str for t in topics):
        raise EventError("request: topics must be a list of up to 1000 prefixes")
    return tuple(topic.encode("utf-8", "replace") for topic in topics)
