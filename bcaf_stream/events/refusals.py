"""Who knocks and is not let in: counted, and told in the log once in a while, never with what was sent."""

import logging
import time

log = logging.getLogger(__name__)

QUIET_S = 10.0  # whoever knocks all the time does not fill the log


class Refusals:
    """Counts what a socket refused; may be used from several threads."""

    def __init__(self, where: str) -> None:
        self.count = 0
        self._where = where
        self._next = 0.0

    def add(self, why: str) -> None:
        """One more; `why` holds nothing of what was sent."""
        self.count += 1
        now = time.monotonic()
        if now >= self._next:
            self._next = now + QUIET_S
            log.warning("%s: refused: %s (%d so far)", self._where, why, self.count)
