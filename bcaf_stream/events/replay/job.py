"""One running replay: what was read for it, what of that is due, and what its client has no room for; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bcaf_stream.events.journal.rows import Entry
from bcaf_stream.events.subscriptions import Connection

HOLD_S = 30.0  # a client that asked for events and takes none for so long is given up
_LONGEST_REST_S = 0.5


@dataclass(slots=True)
class ReplayJob:
    """A replay of one client; `credit` is how many more events it wants for now, `next` the next offset to read.

    Up to a page is read ahead, whatever the credit: so that the end is seen when it is used up exactly. Times are
    seconds of a monotonic clock; `speed` 1 is original time, None as fast as it goes.
    """

    owner: bytes  # the key or the connection that it counts for
    user: str
    prefixes: tuple[bytes, ...]
    call: str | None
    next: int
    latest: bool
    speed: float | None
    credit: int
    begun: float
    waiting: list[Entry] = field(default_factory=list)  # read, and not sent
    reached: int | None = None  # at the end of the journal: up to where everything was read
    connection: Connection | None = None  # None: not known
    first_at: int | None = None  # `stored_at` of its first event, unix ns
    active_at: float = 0.0  # when it was given something, or asked for more
    held_since: float | None = None  # since when the client has no room
    rest_until: float = 0.0

    def __post_init__(self) -> None:
        self.active_at = self.begun

    @property
    def wants_page(self) -> bool:
        return not self.waiting and self.reached is None

    @property
    def is_over(self) -> bool:
        """Everything was given: its client is to be told so."""
        return not self.waiting and self.reached is not None

    def due_in(self, now: float) -> float:
        """Seconds until it has something to do; negative when it has."""
        if self.held_since is not None:
            return self.rest_until - now
        if not self.waiting:
            return -1.0
        if self.credit <= 0:
            return 1.0
        return -1.0 if self.speed is None else self._due_at(self.waiting[0], self.speed) - now

    def read(self, page: Sequence[Entry], reached: int | None) -> None:
        """Take what was read next, and at the journal's end up to where that was."""
        self.waiting, self.reached = list(page), reached
        if self.first_at is None:
            self.first_at = next((entry.stored_at for entry in page if entry.stored_at), None)

    def due(self, now: float) -> list[Entry]:
        """What is to be sent at `now`: as much as its time has come and the client wants."""
        wanted = self.waiting[: self.credit]
        if self.speed is None:
            return wanted
        speed = self.speed
        return wanted[: next((n for n, e in enumerate(wanted) if self._due_at(e, speed) > now), len(wanted))]

    def sent(self, count: int, now: float) -> None:
        """The first `count` of what waits were sent."""
        self.waiting = self.waiting[count:]
        self.credit -= count
        self.active_at, self.held_since = now, None

    def ask(self, more: int, most: int, now: float) -> None:
        """The client wants `more` events, but not more than `most` at a time."""
        self.credit = min(self.credit + more, most)
        self.active_at = now

    def hold(self, now: float) -> bool:
        """The client had no room: try again later; False when it took nothing for too long."""
        if self.held_since is None:
            self.held_since = now
        self.rest_until = now + min(_LONGEST_REST_S, 0.01 + (now - self.held_since) / 4)
        return now - self.held_since < HOLD_S

    def quiet_s(self, now: float) -> float:
        """For how long its client was given nothing and asked for nothing."""
        return now - self.active_at

    def narrow(self, allowed: tuple[bytes, ...]) -> None:
        """Drop what waits and may not be had any more."""
        self.waiting = [entry for entry in self.waiting if entry.topic.startswith(allowed)]

    def _due_at(self, entry: Entry, speed: float) -> float:
        return self.begun + (entry.stored_at - (self.first_at or entry.stored_at)) / 1e9 / speed
