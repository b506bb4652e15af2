"""The place of a subscriber in the journal, in a file that is replaced as a whole: it is never half of a place.

Everything up to `offset` is done, and of what lies behind it the ids in `seen`.
"""

import json
import time
from pathlib import Path
from typing import Any

from bcaf_stream.errors import EventError
from bcaf_stream.events.subscriber.follow import Delivered
from bcaf_stream.files import replacing

SAVE_S = 0.2  # at most so much is done a second time after a crash


class Position:
    """Where a subscriber is; without a path nothing is kept.

    Raises:
        EventError: from every method, when the file cannot be read or written, or is not what it should be.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._journal: str | None = None
        self._offset = -1
        self._seen: dict[str, int] = {}  # delivered beyond the offset
        self._changed = False
        self._written = 0.0

    def read(self) -> dict[str, Any] | None:
        """What the file says: `journal`, `offset` and `seen`; None when there is none."""
        if self._path is None or not self._path.exists():
            return None
        try:
            place = json.loads(self._path.read_text(encoding="utf-8"))
            place = {"journal": str(place["journal"]), "offset": int(place["offset"]), "seen": dict(place["seen"])}
        except (OSError, ValueError, KeyError, TypeError):
            raise EventError(f"{self._path}: not a position file: delete it, or name another") from None
        self._offset, self._seen = place["offset"], dict(place["seen"])
        return place

    def advance(self, journal: str | None, taken: Delivered) -> None:
        """This event is done."""
        if self._path is None:
            return
        self.settle(journal, taken.base)
        offset = taken.event.offset
        if offset is not None and offset > self._offset:
            self._seen[taken.event.id] = offset
            self._changed = True
        self.write()

    def settle(self, journal: str | None, base: int) -> None:
        """Everything up to `base` is done."""
        if self._path is None:
            return
        self._journal = journal
        if base > self._offset:
            self._offset, self._changed = base, True
            self._seen = {id: offset for id, offset in self._seen.items() if offset > base}
        self.write()

    def write(self, force: bool = False) -> None:
        """Replace the file if something changed, but not too often, unless `force`."""
        if self._path is None or not self._changed or self._journal is None:
            return
        if not force and time.monotonic() - self._written < SAVE_S:
            return
        place = {"journal": self._journal, "offset": self._offset, "seen": self._seen}
        try:
            with replacing(self._path, sync=True) as draft:
                draft.write_text(json.dumps(place), encoding="utf-8")
        except OSError as error:
            raise EventError(f"{self._path}: the position cannot be written: {error.strerror}") from None
        self._changed, self._written = False, time.monotonic()
