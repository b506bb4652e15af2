"""A journal in the tables of a PostgreSQL database: who writes it keeps nothing, and may die with its machine.

One writer at a time. Each that opens the journal takes the next `epoch`, and every transaction begins by locking
the one row of `journal` and looking at it: a writer that was thought dead finds another epoch there, or another
journal, and writes nothing more (`FencedError`). That row gives the offsets too, so that these grow in the order
of the commits and have no holes. The session of a writer holds an advisory lock of its epoch, which the server
frees when the process or its machine dies; who finds it held waits until the writer was silent for `lease_s`
(`seen_at`, its time).
"""

import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from bcaf_stream.errors import FencedError, JournalError
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.database import OWNERS, DuplicateError, End, Statements
from bcaf_stream.events.journal.postgres_session import Connected, Session
from bcaf_stream.events.journal.rows import Row

SCHEMA = 1
ROW_BYTES = 250  # of an event beside its map: columns and indexes

CREATE = """
CREATE TABLE journal (
    schema      int         NOT NULL,
    identity    text        NOT NULL,
    epoch       bigint      NOT NULL,
    holder      text        NOT NULL,  -- the last writer, for messages
    seen_at     timestamptz NOT NULL,  -- when it was last heard of
    last_offset bigint      NOT NULL,  -- never given again, even after events were deleted
    stored_at   bigint      NOT NULL,  -- unix ns; of the last event
    erasures    bigint      NOT NULL,
    bytes       bigint      NOT NULL
);
CREATE UNIQUE INDEX journal_is_one ON journal ((true));
CREATE TABLE events (
    "offset"  bigint PRIMARY KEY,
    id        text COLLATE "C" NOT NULL UNIQUE,
    call      text COLLATE "C" NOT NULL,
    channel   text COLLATE "C" NOT NULL,
    type      text COLLATE "C" NOT NULL,
    seq       bigint NOT NULL,
    emotion   text COLLATE "C",
    stored_at bigint NOT NULL,  -- unix ns, never less than that of the row before
    payload   bytea  NOT NULL   -- the event's msgpack map, its offset nil
);
CREATE INDEX events_by_call ON events (call, "offset");
CREATE TABLE latest (
    call text COLLATE "C", channel text COLLATE "C", "offset" bigint NOT NULL, PRIMARY KEY (call, channel)
) WITH (fillfactor = 70);
CREATE TABLE audit (at bigint NOT NULL, action text NOT NULL, call text COLLATE "C", events bigint NOT NULL)
"""
_TABLES = ("journal", "owners")
_BEGIN = "INSERT INTO journal VALUES (?, ?, 0, '', clock_timestamp(), 0, 0, 0, 0)"
_COPY = (
    'COPY events ("offset", id, call, channel, type, seq, emotion, stored_at, payload) FROM STDIN (FORMAT BINARY)'
)
_TYPES = ("int8", "text", "text", "text", "text", "int8", "text", "int8", "bytea")
_WRITER = "identity, epoch, holder"
_KEY = "hashtextextended(identity || ' ' || ?::int8::text, 0)"  # of the advisory lock of an epoch


