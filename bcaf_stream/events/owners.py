"""Who owns a call: the one process that may write its events, by an epoch that grows with each owner (fencing).

An owner claims a call before it writes, and every publication carries the epoch that it was given. One with an
older epoch is refused, so that an owner that was thought dead, and wakes, writes nothing more. The epochs lie in
the journal: a hub that starts again knows them. They stand beside the events, not in them.

An owner says every second that it lives. While it does, nobody else is given its calls unless it agrees (`after`);
when it was silent for LEASE_S, or its name belongs to another process by now, anybody is.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.progress import Progress

LEASE_S = 3.0
DAY_NS = 86_400 * 10**9
EPOCHS = 2**32  # for each hub: more than it will ever give

_CLAIM = """
INSERT INTO owners VALUES (?, ?, ?, ?)
ON CONFLICT (call) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner, claimed_at = excluded.claimed_at
"""
_FORGOTTEN = "claimed_at < ? AND NOT EXISTS (SELECT 1 FROM latest WHERE latest.call = owners.call)"


class Claim(NamedTuple):
    """`granted`: the call is the claimer's with this `epoch`; else it is that of `holder`, who lives.

    `progress` is how far the call has got in the journal, with all that owners before have written.
    """

    granted: bool
    epoch: int
    holder: str
    progress: Progress | None = None


def owner_id(name: str, started_at: int) -> str:
    """A name, and when the process that has it began (unix ns): a later one takes the place of those before."""
    return f"{name} {started_at}"


def name_of(owner: str) -> str:
    return owner.rpartition(" ")[0]


def _started_at(owner: str) -> int:
    return int(owner.rpartition(" ")[2])


class CallOwners:
    """The owners of all calls; `claim` and `holds` in the order in which events are written, the rest any time."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal, self._clock = journal, clock
        self._base = journal.epoch * EPOCHS  # above every epoch of the hubs before, whatever was lost
        self._opened_s = clock()
        self._lock = threading.Lock()
        self._heard_s: dict[str, float] = {}  # when each owner was last heard of
        self._latest: dict[str, str] = {}  # owner of each name
        self._running: dict[str, tuple[int, str]] = {}  # epoch and owner of calls that have no end

    def claim(self, call: str, owner: str, after: int | None = None, silent_s: float = LEASE_S) -> Claim:
        """Give a call to `owner`, unless somebody else has it who lives.

        `after` is the epoch of one who has agreed. Raises JournalError.
        """
        self._hear(owner)
        epoch, holder = self._known(call) or (0, "")
        if holder not in ("", owner) and epoch != after and self._lives(holder, silent_s):
            return Claim(False, epoch, holder)
        epoch = max(epoch, self._base) + 1
        with self._journal.transaction() as db:
            db.execute(_CLAIM, (call, epoch, owner, time.time_ns()))
        with self._lock:
            self._running[call] = epoch, owner
        return Claim(True, epoch, owner)

    def holds(self, call: str, epoch: int) -> bool:
        """Whether who was given this epoch may write; raises JournalError."""
        known = self._known(call)
        return known is not None and known[0] == epoch

    def ended(self, call: str) -> None:
        """The call has its end in the journal."""
        with self._lock:
            self._running.pop(call, None)

    def beat(self, owner: str, held: Mapping[str, int]) -> list[str]:
        """An owner lives, and has these calls with these epochs, it thinks; those that are others' by now.

        Raises:
            JournalError: nobody can say.
        """
        self._hear(owner)
        return [call for call, epoch in held.items() if not self.holds(call, epoch)]

    def owner_of(self, call: str) -> str | None:
        """The living owner of a running call; raises JournalError."""
        known = self._known(call)
        return known[1] if known and self._lives(known[1], LEASE_S) else None

    def orphans(self, silent_s: float) -> list[str]:
        """Running calls whose owner has been silent for so long."""
        with self._lock:
            running = list(self._running.items())
        return [call for call, (_, owner) in running if not self._lives(owner, silent_s)]

    def recall(self) -> None:
        """Take up the calls that have no end from the journal, after a start; raises JournalError."""
        for call in self._journal.unfinished():
            if self._known(call) is None:  # of a version that knew no owners
                with self._lock:
                    self._running.setdefault(call, (0, ""))

    def tidy(self, now: int) -> None:
        """Forget those whose calls were deleted, at `now` (unix ns); raises JournalError."""
        with self._journal.transaction() as db:
            db.execute(f"DELETE FROM owners WHERE {_FORGOTTEN}", (now - DAY_NS,))

    def _known(self, call: str) -> tuple[int, str] | None:
        with self._lock:
            if call in self._running:
                return self._running[call]
        rows = self._journal.query("SELECT epoch, owner FROM owners WHERE call = ?", (call,))
        if not rows:
            return None
        with self._lock:
            return self._running.setdefault(call, (int(rows[0][0]), str(rows[0][1])))

    def _hear(self, owner: str) -> None:
        with self._lock:
            self._heard_s[owner] = self._clock()
            name = name_of(owner)
            self._latest[name] = max(self._latest.get(name, owner), owner, key=_started_at)

    def _lives(self, owner: str, silent_s: float) -> bool:
        with self._lock:
            if not owner or self._latest.get(name_of(owner), owner) != owner:
                return False
            return self._clock() - self._heard_s.get(owner, self._opened_s) < silent_s
