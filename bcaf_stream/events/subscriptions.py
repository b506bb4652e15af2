"""What each connection to the live socket has subscribed to, and whether it asks for more than it may; pure.

ZeroMQ keeps every subscription that it is sent, and would read them for as long as somebody sends. So a connection
that is beyond its limits is dropped, and with it goes what ZeroMQ keeps for it.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

EACH_BYTES = 65_536  # of one connection's subscriptions
ALL_BYTES = 2_000_000  # of everybody's; ZeroMQ takes up to fifty times as much where prefixes begin differently
MAX_SOURCES = 10_000  # remembered at once


class RateLimiter:
    """Lets each source ask `per_second` times on average, and twice as often at once: a token bucket for each."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def allows(self, source: bytes, now: float | None = None) -> bool:
        """Whether this one more is allowed; it counts if it is. `now` is seconds of a monotonic clock."""
        now = time.monotonic() if now is None else now
        most = 2 * self._per_second
        left, since = self._left.pop(source, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        self._left[source] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > MAX_SOURCES:
            self._left.popitem(last=False)
        return left >= 1


class Connection(NamedTuple):
    """A connection to the socket: its descriptor, and the inode by which a later one of that number is another."""

    descriptor: int
    inode: int


class Subscriber:
    """The subscriptions of one connection: each name with what was granted for it."""

    def __init__(self) -> None:
        self.granted: dict[bytes, tuple[bytes, ...]] = {}
        self.uses: Counter[bytes] = Counter()  # of each prefix that was granted
        self.bytes = 0
        self.dropped = False  # and not yet gone


class Subscriptions:
    """Takes what connections send, in its order.

    Args:
        most: names for one connection; it may change as many in a second, and twice as many at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._changes = RateLimiter(most)
        self._subscribers: dict[Connection, Subscriber] = {}
        self.bytes = 0  # what all of them take

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._subscribers))

    def names(self) -> Iterator[bytes]:
        """All subscriptions; the same one of two connections comes twice."""
        return (name for subscriber in self._subscribers.values() for name in subscriber.granted)

    def add(self, connection: Connection, name: bytes, granted: Iterable[bytes]) -> list[bytes]:
        """One more subscription, and what is granted for it; returns what of that is new for the connection."""
        subscriber = self._subscribers.setdefault(connection, Subscriber())
        if name in subscriber.granted or subscriber.dropped:
            return []
        subscriber.granted[name] = wanted = tuple(granted)
        subscriber.uses.update(wanted)
        self._count(subscriber, len(name))
        return [prefix for prefix in wanted if subscriber.uses[prefix] == 1]

    def remove(self, connection: Connection, name: bytes) -> list[bytes]:
        """One subscription less; returns what no other one of the connection has."""
        subscriber = self._subscribers.get(connection)
        if subscriber is None or name not in subscriber.granted:
            return []
        granted = subscriber.granted.pop(name)
        self._count(subscriber, -len(name))
        subscriber.uses.subtract(granted)
        return [prefix for prefix in granted if not subscriber.uses[prefix]]

    def excess(self, connection: Connection, now: float) -> Connection | None:
        """The connection to drop after this one has sent something at `now` (seconds): itself, or the heaviest.

        A connection is named once.
        """
        subscriber = self._subscribers.setdefault(connection, Subscriber())
        if subscriber.dropped:
            return None
        allowed = self._changes.allows(b"%d:%d" % connection, now)
        if not allowed or len(subscriber.granted) > self._most or subscriber.bytes > EACH_BYTES:
            return self._dropped(connection)
        if self.bytes > ALL_BYTES:
            return self._dropped(max(self._subscribers, key=lambda each: self._subscribers[each].bytes))
        return None

    def is_dropped(self, connection: Connection) -> bool:
        """Whether what still comes of a connection is to be left out of account."""
        subscriber = self._subscribers.get(connection)
        return subscriber is not None and subscriber.dropped

    def forget(self, is_gone: Callable[[Connection], bool]) -> None:
        """Leave out the connections that are gone."""
        for connection in [connection for connection in self._subscribers if is_gone(connection)]:
            self.bytes -= self._subscribers.pop(connection).bytes

    def _dropped(self, connection: Connection) -> Connection:
        subscriber = self._subscribers[connection]
        self._count(subscriber, -subscriber.bytes)
        subscriber.granted.clear()
        subscriber.uses.clear()
        subscriber.dropped = True
        return connection

    def _count(self, subscriber: Subscriber, change: int) -> None:
        subscriber.bytes += change
        self.bytes += change
