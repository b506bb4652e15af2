"""What is deleted from the journal: what is too old or too much, and the calls that must be forgotten."""

import sqlite3

from bcaf_stream.events.journal import Journal

SLICE = 1000  # events deleted at once: nobody who appends waits for long
DAY_NS = 86_400 * 10**9


def expire(journal: Journal, now: int) -> int:
    """Delete what the journal's configuration does not keep at `now` (unix ns), at most SLICE events.

    Returns how many were deleted: call again until it is 0. Raises JournalError.
    """
    before = 0 if journal.config.keep_days is None else now - int(journal.config.keep_days * DAY_NS)
    with journal.transaction() as db:
        keep_all = not _is_too_large(journal, db)
        oldest = db.execute("SELECT offset, stored_at FROM events ORDER BY offset LIMIT ?", (SLICE,)).fetchall()
        # `stored_at` never falls, so that the old ones are a prefix.
        old = [offset for offset, stored_at in oldest if stored_at < before or not keep_all]
        if old:
            _delete(db, "offset <= ?", old[-1])
    if old:
        journal.shrink()
    return len(old)


def erase(journal: Journal, call: str, now: int) -> int:
    """Forget a call: its events, its latest values, and their bytes in the file; one audit line stays.

    Returns how many events were erased. Raises JournalError.
    """
    with journal.transaction() as db:
        count = _delete(db, "call = ?", call)
        db.execute("INSERT INTO audit VALUES (?, 'erase', ?, ?)", (now, call, count))
    journal.shrink()  # the log beside the file held the bytes as well
    return count


def _delete(db: sqlite3.Connection, where: str, value: object) -> int:
    count = db.execute(f"DELETE FROM events WHERE {where}", (value,)).rowcount
    db.execute(f"DELETE FROM latest WHERE {where}", (value,))
    return count


def _is_too_large(journal: Journal, db: sqlite3.Connection) -> bool:
    limit = journal.config.keep_mb
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return limit is not None and (pages - free) * size > limit * 1e6
