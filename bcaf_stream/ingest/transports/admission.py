"""Which connection without a call gives up its place when there are too many of them.

A connection holds a place from its arrival to its end. Until its call begins nobody knows whether it ever will, so
such a connection keeps nobody out: it leaves for the next one. The address that has kept places idle for the
longest time, added up over its connections, gives one up, and of its connections the one that has said least, then
the oldest. A connection with a call is never given up.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from bcaf_stream.ingest.security import ServerConfig

IDLE_S = 1.0  # many calls may begin at once; each of them says so at once
DISPLACED = "the place was needed, and no call had begun"


class Stage(IntEnum):
    """How far a connection has come."""

    SILENT = 0  # nothing that its protocol knows has come
    GREETED = 1  # it was let in, or has said who calls
    CALLING = 2


@dataclass(eq=False, slots=True)
class Place:
    """What a connection holds; `give_up` hangs up on it."""

    address: str
    since_s: float
    give_up: Callable[[], None]
    stage: Stage = Stage.SILENT


class Admission:
    """The places of one server.

    Args:
        places: how many there are.
        silent_per_client: how many connections of one address may be silent for longer than IDLE_S; with one more
            its oldest goes.
        clock: seconds of any steady clock.
    """

    def __init__(self, places: int, silent_per_client: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places: dict[Place, None] = {}  # in the order of arrival
        self._limit = places
        self._silent_per_client = silent_per_client
        self._clock = clock
        self.displaced = 0

    def enter(self, address: str, give_up: Callable[[], None]) -> Place | None:
        """A place for a new connection; None when all are held by calls."""
        silent = [place for place in self._of(address) if place.stage is Stage.SILENT]
        if len(silent) >= self._silent_per_client and self._clock() - silent[0].since_s >= IDLE_S:
            self._displace(silent[0])
        elif len(self._places) >= self._limit and not self._make_room():
            return None
        place = Place(address, self._clock(), give_up)
        self._places[place] = None
        return place

    def leave(self, place: Place | None) -> None:
        """The connection is over, or was refused; a second time changes nothing."""
        if place is not None:
            self._places.pop(place, None)

    def displace_one_of(self, address: str, beside: Place | None = None) -> bool:
        """Give up a connection of this address that has no call and is not `beside`; whether there was one."""
        idle = [p for p in self._of(address) if p.stage is not Stage.CALLING and p is not beside]
        if idle:
            self._displace(min(idle, key=lambda place: place.stage))
        return bool(idle)

    def _make_room(self) -> bool:
        now, idle = self._clock(), Counter[str]()
        for place in self._places:
            if place.stage is not Stage.CALLING:
                idle[place.address] += 1 + round((now - place.since_s) * 1e6)
        return bool(idle) and self.displace_one_of(idle.most_common(1)[0][0])

    def _of(self, address: str) -> list[Place]:
        return [place for place in self._places if place.address == address]

    def _displace(self, place: Place) -> None:
        del self._places[place]
        self.displaced += 1
        place.give_up()


def admission(config: ServerConfig) -> Admission:
    """The places that a configuration gives; a proxy is the address of all of its clients."""
    silent = config.max_connections if config.behind_proxy else config.max_silent_per_client
    return Admission(config.max_connections, silent)
