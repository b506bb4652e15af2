"""The journal: every event of every call on disk, in one order, before anybody is told.

An SQLite file in WAL mode with one writer; readers may open it at the same time, in any process. The payload
is the event's msgpack map without its offset; the other columns repeat what is looked up by.

Unusual: appending an event whose id is there already is no error and no second row; it returns the event as
it was stored first. So whoever is not sure that an append arrived simply appends again.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import decode, encode
from bcaf_stream.events.messages import Event, topic

APPLICATION_ID = 0x42434146  # "BCAF" in the header of the file
SCHEMA = 1
PAGE = 500  # rows fetched at once: a reader holds no lock while it looks at them

_CREATE = """
CREATE TABLE events (
    offset     INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, even after rows were deleted
    id         TEXT    NOT NULL UNIQUE,
    call       TEXT    NOT NULL,
    channel    TEXT    NOT NULL,
    type       TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    topic      TEXT    NOT NULL,
    emitted_at INTEGER NOT NULL,
    payload    BLOB    NOT NULL
);
CREATE INDEX events_by_call ON events (call, offset);
"""
_INSERT = "INSERT INTO events (id, call, channel, type, seq, topic, emitted_at, payload) VALUES (?,?,?,?,?,?,?,?)"

_WAYS_OUT = {
    sqlite3.SQLITE_BUSY: "another process is writing to it: stop that one, or choose another path",
    sqlite3.SQLITE_LOCKED: "another process is writing to it: stop that one, or choose another path",
    sqlite3.SQLITE_READONLY: "it is read-only: change its permissions, or choose another path",
    sqlite3.SQLITE_FULL: "the disk is full: free some space; nothing of this append was stored",
    sqlite3.SQLITE_IOERR: "the disk failed: check its space and its health",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its folder exists and may be written",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, and recover what is left with `sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "it is not a journal: choose another path",
}


class JournalConfig(Config):
    """`durability` is what an append survives: `power_loss` syncs the disk each time, `crash` does not.

    With `crash`, a power cut can take the last appends with it, and their offsets are then given again.
    `busy_ms` is how long an append waits for another process that is writing.
    """

    path: Path = Path("bcaf-events.sqlite3")
    durability: Literal["power_loss", "crash"] = "power_loss"
    busy_ms: int = Field(default=5000, ge=0)


class Journal:
    """Appends events and reads them back; may be called from any thread.

    Args:
        read_only: do not create or change anything; for those who replay what another process writes.

    Raises:
        EventError: the file cannot be opened, or is not a journal that this version knows.
    """

    def __init__(self, config: JournalConfig, read_only: bool = False) -> None:
        self._path = config.path
        self._lock = threading.Lock()
        with self._translated():
            self._db = self._open(config, read_only)
        try:
            with self._translated():
                self._prepare(config, read_only)
        except BaseException:
            self._db.close()
            raise

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Store the events in one transaction and return them with their offsets, in the given order.

        An event whose id is known comes back as it was stored first.

        Raises:
            EventError: nothing was stored, and why.
        """
        rows = [(event, encode(replace(event, offset=None))) for event in events]
        with self._lock, self._translated(), self._transaction():
            return [self._append(event, payload) for event, payload in rows]

    def read(self, from_offset: int = 0, call: str | None = None, limit: int | None = None) -> Iterator[Event]:
        """Events in the order of their offsets, from `from_offset` on, that included.

        What is appended while this is read is read as well.

        Raises:
            EventError: the file cannot be read, or an event in it is damaged.
        """
        while limit is None or limit > 0:
            rows = self._page(from_offset, call, PAGE if limit is None else min(PAGE, limit))
            for offset, payload in rows:
                yield self._event(offset, payload)
            if len(rows) < PAGE:
                return
            from_offset = rows[-1][0] + 1
            limit = None if limit is None else limit - len(rows)

    @property
    def last_offset(self) -> int:
        """The highest offset ever given; 0 before the first."""
        with self._lock, self._translated():
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, config: JournalConfig, read_only: bool) -> sqlite3.Connection:
        uri = self._path.absolute().as_uri() + ("?mode=ro" if read_only else "")
        if not read_only:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.touch(mode=0o600)  # what was said and felt in a call is for its owner's eyes
            except OSError as error:
                raise EventError(f"journal {self._path}: cannot be written: {error.strerror}") from None
        return sqlite3.connect(
            uri, uri=True, timeout=config.busy_ms / 1000, isolation_level=None, check_same_thread=False
        )

    def _prepare(self, config: JournalConfig, read_only: bool) -> None:
        # Looked at before anything is changed: the path may be somebody else's database.
        if read_only or self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._recognise()
        if read_only:
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {'FULL' if config.durability == 'power_loss' else 'NORMAL'}")
        with self._transaction():
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._create()

    def _recognise(self) -> None:
        kind = self._db.execute("PRAGMA application_id").fetchone()[0]
        if kind != APPLICATION_ID:
            raise EventError(f"journal {self._path}: {_WAYS_OUT[sqlite3.SQLITE_NOTADB]}")
        schema = self._db.execute("PRAGMA user_version").fetchone()[0]
        if schema != SCHEMA:
            known = f"this version knows schema {SCHEMA} and not {schema}"
            raise EventError(f"journal {self._path}: {known}: use the version that wrote it, or another path")

    def _create(self) -> None:
        for statement in _CREATE.split(";"):  # executescript would commit first
            self._db.execute(statement)
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def _append(self, event: Event, payload: bytes) -> Event:
        known = self._db.execute("SELECT offset, payload FROM events WHERE id = ?", (event.id,)).fetchone()
        if known:
            return self._event(*known)
        columns = (event.id, event.call, event.channel, event.type, event.seq, topic(event), event.emitted_at)
        return replace(event, offset=self._db.execute(_INSERT, (*columns, payload)).lastrowid)

    def _page(self, from_offset: int, call: str | None, limit: int) -> list[tuple[int, bytes]]:
        where, values = (
            ("offset >= ?", (from_offset, limit))
            if call is None
            else ("call = ? AND offset >= ?", (call, from_offset, limit))
        )
        with self._lock, self._translated():
            return self._db.execute(
                f"SELECT offset, payload FROM events WHERE {where} ORDER BY offset LIMIT ?", values
            ).fetchall()

    def _event(self, offset: int, payload: bytes) -> Event:
        try:
            return replace(decode(payload), offset=offset)
        except EventError as error:
            raise EventError(f"journal {self._path}: offset {offset} is damaged: {error}") from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk rolls back by itself
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is detail
            raise EventError(f"journal {self._path}: {_WAYS_OUT.get(code, error)}") from None
