"""The journal: every event of every call on disk, in one order, before anybody is told.

An SQLite file in WAL mode with one writer; readers may open it at the same time, in any process. `rows` says how
an event lies in it, `upkeep` what is deleted from it and when.

Unusual: appending an event whose id is there already is no error and no second row; it returns the event as
it was stored first. So whoever is not sure that an append arrived simply appends again.
"""

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.errors import EventError, JournalError
from bcaf_stream.events.codec import decode, encode
from bcaf_stream.events.messages import Event, topic_of
from bcaf_stream.events.rows import COLUMNS, CREATE, INSERT, Context, Entry, Row, context_of, entry_of, row_of

APPLICATION_ID = 0x42434146  # "BCAF" in the header of the file
SCHEMA = 2
PAGE = 500  # rows fetched at once: a reader holds no lock while it looks at them
CACHE_KB = 32_768  # of the indexes: ids are random, so that each insert touches another page
WAL_PAGES = 4000  # 16 MB: a page that many appends touch is copied into the file once

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
    `busy_ms` is how long an append waits for another process that is writing. Events are deleted when they are
    older than `keep_days` or when all together take more than `keep_mb`, the oldest first (None: never). After
    a crash the whole file is checked if it is not larger than `check_mb`.
    """

    path: Path = Path("bcaf-events.sqlite3")
    durability: Literal["power_loss", "crash"] = "power_loss"
    busy_ms: int = Field(default=5000, ge=0)
    keep_days: float | None = Field(default=None, gt=0)
    keep_mb: float | None = Field(default=None, gt=0)
    check_mb: float = Field(default=512.0, ge=0)


class Journal:
    """Appends events and reads them back; may be called from any thread.

    `identity` is the file's own, `epoch` counts how often a writer has opened it.

    Args:
        read_only: do not create or change anything; for those who replay what another process writes.
        maintenance: delete, but append nothing; for those who work beside the writer.
        clock: unix time in ns, for `stored_at`.

    Raises:
        JournalError: the file cannot be opened, is damaged, or is not a journal that this version knows.
    """

    def __init__(
        self,
        config: JournalConfig,
        read_only: bool = False,
        maintenance: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = config.path
        self.config = config
        self._clock = clock
        self._lock = threading.RLock()
        self._contexts: dict[Context, int] = {}
        self._context_of: dict[int, Context] = {}
        with self.translated():
            self._db = self._open(config, read_only, maintenance)
        try:
            with self.translated():
                self._prepare(config, read_only, maintenance)
                self.identity: str = self._one("SELECT journal FROM identity")
                self.epoch: int = self._one("SELECT ifnull(max(epoch), 0) FROM epochs")
        except BaseException:
            self._db.close()
            raise
        self._is_writer = not read_only and not maintenance

    def store(self, events: Sequence[Event]) -> list[Entry]:
        """Store the events in one transaction and return them as they are to be published, in the given order.

        An event whose id is known comes back as it was stored first.

        Raises:
            JournalError: nothing was stored, and why.
        """
        if not events:
            return []
        with self._lock:
            with self.translated():
                contexts = [self._context(context_of(event)) for event in events]
            with self.transaction() as db:
                return self._store(db, events, contexts)

    def append(self, events: Sequence[Event]) -> list[Event]:
        """`store`, for those who want the events."""
        return [decode(entry.data) for entry in self.store(events)]

    def read(self, from_offset: int = 0, call: str | None = None, limit: int | None = None) -> Iterator[Event]:
        """Events in the order of their offsets, from `from_offset` on, that included.

        What is appended while this is read is read as well.

        Raises:
            JournalError: the file cannot be read, or an event in it is damaged.
        """
        while limit is None or limit > 0:
            rows = self._rows(from_offset, call, PAGE if limit is None else min(PAGE, limit))
            for row in rows:
                yield self._decoded(self._entry(row))
            if len(rows) < PAGE:
                return
            from_offset = rows[-1][0] + 1
            limit = None if limit is None else limit - len(rows)

    def page(
        self, from_offset: int, call: str | None = None, limit: int = PAGE, latest: bool = False
    ) -> list[Entry]:
        """The next `limit` events from `from_offset` on, as they were published; fewer at the journal's end.

        `latest` takes only the last one of each channel of each call.

        Raises:
            EventError: as for `read`.
        """
        return [self._entry(row) for row in self._rows(from_offset, call, limit, latest)]

    def first_since(self, when: int) -> int:
        """The offset of the first event stored at `when` (unix ns) or later; one after the last where none was."""
        first, after = self.query("SELECT ifnull(min(offset), 1), ifnull(max(offset), 0) + 1 FROM events")[0]
        while first < after:  # `stored_at` never falls
            middle = (first + after) // 2
            offset, stored_at = self.query(
                "SELECT offset, stored_at FROM events WHERE offset >= ? ORDER BY offset LIMIT 1", (middle,)
            )[0]
            if stored_at < when:
                first = offset + 1
            else:
                after = middle
        return int(first)

    def topics(self, after: int, to: int) -> list[tuple[bytes, int]]:
        """The topics of the events after an offset, up to another, each with its number of events."""
        grouped = (
            "SELECT call, channel, type, count(*) FROM events WHERE offset > ? AND offset <= ? GROUP BY 1, 2, 3"
        )
        return [(topic_of(*names), count) for *names, count in self.query(grouped, (after, to))]

    @property
    def last_offset(self) -> int:
        """The highest offset ever given; 0 before the first."""
        rows = self.query("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(rows[0][0]) if rows else 0

    def has_ended(self, call: str) -> bool:
        """Whether this call's end is in the journal."""
        sql = "SELECT 1 FROM events WHERE call = ? AND type = 'call.end' ORDER BY offset DESC LIMIT 1"
        return bool(self.query(sql, (call,)))

    def calls(self) -> list[tuple[str, int, int, str | None, bool]]:
        """Each call: its numbers of events and of utterances, its most frequent emotion, whether it ended."""
        return [(*row[:4], bool(row[4])) for row in self.query(_CALLS)]

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a question; raises JournalError."""
        with self._lock, self.translated():
            return self._db.execute(sql, values).fetchall()

    def shrink(self) -> None:
        """Give the room of what was deleted back to the disk, and empty the log beside the file."""
        with self._lock, self.translated():
            # As a script: SQLite frees a page at each step, of which `execute` makes one.
            self._db.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")

    def close(self) -> None:
        """Note in the file that it was closed in order."""
        with self._lock:
            try:
                if self._is_writer:
                    self._db.execute("UPDATE epochs SET ended_at = ? WHERE epoch = ?", (self._clock(), self.epoch))
            except sqlite3.Error:
                pass  # closed already, or the disk is full: the next start checks the file
            self._db.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, config: JournalConfig, read_only: bool, maintenance: bool) -> sqlite3.Connection:
        uri = self.path.absolute().as_uri() + ("?mode=ro" if read_only else "?mode=rw" if maintenance else "")
        if not read_only and not maintenance:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.touch(mode=0o600)  # what was said and felt in a call is for its owner's eyes
            except OSError as error:
                raise JournalError(f"journal {self.path}: cannot be written: {error.strerror}") from None
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
                self._create()
        self._check(config)
        with self.transaction():
            self._db.execute("INSERT INTO epochs (started_at) VALUES (?)", (self._clock(),))

    def _recognise(self) -> None:
        kind = self._db.execute("PRAGMA application_id").fetchone()[0]
        if kind != APPLICATION_ID:
            raise JournalError(f"journal {self.path}: {_WAYS_OUT[sqlite3.SQLITE_NOTADB]}")
        schema = self._db.execute("PRAGMA user_version").fetchone()[0]
        if schema != SCHEMA:
            known = f"this version knows schema {SCHEMA} and not {schema}"
            raise JournalError(f"journal {self.path}: {known}: use the version that wrote it, or another path")

    def _create(self) -> None:
        for statement in CREATE.split(";\n"):  # executescript would commit first
            self._db.execute(statement)
        self._db.execute("INSERT INTO identity VALUES (?)", (secrets.token_hex(8),))
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def _check(self, config: JournalConfig) -> None:
        """After a crash: SQLite has taken back a torn tail by itself, but a disk may have done worse."""
        left_open = self._db.execute("SELECT 1 FROM epochs WHERE ended_at IS NULL").fetchone()
        if not left_open or self.path.stat().st_size > config.check_mb * 1e6:
            return
        if self._one("PRAGMA quick_check(1)") != "ok":
            raise JournalError(f"journal {self.path}: {_WAYS_OUT[sqlite3.SQLITE_CORRUPT]}")
        self._db.execute("UPDATE epochs SET ended_at = started_at WHERE ended_at IS NULL")

    def _store(self, db: sqlite3.Connection, events: Sequence[Event], contexts: list[int]) -> list[Entry]:
        last, stored_at = self._end()
        stored_at = max(self._clock(), stored_at)  # a clock that was set back moves nothing back
        numbered = [(event, last + 1 + n) for n, event in enumerate(events)]
        entries = [
            Entry(offset, stored_at, topic_of(e.call, e.channel, e.type), encode(e, offset))
            for e, offset in numbered
        ]
        rows = [
            row_of(e, offset, stored_at, context) for (e, offset), context in zip(numbered, contexts, strict=True)
        ]
        db.execute("SAVEPOINT new")
        try:
            db.executemany(INSERT, rows)
        except sqlite3.IntegrityError:
            db.execute("ROLLBACK TO new")  # rare: some of them were stored before
            entries = [self._store_one(e, last, stored_at) for e in events]
        latest = {(e.call, e.channel): entry.offset for e, entry in zip(events, entries, strict=True)}
        db.executemany(_UPSERT_LATEST, [(*key, offset) for key, offset in latest.items()])
        return entries

    def _rows(self, from_offset: int, call: str | None, limit: int, latest: bool = False) -> list[Row]:
        where = "offset >= ?" if call is None else "call = ? AND offset >= ?"
        if latest:
            where = f"offset IN (SELECT offset FROM latest WHERE {where})"
        values = (from_offset, limit) if call is None else (call, from_offset, limit)
        return self.query(f"SELECT {COLUMNS} FROM events WHERE {where} ORDER BY offset LIMIT ?", values)

    def _end(self) -> tuple[int, int]:
        """The last offset ever given and the last `stored_at`."""
        newest = self._db.execute("SELECT stored_at FROM events ORDER BY offset DESC LIMIT 1").fetchone()
        given = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(given[0]) if given else 0, int(newest[0]) if newest else 0

    def _store_one(self, event: Event, last: int, stored_at: int) -> Entry:
        known = self._db.execute(f"SELECT {COLUMNS} FROM events WHERE id = ?", (event.id,)).fetchone()
        if known:
            return self._entry(known)
        offset = max(last, self._end()[0]) + 1
        self._db.execute(INSERT, row_of(event, offset, stored_at, self._context(context_of(event))))
        return Entry(offset, stored_at, topic_of(event.call, event.channel, event.type), encode(event, offset))

    def _context(self, context: Context) -> int:
        """The number of a context; a new one is stored at once, whatever becomes of its event."""
        number = self._contexts.get(context)
        if number is None:
            key = (context.model, json.dumps(context.labels))
            self._db.execute("INSERT OR IGNORE INTO contexts (model, labels) VALUES (?, ?)", key)
            number = int(self.query("SELECT context FROM contexts WHERE model = ? AND labels = ?", key)[0][0])
            self._contexts[context] = number
        return number

    def _known_context(self, number: int) -> Context:
        if number not in self._context_of:
            rows = self.query("SELECT model, labels FROM contexts WHERE context = ?", (number,))
            if not rows:
                raise ValueError("its context is missing")
            context = Context(rows[0][0], tuple(json.loads(rows[0][1])))
            self._context_of[number] = context
        return self._context_of[number]

    def _entry(self, row: Row) -> Entry:
        try:
            return entry_of(row, self._known_context(row[8]))
        # msgpack documents no closed set of errors
        except Exception as error:
            raise JournalError(
                f"journal {self.path}: offset {row[0]} is damaged ({type(error).__name__})"
            ) from None

    def _decoded(self, entry: Entry) -> Event:
        try:
            return decode(entry.data)
        except EventError as error:
            raise JournalError(f"journal {self.path}: offset {entry.offset} is damaged: {error}") from None

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
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is detail
            raise JournalError(f"journal {self.path}: {_WAYS_OUT.get(code, error)}") from None


_UPSERT_LATEST = """
INSERT INTO latest VALUES (?, ?, ?)
ON CONFLICT (call, channel) DO UPDATE SET offset = excluded.offset WHERE excluded.offset > latest.offset
"""

_CALLS = """
SELECT call, count(*), sum(type = 'emotion.final'),
    (SELECT emotion FROM events AS own WHERE own.call = events.call AND emotion IS NOT NULL
     GROUP BY emotion ORDER BY count(*) DESC, emotion LIMIT 1),
    max(type = 'call.end')
FROM events GROUP BY call ORDER BY min(offset)
"""