class PostgresDatabase:
    """An open journal's tables; see `Database`."""

    columns = '"offset", id, call, channel, type, seq, emotion, stored_at, 0, payload'

    def __init__(
        self,
        config: JournalConfig,
        read_only: bool = False,
        maintenance: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._read_only = read_only
        self._is_writer = not read_only and not maintenance
        self.epoch = 0
        self._locked = False  # the session holds the lock of this epoch
        self._end = End(0, 0, 0)
        self._added = 0  # bytes, in this transaction
        self._session = Session(config, read_only, self._connected)
        self.name = self._session.name
        try:
            if self._is_writer:
                self._create()
            found = self.query("SELECT schema, identity, epoch FROM journal")
            if not found or found[0][0] != SCHEMA:
                known = f"this version knows schema {SCHEMA} and not {found[0][0] if found else 'none'}"
                raise JournalError(f"journal {self.name}: {known}: choose another namespace")
            self.identity: str = found[0][1]
            epoch = self._take_over() if self._is_writer else found[0][2]
            self.epoch = epoch
        except BaseException:
            self._session.close()
            raise

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._session.connected() as db:
            rows: list[tuple[Any, ...]] = db.execute(sql, values).fetchall()
            return rows

    @contextmanager
    def transaction(self) -> Iterator[Connected]:
        with self._session.transaction() as db:
            self._added = 0
            last = f"SELECT last_offset, stored_at, erasures, {_WRITER} FROM journal FOR UPDATE"
            *end, identity, epoch, holder = db.execute(last).fetchone()
            self._end = End(*end)
            self._check(identity, epoch, holder)
            yield db

    def end(self, db: Statements) -> End:
        return self._end

    def insert(self, db: Statements, rows: Sequence[Row]) -> None:
        assert isinstance(db, Connected)
        db.execute("SAVEPOINT new")
        try:
            db.copy(_COPY, _TYPES, ((*row[:8], row[9]) for row in rows))
        except psycopg.errors.UniqueViolation:
            db.execute("ROLLBACK TO new")
            raise DuplicateError(f"journal {self.name}: an event is stored already") from None
        self._added += sum(len(row[9]) + ROW_BYTES for row in rows)

    def set_end(self, db: Statements, end: End) -> None:
        change = "last_offset = ?, stored_at = ?, bytes = bytes + ?, seen_at = clock_timestamp()"
        db.execute(f"UPDATE journal SET {change}", (end.offset, end.stored_at, self._added))

    def delete(self, db: Statements, where: str, value: object) -> int:
        gone = f"DELETE FROM events WHERE {where} RETURNING octet_length(payload) + {ROW_BYTES} AS size"
        count, size = db.execute(
            f"WITH gone AS ({gone}) SELECT count(*), coalesce(sum(size), 0)::int8 FROM gone", (value,)
        ).fetchone()
        db.execute(f"DELETE FROM latest WHERE {where}", (value,))
        db.execute("UPDATE journal SET bytes = greatest(0, bytes - ?)", (size,))
        return int(count)

    def erased(self, db: Statements) -> None:
        db.execute("UPDATE journal SET erasures = erasures + 1")

    def known(self, where: str, values: Sequence[object]) -> list[tuple[int, str]]:
        return self.query(f'SELECT "offset", call FROM events {where}', values)

    def bytes(self, db: Statements) -> int:
        return int(db.execute("SELECT bytes FROM journal").fetchone()[0])

    @property
    def last_offset(self) -> int:
        return int(self.query("SELECT last_offset FROM journal")[0][0])

    def probe(self) -> None:
        self.keep()

    def keep(self) -> None:
        with self.transaction() as db:
            db.execute("UPDATE journal SET seen_at = clock_timestamp()")
            if not self._locked:
                self._lock_epoch(db, self.epoch)

    def shrink(self, wait_s: float = 0.0) -> bool:
        """The server takes the room back by itself; it is asked to begin at once where somebody waits."""
        if wait_s:
            for table in ("events", "latest"):
                with suppress(JournalError), self._session.connected() as db:
                    db.execute(f"VACUUM {table}")
        return True

    def close(self) -> None:
        if self._is_writer and self.epoch:
            with suppress(JournalError), self.transaction() as db:
                db.execute("UPDATE journal SET seen_at = to_timestamp(0)")
        self._session.close()

    def _create(self) -> None:
        """Make the tables where there are none; of two that try, one waits for the other."""
        name = self._config.namespace
        with self._session.transaction() as db:
            db.execute("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (f"bcaf journal {name}",))
            there = [
                db.execute("SELECT to_regclass(?)", (f'"{name}".{table}',)).fetchone()[0] for table in _TABLES
            ]
            if there[0] is not None and there[1] is None:
                db.execute(OWNERS)
            if there[0] is not None:
                return
            if db.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?::name", (name,)).fetchone() is None:
                db.execute(f'CREATE SCHEMA "{name}"')
            for statement in CREATE.split(";\n"):
                db.execute(statement)
            db.execute(OWNERS)
            db.execute(_BEGIN, (SCHEMA, secrets.token_hex(8)))

    def _take_over(self) -> int:
        """The next epoch, which is this writer's; raises JournalError while the one before lives."""
        with self._session.transaction() as db:
            silent = "extract(epoch FROM clock_timestamp() - seen_at) > ?::float8"
            epoch, holder, is_silent = db.execute(
                f"SELECT epoch, holder, {silent} FROM journal FOR UPDATE", (self._config.lease_s,)
            ).fetchone()
            if self._lock_epoch(db, epoch):
                db.execute(f"SELECT pg_advisory_unlock({_KEY}) FROM journal", (epoch,))
            elif not is_silent:
                lease = f"{self._config.lease_s:g} s"
                way_out = f"stop that one (if it died, wait {lease}), or give this one another namespace"
                raise JournalError(f"journal {self.name}: {holder} writes to it: {way_out}")
            self._lock_epoch(db, epoch + 1)
            me = f"process {os.getpid()} on {platform.node()}"
            change = "epoch = epoch + 1, holder = ?, seen_at = clock_timestamp()"
            db.execute(f"UPDATE journal SET {change}", (me,))
        return int(epoch) + 1

    def _lock_epoch(self, db: Statements, epoch: int) -> bool:
        self._locked = bool(
            db.execute(f"SELECT pg_try_advisory_lock({_KEY}) FROM journal", (epoch,)).fetchone()[0]
        )
        return self._locked

    def _connected(self, db: Connected) -> None:
        """A new connection: whether this is still the writer, and the lock that says that it lives."""
        if self._is_writer and self.epoch:
            self._check(*db.execute(f"SELECT {_WRITER} FROM journal").fetchone())
            self._lock_epoch(db, self.epoch)

    def _check(self, identity: str, epoch: int, holder: str) -> None:
        if identity != self.identity:  # made anew, or a pooler gave this transaction another client's session
            what = "another journal is in its place (made anew, or seen through a pooler of transactions)"
            raise FencedError(f"journal {self.name}: {what}: this one writes nothing more")
        if self._is_writer and epoch != self.epoch:
            raise FencedError(f"journal {self.name}: {holder} has taken it over: this one writes nothing more")
