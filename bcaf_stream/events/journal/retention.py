"""What is deleted from the journal: what is too old or too much, and the calls that must be forgotten."""

import glob
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bcaf_stream.errors import JournalError
from bcaf_stream.events.journal.config import sound_of
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.journal.sqlite import locked

WAIT_S = 10.0  # for those who read the journal meanwhile
SLICE = 1000  # events deleted at once: nobody who appends waits for long
DAY_NS = 86_400 * 10**9


def expire(journal: Journal, now: int) -> int:
    """Delete what the journal's configuration does not keep at `now` (unix ns), at most SLICE events.

    Returns how many were deleted: call again until it is 0. Raises JournalError.
    """
    before = 0 if journal.config.keep_days is None else now - int(journal.config.keep_days * DAY_NS)
    with journal.transaction() as db:
        limit = journal.config.keep_mb
        keep_all = limit is None or journal.database.bytes(db) <= limit * 1e6
        oldest = db.execute(
            'SELECT "offset", stored_at FROM events ORDER BY "offset" LIMIT ?', (SLICE,)
        ).fetchall()
        # `stored_at` never falls, so that the old ones are a prefix.
        old = [offset for offset, stored_at in oldest if stored_at < before or not keep_all]
        if old:
            journal.database.delete(db, '"offset" <= ?', old[-1])
    if old:
        journal.database.shrink()
    return len(old)


class Erased(NamedTuple):
    """How many events were erased; whether the call was erased before; which damaged copies were deleted."""

    events: int
    before: bool
    copies: list[Path]


def erase(journal: Journal, call: str, now: int, wait_s: float = WAIT_S) -> Erased:
    """Forget a call: its events, latest values and sound, and their bytes in every file of the journal's folder.

    Nothing that comes of the call from now on is stored. The copies that `repair` moved aside are deleted as a
    whole, for what is in them cannot be told. One audit line stays, but not of a call that was never there.

    Raises:
        JournalError: not all bytes are gone; erase it again then.
    """
    with journal.transaction() as db:
        before = journal.is_erased(call)
        count = journal.database.delete(db, "call = ?", call)
        if count:
            journal.note_erasure(db, call, now, count)
    file = journal.config.file
    _delete_sound(journal.config.sound_folder, call)
    copies = _delete_copies(file) if file and (count or before) else []
    if not journal.database.shrink(wait_s):
        log = f"{file.name}-wal" if file else "its tables"
        way_out = "end that one, and erase the call again"
        raise JournalError(
            f"journal {journal.name}: {count} events are erased, but their bytes stay in {log} while another "
            f"program reads the journal: {way_out}"
        )
    return Erased(count, before, copies)


def _delete_sound(folder: Path | None, call: str) -> None:
    """Delete the call's evidence sound; whoever records it finds no folder any more, and stops."""
    if folder is None:
        return
    own = sound_of(folder, call)
    gone = own.with_name(f"{own.name}.erased")
    try:
        with suppress(FileNotFoundError):
            shutil.rmtree(gone)  # what an erasure left that was killed
        with suppress(FileNotFoundError):
            os.rename(own, gone)  # at once: a file that begins now begins nowhere
            shutil.rmtree(gone)
    except OSError as error:
        raise JournalError(
            f"{own}: the call's sound cannot be deleted: {error.strerror}: delete it, and erase again"
        ) from None


def _delete_copies(path: Path) -> list[Path]:
    """Delete what `repair` moved aside, and what it left half-written when it was killed."""
    beside = glob.escape(path.name)
    copies = sorted(path.parent.glob(f"{beside}.broken-*"))
    with suppress(JournalError), locked(path):  # a hub that runs has removed those
        copies += sorted(path.parent.glob(f".{beside}.repaired*"))
    for copy in copies:
        try:
            copy.unlink(missing_ok=True)
        except OSError as error:
            raise JournalError(
                f"{copy}: cannot be deleted: {error.strerror}: delete it, and erase again"
            ) from None
    return copies
