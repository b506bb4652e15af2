"""The file of a journal: how it is opened, recognised, made, checked after a crash, and written in transactions.

An SQLite file in WAL mode with one writer; readers may open it at the same time, in any process. SQLite takes back
a torn end of its log by itself; what it cannot mend is told with the way out (`repair`).
"""

import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from bcaf_stream.errors import DamagedError, JournalError
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.database import OWNERS, DuplicateError, End, Statements
from bcaf_stream.events.journal.rows import COLUMNS, CREATE, INSERT, Row

APPLICATION_ID = 0x42434146  # "BCAF" in the header of the file
SCHEMA = 3
READABLE = (2, 3)
CACHE_KB = 32_768  # of the indexes: ids are random, so that each insert touches another page
ROWS = 100  # inserted by one statement: Python hands its lock over at each, and may wait to get it back
_RETRY_S = 0.05
WAL_PAGES = 4000  # 16 MB: a page that many appends touch is copied into the file once

_INSERT_ROWS = INSERT + f", {INSERT.partition('VALUES ')[2]}" * (ROWS - 1)
_WAYS_OUT = {
    sqlite3.SQLITE_BUSY: "another process is writing to it: stop that one, or choose another path",
    sqlite3.SQLITE_LOCKED: "another process is writing to it: stop that one, or choose another path",
    sqlite3.SQLITE_READONLY: "it is read-only: change its permissions, or choose another path",
    sqlite3.SQLITE_FULL: "the disk is full: free some space; nothing of this append was stored",
    sqlite3.SQLITE_IOERR: "the disk failed: check its space and its health",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its folder exists and may be written",
    sqlite3.SQLITE_CORRUPT: "it is damaged: `bcaf-stream repair --journal FILE` saves what can be read",
    sqlite3.SQLITE_NOTADB: "it is not a journal: choose another path",
}


