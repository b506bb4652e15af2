"""The replays that run at the same time, and which of them makes room for another one."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from bcaf_stream.events.connections import is_gone
from bcaf_stream.events.replay.job import ReplayJob

QUIET_S = 5.0  # one that was given nothing for so long makes room when all places are taken

Key = tuple[bytes, int]  # the client's connection, and what it called its request
K = TypeVar("K")


class RunningReplays(dict[Key, ReplayJob]):
    """At most `most` at the same time, and `most_each` of one owner; one may run for `turn_s` at least."""

    def __init__(self, most: int, most_each: int, turn_s: float) -> None:
        super().__init__()
        self._most, self._most_each, self._turn_s = most, most_each, turn_s

    @property
    def held(self) -> int:
        """Those whose clients have no room now."""
        return sum(job.held_since is not None for job in list(self.values()))

    @property
    def furthest_behind(self) -> int | None:
        """The next offset of the one that has the most to get; None where none runs."""
        return min((job.next for job in list(self.values())), default=None)

    def idle(self, now: float) -> list[Key]:
        """Those whose clients have wanted nothing for a whole turn."""
        return [key for key, job in self.items() if job.credit <= 0 and job.quiet_s(now) > self._turn_s]

    def has_room(self, owner: bytes) -> bool:
        """Whether one more may begin."""
        return len(self) < self._most and self._count(owner) < self._most_each

    def next_to_leave(self, owner: bytes, now: float) -> Key | None:
        """Where there is no room: the one that makes it; None where the new one has to wait."""
        if self._count(owner) >= self._most_each:
            return quietest(self, [key for key, job in self.items() if job.owner == owner], now)
        return next_to_leave(self, owner, now, self._turn_s)

    def forget_gone(self) -> None:
        """Whoever asked for these has left."""
        for key, job in list(self.items()):
            if job.connection is not None and is_gone(job.connection):
                del self[key]

    def _count(self, owner: bytes) -> int:
        return sum(job.owner == owner for job in self.values())


def quietest(jobs: Mapping[K, ReplayJob], among: Iterable[K], now: float) -> K | None:
    """The replay that was quiet for longest, of those that were so for long enough to make room."""
    longest = max(among, key=lambda key: jobs[key].quiet_s(now))
    return longest if jobs[longest].quiet_s(now) >= QUIET_S else None


def next_to_leave(jobs: Mapping[K, ReplayJob], owner: bytes, now: float, turn_s: float) -> K | None:
    """Which replay makes room for another one of `owner` when all places are taken; None: it has to wait.

    So that nobody is kept out for long by few clients with many replays, nor by many that never are done.
    """
    quiet = quietest(jobs, jobs, now)
    if quiet is not None:
        return quiet
    most, count = Counter(job.owner for job in jobs.values()).most_common(1)[0]
    if count > 1 + sum(job.owner == owner for job in jobs.values()):
        return max((key for key, job in jobs.items() if job.owner == most), key=lambda key: jobs[key].quiet_s(now))
    oldest = min(jobs, key=lambda key: jobs[key].begun)
    return oldest if now - jobs[oldest].begun >= turn_s else None
