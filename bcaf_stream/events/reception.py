"""The pure half of a listener: messages in, wanted events out, and the count of what is missing or broken.

`seq` is dense per call, so a jump is a loss.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import decode
from bcaf_stream.events.event import Event, topic_of

MAX_CALLS = 100_000  # remembered at once; the call that was silent for longest is forgotten first


@dataclass(frozen=True, slots=True)
class Gap:
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
    """Takes events as they arrive and tells what is missing before each; pure.

    A call that is forgotten (beyond `max_calls`) and comes back is reported as missed from its beginning.
    """

    def __init__(self, max_calls: int = MAX_CALLS) -> None:
        self._max_calls = max_calls
        self._next: OrderedDict[str, int] = OrderedDict()

    def push(self, event: Event) -> Gap | None:
        """The gap before this event, if there is one; an event seen before is none."""
        if not event.call:
            return None  # of the publisher itself: numbered since its start, whenever a listener came
        expected = self._next.pop(event.call, 0)
        self._next[event.call] = max(expected, event.seq + 1)
        if len(self._next) > self._max_calls:
            self._next.popitem(last=False)
        return Gap(event.call, expected, event.seq - 1) if event.seq > expected else None


class Reception:
    """Turns the messages of the bus into events.

    A channel is chosen here and not by its topic: `seq` counts the whole call, so that a part of it could not
    show what was missed. Events of the call as a whole belong to each channel.
    """

    def __init__(
        self, channel: str | None = None, heartbeats: bool = False, on_gap: Callable[[Gap], None] | None = None
    ) -> None:
        self.gaps = 0  # how often something was missed
        self.missed = 0  # how many events were
        self.broken = 0  # messages that were no event v1, and were skipped
        self._channel = channel
        self._heartbeats = heartbeats
        self._on_gap = on_gap
        self._detector = GapDetector()

    def take(self, frames: Sequence[bytes]) -> Event | None:
        """The event of one message [topic, msgpack]; None when it is broken or was not asked for."""
        try:
            event = _event(frames)
        except EventError:
            self.broken += 1
            return None
        gap = self._detector.push(event)
        if gap is not None:
            self.gaps += 1
            self.missed += gap.events
            if self._on_gap is not None:
                self._on_gap(gap)
        if event.type == "heartbeat":
            return event if self._heartbeats else None
        return event if self._channel is None or event.channel in (self._channel, "") else None


def _event(frames: Sequence[bytes]) -> Event:
    if len(frames) != 2:
        raise EventError("message: must be a topic and an event")
    event = decode(frames[1])
    if topic_of(event.call, event.channel, event.type) != frames[0]:
        raise EventError("message: the topic is not the event's")
    return event
