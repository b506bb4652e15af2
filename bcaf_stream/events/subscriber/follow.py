"""The pure half of a subscriber: live events and replayed ones in, each event once out.

Without replay `LiveFollower` says what is missing. With it `Follower` gets that back: `base` is the offset up to
which everything is known to have been delivered. Live events go out at once as long as nothing can be missing
before them; otherwise they wait while the replay fills the gap from `base` on (the Clone pattern of the ZeroMQ
guide). What shows a gap: an offset that is not the next one, where all topics are subscribed to; a `seq` that is
not the next one of its call; and for what no later event shows, the heartbeat, whose offset is compared by asking
the hub how many events of these topics there are.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from bcaf_stream.errors import EventError
from bcaf_stream.events.event import EVERYTHING, Event

MAX_PENDING = 50_000  # live events that wait for a replay; beyond it they come by replay as well
MAX_CALLS = 100_000  # remembered at once; the call that was silent for longest is forgotten first

Start = Literal["start", "new", "last"] | dict[str, int]


class Delivered(NamedTuple):
    """An event, the base it left, and whether it came live."""

    event: Event
    base: int
    live: bool


@dataclass(frozen=True, slots=True)
class EventGap:
    """Events `first` to `last` (`seq`, both included) of a call were missed.

    `first` is 0 when the call had begun before its first event was seen.
    """

    call: str
    first: int
    last: int

    @property
    def events(self) -> int:
        return self.last - self.first + 1


class GapDetector:
    """Takes events as they arrive and tells what is missing before each: where `seq` jumps, there was a loss.

    A call that is forgotten (beyond `max_calls`) and comes back is reported as missed from its beginning.
    """

    def __init__(self, max_calls: int = MAX_CALLS) -> None:
        self._max_calls = max_calls
        self._next: OrderedDict[str, int] = OrderedDict()

    def push(self, event: Event) -> EventGap | None:
        """The gap before this event, if there is one; an event seen before is none."""
        if not event.call:
            return None  # of the publisher itself: numbered since its start, whenever a subscriber came
        expected = self._next.pop(event.call, 0)
        self._next[event.call] = max(expected, event.seq + 1)
        if len(self._next) > self._max_calls:
            self._next.popitem(last=False)
        return EventGap(event.call, expected, event.seq - 1) if event.seq > expected else None


class LiveFollower:
    """Delivers what comes, and says what is missing before it; asks for nothing."""

    def __init__(self, on_gap: Callable[[EventGap], None] | None = None) -> None:
        self.gaps = 0  # how often something was missed
        self.missed = 0  # how many events were
        self._on_gap = on_gap
        self._detector = GapDetector()

    def live(self, event: Event) -> list[Delivered]:
        gap = self._detector.push(event)
        if gap is not None:
            self.gaps += 1
            self.missed += gap.events
            if self._on_gap is not None:
                self._on_gap(gap)
        return [Delivered(event, 0, True)]


class Follower:
    """Decides what is delivered and when the replay is to be asked; does no input or output.

    Args:
        topics: the prefixes that are subscribed to.
        start: where to begin; an offset is the first one wanted.
        seen: ids after that offset which were delivered before a restart, with their offsets.
    """

    def __init__(self, topics: Sequence[str], start: Start, seen: dict[str, int] | None = None) -> None:
        self.start: Start | None = start
        self.base = start["offset"] - 1 if isinstance(start, dict) and "offset" in start else 0
        self.filling = False  # a replay runs
        self.wants_fill = True
        self.wants_count: int | None = None  # up to this offset
        self.gaps = 0
        self.duplicates = 0
        self._all = EVERYTHING in topics or "emo." in topics
        self._whole_calls = all(topic == whole_calls(topic) for topic in topics)
        self._since = dict(seen or {})
        self._next_seq: OrderedDict[str, int] = OrderedDict()
        self._pending: deque[Event] = deque()
        self._overflowed = False

    def fill(self) -> Start:
        """Begin a replay: where it has to begin."""
        self.filling, self.wants_fill, self.wants_count = True, False, None
        return self.start if self.start is not None else {"offset": self.base + 1}

    def live(self, event: Event) -> list[Delivered]:
        offset = event.offset
        if offset is None:  # of the hub itself, and in no journal
            return [Delivered(event, self.base, True)]
        if self.filling or self.wants_fill:
            self._wait(event)
            return []
        if offset <= self.base or event.id in self._since:
            self.duplicates += 1
            return []
        if self._is_gap(event, offset):
            self.gaps += 1
            self.wants_fill = True
            self._wait(event)
            return []
        return [self._deliver(event, offset, live=True)]

    def heartbeat(self, offset: int | None) -> None:
        """The hub has published everything up to `offset`."""
        if self.filling or self.wants_fill or offset is None or offset <= self.base:
            return
        if self._all:
            self.gaps += 1
            self.wants_fill = True
        else:
            self.wants_count = offset

    def counted(self, to: int, count: int) -> None:
        """The hub has `count` events of these topics after `base`, up to `to`."""
        self.wants_count = None
        if self.filling or self.wants_fill or to <= self.base:
            return
        if sum(offset <= to for offset in self._since.values()) == count:
            self._move(to)
        else:
            self.gaps += 1
            self.wants_fill = True

    def replayed(self, event: Event) -> list[Delivered]:
        if event.offset is None:
            raise EventError("replay: an event without its offset")
        if (event.offset <= self.base and self.start is None) or event.id in self._since:
            self.duplicates += 1
            return []
        return [self._deliver(event, event.offset, live=False)]

    def filled(self, reached: int) -> list[Delivered]:
        """The replay gave everything up to `reached`: what waited goes on."""
        if self.start == "new" and self._pending:  # these came since: they are new as well
            reached = min(reached, (self._pending[0].offset or 0) - 1)
        self.filling, self.start = False, None
        self._move(max(self.base, reached))
        if self._overflowed:
            self._overflowed, self.wants_fill = False, True
        waiting, self._pending = self._pending, deque()
        return [delivered for event in waiting for delivered in self.live(event)]

    def interrupted(self) -> None:
        """The replay broke off: it is to be asked again, from where it came to."""
        self.filling, self.wants_fill = False, True

    def _wait(self, event: Event) -> None:
        if len(self._pending) >= MAX_PENDING:
            self._pending.clear()
            self._overflowed = True
        self._pending.append(event)

    def _is_gap(self, event: Event, offset: int) -> bool:
        if offset == self.base + 1:
            return False
        return self._all or (self._whole_calls and event.seq != self._next_seq.get(event.call, 0))

    def _deliver(self, event: Event, offset: int, live: bool) -> Delivered:
        self._next_seq[event.call] = max(self._next_seq.pop(event.call, 0), event.seq + 1)
        if len(self._next_seq) > MAX_CALLS:
            self._next_seq.popitem(last=False)
        if live and offset != self.base + 1:
            self._since[event.id] = offset
        elif self.start not in ("last",):
            self.start = None
            self._move(offset)
        return Delivered(event, self.base, live)

    def _move(self, base: int) -> None:
        self.base = base
        if self._since:
            self._since = {id: offset for id, offset in self._since.items() if offset > base}


def parse_start(text: str) -> Start:
    """`start`, `new`, `last`, an offset, or a time as ISO 8601 (2026-02-28T12:00).

    Raises:
        EventError: it is none of them.
    """
    if text in ("start", "new", "last"):
        return text  # type: ignore[return-value]
    if text.isdecimal():
        return {"offset": int(text)}
    try:
        return {"time": int(datetime.fromisoformat(text).timestamp() * 1e9)}
    except (ValueError, OverflowError):
        raise EventError(
            f"{text!r}: must be start, new, last, an offset, or a time like 2026-02-28T12:00"
        ) from None


def whole_calls(topic: str) -> str:
    """The prefix of the whole calls that a prefix chooses a part of."""
    parts = topic.split(".")
    return topic if len(parts) < 4 or parts[3:] == [""] else ".".join(parts[:3]) + "."
