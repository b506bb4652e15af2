"""What can be done about a damaged journal: every event that can still be read goes into a new file.

The damaged file is moved aside and never written to. The new one keeps the identity, offsets and epochs, so that
subscribers go on where they were; no offset is given twice, even when nobody can tell which was the last.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from bcaf_stream.errors import JournalError
from bcaf_stream.events.codec import decode
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.journal.rows import COLUMNS, INSERT, Row, entry_of
from bcaf_stream.events.journal.schema_2 import Context
from bcaf_stream.events.journal.sqlite import create, locked, remove_database, repaired_path
from bcaf_stream.files import sync_to_disk

LEAP = 1_000_000  # left out where the last offset cannot be read
PAGE = 500


_LATEST = "INSERT INTO latest SELECT call, channel, max(offset) FROM events GROUP BY call, channel"


class Repaired(NamedTuple):
    """What became of a journal; `lost` is None where nobody can tell, `broken` where it was whole."""

    kept: int
    lost: int | None
    broken: Path | None


def repair(path: Path, now: float) -> Repaired:
    """Make a damaged journal whole again, at `now` (unix seconds, for the name of the file that is moved aside).

    Raises:
        JournalError: there is none, a hub has it open, it is no journal, or nothing of it can be read.
    """
    if not path.exists():
        raise JournalError(f"journal {path}: there is none")
    with locked(path):
        whole = _count_if_whole(path)
        if whole is not None:
            return Repaired(whole, 0, None)
        new = repaired_path(path)
        remove_database(new)
        with closing(_opened(path)) as old:
            kept, lost = _save(old, path, new)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        broken = path.with_name(f"{path.name}.broken-{stamp}")
        _exchange(path, new, broken)
    return Repaired(kept, lost, broken)


def _count_if_whole(path: Path) -> int | None:
    """How many events a journal has in which nothing is damaged."""
    try:
        with Journal(JournalConfig(path=path), read_only=True) as journal:
            if journal.query("PRAGMA integrity_check(1)") != [("ok",)]:
                return None
            count = sum(1 for _ in journal.read())
            return None if journal.damaged else count
    except JournalError:
        return None


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)
    db.execute("PRAGMA cell_size_check = ON")
    return db


def _save(old: sqlite3.Connection, path: Path, new: Path) -> tuple[int, int | None]:
    """Write what can be read to `new`; how many events were kept and lost."""
    indexed, complete = _indexed_offsets(old)
    contexts = {row[0]: row for row in _readable(old, "SELECT context, model, labels FROM contexts")}
    known = {number: Context(row[1], tuple(json.loads(row[2]))) for number, row in contexts.items()}
    new.touch(mode=0o600)
    kept: set[int] = set()
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("BEGIN")
        identity = [row[0] for row in _readable(old, "SELECT journal FROM identity")]
        create(db, identity[0] if identity else None)
        db.executemany("INSERT INTO contexts VALUES (?, ?, ?)", contexts.values())
        for row in _rows(old, indexed):
            if row[0] in kept or not _is_sound(row, known):
                continue
            with suppress(sqlite3.IntegrityError):  # an id that another row has: one of the two is damaged
                db.execute(INSERT, row)
                kept.add(row[0])
        if not kept and (indexed or not complete):
            db.execute("ROLLBACK")
            remove_database(new)
            way_out = f"sqlite3 {path} .recover may know more"
            raise JournalError(f"journal {path}: no event in it can be read; it was left as it is: {way_out}")
        db.execute(_LATEST)
        _go_on_counting(old, db, max(indexed | kept, default=0))
        db.execute("COMMIT")
    return len(kept), len(indexed - kept) if complete else None


def _go_on_counting(old: sqlite3.Connection, db: sqlite3.Connection, highest: int) -> None:
    given = [row[0] for row in _readable(old, "SELECT seq FROM sqlite_sequence WHERE name = 'events'")]
    last = max(given[0], highest) if given else highest + LEAP
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (last,))
    epochs = list(_readable(old, "SELECT epoch, started_at, ended_at FROM epochs"))
    now = time.time_ns()
    db.executemany("INSERT INTO epochs VALUES (?, ?, ?)", [(*e[:2], e[2] or now) for e in epochs])
    if not epochs:
        db.execute("INSERT INTO epochs VALUES (?, ?, ?)", (LEAP, now, now))
    db.executemany("INSERT INTO audit VALUES (?, ?, ?, ?)", _readable(old, "SELECT * FROM audit"))
    db.execute("INSERT INTO audit SELECT ?, 'repair', NULL, count(*) FROM events", (now,))


def _indexed_offsets(old: sqlite3.Connection) -> tuple[set[int], bool]:
    """The offsets that the two indexes know, and whether all of one of them could be read."""
    found: set[int] = set()
    complete = False
    for index in ("events_by_call", "sqlite_autoindex_events_1"):
        with suppress(sqlite3.DatabaseError):
            for (offset,) in old.execute(f"SELECT offset FROM events INDEXED BY {index}"):
                found.add(offset)
            complete = True
    return found, complete


def _rows(old: sqlite3.Connection, indexed: set[int]) -> Iterator[Row]:
    """All rows that can be reached: page after page; where one is damaged, offset by offset, and from the end."""
    reached = 0
    with suppress(sqlite3.DatabaseError):
        while True:
            page = old.execute(
                f"SELECT {COLUMNS} FROM events WHERE offset > ? LIMIT {PAGE}", (reached,)
            ).fetchall()
            yield from page
            if len(page) < PAGE:
                return
            reached = page[-1][0]
    lowest = reached
    with suppress(sqlite3.DatabaseError):
        for row in old.execute(f"SELECT {COLUMNS} FROM events WHERE offset > ? ORDER BY offset DESC", (reached,)):
            lowest = row[0]
            yield row
    last = [row[0] for row in _readable(old, "SELECT seq FROM sqlite_sequence WHERE name = 'events'")]
    highest = max([lowest, *indexed, *last])
    for offset in sorted(indexed) or range(reached + 1, highest + 1):
        if offset > reached:
            with suppress(sqlite3.DatabaseError):
                yield from old.execute(f"SELECT {COLUMNS} FROM events WHERE offset = ?", (offset,))


def _is_sound(row: Row, contexts: dict[int, Context]) -> bool:
    try:
        entry = entry_of(row, contexts.__getitem__)
        return decode(entry.data).offset == row[0]
    except Exception:  # msgpack documents no closed set of errors, and anything may stand in a damaged row
        return False


def _readable(old: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    with suppress(sqlite3.DatabaseError):
        yield from old.execute(sql)


def _exchange(path: Path, new: Path, broken: Path) -> None:
    """The damaged file and its log get another name, and the new one theirs; nothing is overwritten."""
    if broken.exists():
        raise JournalError(f"{broken}: exists already: move it away, and repair again")
    try:
        sync_to_disk(new)
        for suffix in ("-wal", "-shm"):
            if (log := path.with_name(path.name + suffix)).exists():
                log.rename(broken.with_name(broken.name + suffix))
        os.link(path, broken)  # the journal's name is never missing: a hub would begin a new journal
        new.replace(path)
        sync_to_disk(path.parent)
    except OSError as error:
        raise JournalError(f"journal {path}: cannot be exchanged: {error.strerror}") from None
