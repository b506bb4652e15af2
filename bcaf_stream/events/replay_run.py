"""One running replay: what is next, when it is due, and what waits for a client that does not read; pure."""

from collections.abc import Callable
from dataclasses import dataclass, field

from bcaf_stream.events.rows import Entry

HOLD_S = 30.0  # a client that takes nothing for so long is given up
_LONGEST_REST_S = 0.5
Page = tuple[list[Entry], int | None]  # events; and at the end of the journal, up to where everything was given


@dataclass(slots=True)
class Run:
    """A replay of one client; `credit` is how many more events it wants for now, `next` the next offset.

    Times are seconds of a monotonic clock; `speed` 1 is original time, None as fast as it goes.
    """

    user: str
    prefixes: tuple[bytes, ...]
    call: str | None
    next: int
    latest: bool
    speed: float | None
    credit: int
    begun: float
    first_at: int | None = None  # `stored_at` of its first event, unix ns
    waiting: list[Entry] = field(default_factory=list)  # in original time: read, and not yet due
    held: Page | None = None  # could not be sent, because the client does not read
    held_since: float = 0.0
    rest_until: float = 0.0

    def due_in(self, now: float) -> float:
        """Seconds until it has something to do; negative when it has."""
        if self.held is not None:
            return self.rest_until - now
        if self.credit <= 0:
            return 1.0
        if not self.waiting or self.speed is None:
            return -1.0
        return self._due_at(self.waiting[0], self.speed) - now

    def paced(self, page: Page, now: float) -> Page:
        """Of a page what is due at `now`; the rest waits here."""
        entries, reached = page
        if self.speed is None or not entries:
            return page
        if self.first_at is None:
            self.first_at = entries[0].stored_at
        due = 0
        while due < len(entries) and due < self.credit and self._due_at(entries[due], self.speed) <= now:
            due += 1
        self.waiting = entries[due:]
        return entries[:due], None if self.waiting else reached

    def hold(self, page: Page, now: float) -> bool:
        """Keep what the client did not take, to be sent later; False when it took nothing for too long."""
        if self.held is None:
            self.held_since = now
        self.held = page
        self.rest_until = now + min(_LONGEST_REST_S, 0.01 + (now - self.held_since) / 4)
        return now - self.held_since < HOLD_S

    def narrow(self, may_have: Callable[[Entry], bool]) -> None:
        """Drop what waits and may not be had any more."""
        self.waiting = [entry for entry in self.waiting if may_have(entry)]

    def _due_at(self, entry: Entry, speed: float) -> float:
        return self.begun + (entry.stored_at - (self.first_at or entry.stored_at)) / 1e9 / speed