class SqliteDatabase:
    """An open journal's file; see `Database`.

    Args:
        read_only: do not create or change anything; for those who replay what another process writes.
        maintenance: delete, but append nothing; for those who work beside the writer.
        clock: unix time in ns, for `stored_at`.

    Raises:
        JournalError: the file cannot be opened, is damaged, or is not a journal that this version knows.
    """

    columns = COLUMNS

    def __init__(
        self,
        config: JournalConfig,
        read_only: bool = False,
        maintenance: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        assert config.file is not None
        self.path = config.file
        self.name = str(self.path)
        self.config = config
        self._clock = clock
        self._erasures = 0  # by this connection, whose own changes SQLite's version does not count
        self._lock = threading.RLock()
        self._locked = None if read_only or maintenance else _locked(self.path)
        try:
            if self._locked is not None:
                remove_database(repaired_path(self.path))  # half-written, by a `repair` that was killed
            with self.translated():
                self._db = self._open(config, read_only, maintenance)
        except BaseException:
            self._unlock()
            raise
        try:
            with self.translated():
                self._prepare(config, read_only, maintenance)
                self.identity: str = self._one("SELECT journal FROM identity")
                self.epoch: int = self._one("SELECT ifnull(max(epoch), 0) FROM epochs")
        except BaseException:
            self._db.close()
            self._unlock()
            raise
        self._is_writer = not read_only and not maintenance

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a question; raises JournalError."""
        with self._lock, self.translated():
            return self._db.execute(sql, values).fetchall()

    def probe(self) -> None:
        """Write something that changes nothing; raises JournalError where nothing can be written."""
        with self.transaction() as db:
            db.execute("UPDATE identity SET journal = journal")

    def shrink(self, wait_s: float = 0.0) -> bool:
        """Give the room of what was deleted back to the disk, and empty the log beside the file.

        Returns whether the log is empty: it is not while somebody else reads in a transaction that began before.
        """
        deadline = time.monotonic() + wait_s
        with self._lock, self.translated():
            # As a script: SQLite frees a page at each step, of which `execute` makes one.
            self._db.executescript("PRAGMA incremental_vacuum")
        while not self._emptied():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_RETRY_S)
        return True

    def _emptied(self) -> bool:
        with self._lock, self.translated():
            # SQLite would wait with its lock on writing held, and whoever writes with it.
            self._db.execute("PRAGMA busy_timeout = 0")
            try:
                busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {self.config.busy_ms}")
        return not busy

    def close(self) -> None:
        """Note in the file that it was closed in order."""
        with self._lock:
            try:
                if self._is_writer:
                    self._db.execute("UPDATE epochs SET ended_at = ? WHERE epoch = ?", (self._clock(), self.epoch))
            except sqlite3.Error:
                pass  # closed already, or the disk is full: the next start checks the file
            self._db.close()
            self._unlock()

    @property
    def last_offset(self) -> int:
        rows = self.query("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(rows[0][0]) if rows else 0

    def end(self, db: Statements) -> End:
        version = self._one("PRAGMA data_version")  # another one, when another connection has changed the file
        newest = db.execute('SELECT stored_at FROM events ORDER BY "offset" DESC LIMIT 1').fetchone()
        given = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        own = version + self._erasures
        return End(int(given[0]) if given else 0, int(newest[0]) if newest else 0, own)

    def insert(self, db: Statements, rows: Sequence[Row]) -> None:
        db.execute("SAVEPOINT new")
        try:
            many = len(rows) - len(rows) % ROWS
            for at in range(0, many, ROWS):
                db.execute(_INSERT_ROWS, list(chain.from_iterable(rows[at : at + ROWS])))
            db.executemany(INSERT, rows[many:])
        except sqlite3.IntegrityError:
            db.execute("ROLLBACK TO new")
            raise DuplicateError(f"journal {self.name}: an event is stored already") from None

    def set_end(self, db: Statements, end: End) -> None:
        pass  # SQLite counts by itself

    def delete(self, db: Statements, where: str, value: object) -> int:
        count = int(db.execute(f"DELETE FROM events WHERE {where}", (value,)).rowcount)
        db.execute(f"DELETE FROM latest WHERE {where}", (value,))
        return count

    def erased(self, db: Statements) -> None:
        self._erasures += 1

    def known(self, where: str, values: Sequence[object]) -> list[tuple[int, str]]:
        return self.query(f'SELECT "offset", call FROM events INDEXED BY events_by_call {where}', values)

    def bytes(self, db: Statements) -> int:
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def keep(self) -> None:
        pass  # the lock on the file ends with the process

    def _open(self, config: JournalConfig, read_only: bool, maintenance: bool) -> sqlite3.Connection:
        uri = self.path.absolute().as_uri() + ("?mode=ro" if read_only else "?mode=rw" if maintenance else "")
        return sqlite3.connect(
            uri, uri=True, timeout=config.busy_ms / 1000, isolation_level=None, check_same_thread=False
        )

    def _prepare(self, config: JournalConfig, read_only: bool, maintenance: bool) -> None:
        # Looked at before anything is changed: the path may be somebody else's database.
        if read_only or maintenance or self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._recognise()
        if read_only:
            return
        if maintenance:
            self._db.execute("PRAGMA secure_delete = ON")
            return
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or not at all
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {'FULL' if config.durability == 'power_loss' else 'NORMAL'}")
        self._db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        with self.transaction():
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                create(self._db)
            self._db.execute(OWNERS)
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")  # what is appended is not of the one before
        self._check(config)
        with self.transaction():
            self._db.execute("INSERT INTO epochs (started_at) VALUES (?)", (self._clock(),))

    def _recognise(self) -> None:
        kind = self._db.execute("PRAGMA application_id").fetchone()[0]
        if kind != APPLICATION_ID:
            raise JournalError(f"journal {self.path}: {_WAYS_OUT[sqlite3.SQLITE_NOTADB]}")
        schema = self._db.execute("PRAGMA user_version").fetchone()[0]
        if schema not in READABLE:
            known = f"this version knows schema {' and '.join(map(str, READABLE))} and not {schema}"
            raise JournalError(f"journal {self.path}: {known}: use the version that wrote it, or another path")

    def _check(self, config: JournalConfig) -> None:
        """After a crash: SQLite has taken back a torn tail by itself, but a disk may have done worse."""
        left_open = self._db.execute("SELECT 1 FROM epochs WHERE ended_at IS NULL").fetchone()
        if not left_open or self.path.stat().st_size > config.check_mb * 1e6:
            return
        if self._one("PRAGMA quick_check(1)") != "ok":
            raise JournalError(f"journal {self.path}: {_WAYS_OUT[sqlite3.SQLITE_CORRUPT]}")
        self._db.execute("UPDATE epochs SET ended_at = started_at WHERE ended_at IS NULL")

    def _unlock(self) -> None:
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def _one(self, sql: str) -> Any:
        return self._db.execute(sql).fetchone()[0]

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; raises JournalError."""
        with self._lock, self.translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk rolls back by itself
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # The rest of the code is detail. Text that is no UTF-8 has none, and its message shows it.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            kind = DamagedError if code == sqlite3.SQLITE_CORRUPT else JournalError
            raise kind(f"journal {self.path}: {_WAYS_OUT.get(code, type(error).__name__)}") from None


def create(db: sqlite3.Connection, identity: str | None = None) -> None:
    """Make an empty journal, within a transaction; its identity is its own, unless it takes another's place."""
    for statement in CREATE.split(";\n"):  # executescript would commit first
        db.execute(statement)
    db.execute("INSERT INTO identity VALUES (?)", (identity or secrets.token_hex(8),))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def repaired_path(path: Path) -> Path:
    """Where `repair` writes what it saves, before that takes the journal's place."""
    return path.with_name(f".{path.name}.repaired")


def remove_database(path: Path) -> None:
    """Delete an SQLite file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """No writer opens the journal meanwhile; raises JournalError when one has it open."""
    number = _locked(path)
    try:
        yield
    finally:
        os.close(number)


def _locked(path: Path) -> int:
    """The open lock file beside a journal; the lock ends with it, or with the process.

    Not the journal itself: SQLite's own locks would end when this is closed.
    """
    beside = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
        path.touch(mode=0o600)  # what was said and felt in a call is for its owner's eyes
    except OSError as error:
        raise JournalError(f"journal {path}: cannot be written: {error.strerror}") from None
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        raise JournalError(f"journal {path}: {_WAYS_OUT[sqlite3.SQLITE_BUSY]}") from None
    return number
