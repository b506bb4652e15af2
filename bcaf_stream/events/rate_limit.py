"""How often somebody may ask: a token bucket for each."""

import time
from collections import OrderedDict

MAX_ASKERS = 10_000  # remembered at once


class RateLimiter:
    """Lets each asker ask `per_second` times on average, and twice as often at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def allows(self, asker: bytes, now: float | None = None) -> bool:
        """Whether this one more is allowed; it counts if it is. `now` is seconds of a monotonic clock."""
        now = time.monotonic() if now is None else now
        most = 2 * self._per_second
        left, since = self._left.pop(asker, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        self._left[asker] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > MAX_ASKERS:
            self._left.popitem(last=False)
        return left >= 1
