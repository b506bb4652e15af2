"""The journal: every event of every call, in one order, before anybody is told.

`database` is what keeps it, in an SQLite file or on PostgreSQL; `rows` says how an event lies in it, `retention`
what is deleted from it and when, `repair` what can be done when a file is damaged.

Unusual: appending an event whose id is there already is no error and no second row; it returns the event as
it was stored first. So whoever is not sure that an append arrived simply appends again.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import repeat
from typing import Any, Self

from bcaf_stream.errors import DamagedError
from bcaf_stream.events.codec import decode, draft, numbered
from bcaf_stream.events.event import Event, topic_of
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.database import Database, DuplicateError, End, Statements
from bcaf_stream.events.journal.rows import Entry, Row, entry_of, row_of, stand_in
from bcaf_stream.events.journal.schema_2 import Context

PAGE = 500  # rows fetched at once: a reader holds no lock while it looks at them
NOT_STORED = Entry(0, 0, b"", b"")  # in the place of an event whose call was erased


class Journal:
    """Appends events and reads them back; may be used from any thread.

    `identity` is the journal's own, `epoch` counts how often a writer has opened it.

    Args:
        read_only: do not create or change anything; for those who replay what another process writes.
        maintenance: delete, but append nothing; for those who work beside the writer.
        clock: unix time in ns, for `stored_at`.

    Raises:
        JournalError: it cannot be opened, is damaged, is held by another writer, or is not a journal that this
            version knows.
    """

    def __init__(
        self,
        config: JournalConfig,
        read_only: bool = False,
        maintenance: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config
        self._clock = clock
        self._contexts: dict[int, Context] = {}
        self._erased: frozenset[str] = frozenset()
        self._erased_version = -1  # of the database, when that was read
        self.damaged = 0  # how often an event could not be read
        self.database = _open_database(config, read_only, maintenance, clock)
        self.name = self.database.name
        self.identity = self.database.identity
        self.epoch = self.database.epoch

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a question; raises JournalError."""
        return self.database.query(sql, values)

    def transaction(self) -> AbstractContextManager[Statements]:
        """All or nothing; raises JournalError."""
        return self.database.transaction()

    def probe(self) -> None:
        """Write something that changes nothing; raises JournalError where nothing can be written."""
        self.database.probe()

    def keep(self) -> None:
        """Say that this writer lives, at least twice within `lease_s`; raises JournalError."""
        self.database.keep()

    def close(self) -> None:
        """Note that it was closed in order."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def store(self, events: Sequence[Event], drafts: Sequence[bytes] | None = None) -> list[Entry]:
        """Store the events in one transaction and return them as they are to be published, in the given order.

        An event whose id is known comes back as it was stored first, one of an erased call as NOT_STORED. `drafts`
        are the events by `codec.draft`, of whoever had time to make them.

        Raises:
            JournalError: nothing was stored, and why.
        """
        if not events:
            return []
        drafts = drafts if drafts is not None else [draft(event) for event in events]
        with self.transaction() as db:
            end = self.database.end(db)
            erased = self._erased_calls(db, end)
            if not any(event.call in erased for event in events):
                return self._store(db, end, events, drafts)
            kept = [n for n, event in enumerate(events) if event.call not in erased]
            entries = [NOT_STORED] * len(events)
            if kept:
                wanted = self._store(db, end, [events[n] for n in kept], [drafts[n] for n in kept])
                for n, entry in zip(kept, wanted, strict=True):
                    entries[n] = entry
            return entries

    def append(self, events: Sequence[Event]) -> list[Event]:
        """`store`, for those who want the events."""
        return [decode(entry.data) for entry in self.store(events) if entry is not NOT_STORED]

    def read(self, from_offset: int = 0, call: str | None = None, limit: int | None = None) -> Iterator[Event]:
        """Events in the order of their offsets, from `from_offset` on, that included.

        What is appended while this is read is read as well. An event that is damaged comes as `damage` says.

        Raises:
            JournalError: the file cannot be read.
        """
        while limit is None or limit > 0:
            rows = self._rows(from_offset, call, PAGE if limit is None else min(PAGE, limit))
            for entry in self._entries(rows):
                yield decode(entry.data)
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
        return self._entries(self._rows(from_offset, call, limit, latest))

    def existing(self, offsets: Sequence[int]) -> set[int]:
        """Those of these offsets whose events were not deleted."""
        marks = ",".join("?" * len(offsets))
        return {row[0] for row in self.query(f'SELECT "offset" FROM events WHERE "offset" IN ({marks})', offsets)}

    def first_since(self, when: int) -> int:
        """The offset of the first event stored at `when` (unix ns) or later; one after the last where none was."""
        try:
            return self._first_since(when)
        except DamagedError:  # one page after the other, around the damage
            rows = self._rows(0, None, PAGE)
            while rows:
                for row in rows:
                    if isinstance(row[7], int) and row[7] >= when:
                        return row[0]
                rows = self._rows(rows[-1][0] + 1, None, PAGE)
            return self.last_offset + 1

    def _first_since(self, when: int) -> int:
        first, after = self.query('SELECT coalesce(min("offset"), 1), coalesce(max("offset"), 0) + 1 FROM events')[
            0
        ]
        while first < after:  # `stored_at` never falls
            middle = (first + after) // 2
            offset, stored_at = self.query(
                'SELECT "offset", stored_at FROM events WHERE "offset" >= ? ORDER BY "offset" LIMIT 1', (middle,)
            )[0]
            if stored_at < when:
                first = offset + 1
            else:
                after = middle
        return int(first)

    def topics(self, after: int, to: int) -> list[tuple[bytes, int]]:
        """The topics of the events after an offset, up to another, each with its number of events."""
        where = 'WHERE "offset" > ? AND "offset" <= ? GROUP BY 1, 2, 3'
        grouped = self.query(f"SELECT call, channel, type, count(*) FROM events {where}", (after, to))
        return [(topic_of(*names), count) for *names, count in grouped]

    @property
    def last_offset(self) -> int:
        """The highest offset ever given; 0 before the first."""
        return self.database.last_offset

    def calls(self) -> list[tuple[str, int, int, str | None, bool]]:
        """Each call: its numbers of events and of utterances, its most frequent emotion, whether it ended."""
        return [(*row[:4], bool(row[4])) for row in self.query(_CALLS)]

    def unfinished(self) -> list[str]:
        """The calls that have no end."""
        last = self.query('SELECT call, "offset" FROM latest WHERE channel = \'\' ORDER BY "offset"')
        return [call for call, offset in last if not self._is_end(offset)]

    def _is_end(self, offset: int) -> bool:
        try:
            return bool(self.query("SELECT 1 FROM events WHERE \"offset\" = ? AND type = 'call.end'", (offset,)))
        except DamagedError:
            return False

    def is_erased(self, call: str) -> bool:
        """Whether this call was erased: nothing of it is stored any more."""
        return bool(self.query("SELECT 1 FROM audit WHERE action = 'erase' AND call = ?", (call,)))

    @property
    def erasures(self) -> int:
        """How often a call was erased."""
        return int(self.query("SELECT count(*) FROM audit WHERE action = 'erase'")[0][0])

    def _erased_calls(self, db: Statements, end: End) -> frozenset[str]:
        if end.erasures != self._erased_version:
            self._erased = frozenset(
                row[0] for row in db.execute("SELECT call FROM audit WHERE action = 'erase'").fetchall()
            )
            self._erased_version = end.erasures
        return self._erased

    def note_erasure(self, db: Statements, call: str, now: int, count: int) -> None:
        """Within a transaction: one line that says so stays, and nothing of the call is stored from now on."""
        db.execute("INSERT INTO audit VALUES (?, 'erase', ?, ?)", (now, call, count))
        self.database.erased(db)

    def _store(self, db: Statements, end: End, events: Sequence[Event], drafts: Sequence[bytes]) -> list[Entry]:
        last, stored_at = end.offset, max(self._clock(), end.stored_at)  # a clock set back moves nothing back
        offsets = range(last + 1, last + 1 + len(events))
        entries = [
            Entry(offset, stored_at, topic_of(e.call, e.channel, e.type), numbered(data, offset))
            for e, data, offset in zip(events, drafts, offsets, strict=True)
        ]
        rows = [row_of(*each) for each in zip(events, offsets, repeat(stored_at), drafts)]
        try:
            self.database.insert(db, rows)
        except DuplicateError:  # rare: some of them were stored before
            entries = self._store_unknown(db, last, stored_at, events, drafts)
        latest = {(e.call, e.channel): entry.offset for e, entry in zip(events, entries, strict=True)}
        db.executemany(_UPSERT_LATEST, [(*key, offset) for key, offset in sorted(latest.items())])
        reached = max(last, *(entry.offset for entry in entries))
        self.database.set_end(db, End(reached, stored_at, end.erasures))
        return entries

    def _store_unknown(
        self, db: Statements, last: int, stored_at: int, events: Sequence[Event], drafts: Sequence[bytes]
    ) -> list[Entry]:
        known = self._known(db, [event.id for event in events])
        found: dict[str, Entry] = {}
        rows: list[Row] = []
        for event, data in zip(events, drafts, strict=True):
            if event.id in found:
                continue
            row = known.get(event.id)
            if row is None:
                last += 1
                offset, when = last, stored_at
            else:
                try:
                    found[event.id] = entry_of(row, self._context)
                    continue
                except Exception:  # whatever is wrong with it: here it is again
                    offset, when = row[0], row[7] if type(row[7]) is int else stored_at
                    db.execute('DELETE FROM events WHERE "offset" = ?', (offset,))
            rows.append(row_of(event, offset, when, data))
            topic = topic_of(event.call, event.channel, event.type)
            found[event.id] = Entry(offset, when, topic, numbered(data, offset))
        if rows:
            self.database.insert(db, rows)
        return [found[event.id] for event in events]

    def _known(self, db: Statements, ids: Sequence[str]) -> dict[str, Row]:
        """The rows of those that are stored, in few questions: each may be a journey over the network."""
        rows: dict[str, Row] = {}
        for at in range(0, len(ids), PAGE):
            some = ids[at : at + PAGE]
            wanted = f"(VALUES {','.join(['(?)'] * len(some))}) AS wanted"
            joined = f"{wanted} JOIN events ON events.id = wanted.column1"
            found = db.execute(f"SELECT wanted.column1, {self.database.columns} FROM {joined}", some).fetchall()
            rows.update((row[0], row[1:]) for row in found)
        return rows

    def _rows(self, from_offset: int, call: str | None, limit: int, latest: bool = False) -> list[Row]:
        where = '"offset" >= ?' if call is None else 'call = ? AND "offset" >= ?'
        if latest:
            where = f'"offset" IN (SELECT "offset" FROM latest WHERE {where})'
        values = (from_offset, limit) if call is None else (call, from_offset, limit)
        order = f'WHERE {where} ORDER BY "offset" LIMIT ?'
        try:
            return self.query(f"SELECT {self.database.columns} FROM events {order}", values)
        except DamagedError:  # the index knows what there should be, and each is looked for by itself
            return [self._row(offset, call) for offset, call in self.database.known(order, values)]

    def _row(self, offset: int, call: str) -> Row:
        try:
            return self.query(f'SELECT {self.database.columns} FROM events WHERE "offset" = ?', (offset,))[0]
        except (DamagedError, IndexError):
            return (offset, None, call, *[None] * 7)  # type: ignore[return-value]

    def _context(self, number: int) -> Context:
        if number not in self._contexts:
            rows = self.query("SELECT model, labels FROM contexts WHERE context = ?", (number,))
            if not rows:
                raise ValueError("its context is missing")
            self._contexts[number] = Context(rows[0][0], tuple(json.loads(rows[0][1])))
        return self._contexts[number]

    def _entries(self, rows: Sequence[Row]) -> list[Entry]:
        entries: list[Entry] = []
        for row in rows:
            try:
                entry = entry_of(row, self._context)
            except Exception:  # anything may stand in a damaged row, and msgpack documents no closed set of errors
                self.damaged += 1
                entry = stand_in(row, entries[-1].stored_at if entries else 0, self._clock())
            entries.append(entry)
        return entries


_UPSERT_LATEST = """
INSERT INTO latest VALUES (?, ?, ?)
ON CONFLICT (call, channel) DO UPDATE SET "offset" = excluded."offset" WHERE excluded."offset" > latest."offset"
"""

_CALLS = """
SELECT call, count(*), count(*) FILTER (WHERE type = 'emotion.final'),
    (SELECT emotion FROM events AS own WHERE own.call = events.call AND emotion IS NOT NULL
     GROUP BY emotion ORDER BY count(*) DESC, emotion LIMIT 1),
    count(*) FILTER (WHERE type = 'call.end')
FROM events GROUP BY call ORDER BY min("offset")
"""


def _open_database(
    config: JournalConfig, read_only: bool, maintenance: bool, clock: Callable[[], int]
) -> Database:
    """The database that the configuration names; see `Journal` for the arguments.

    Raises:
        JournalError: it cannot be opened, is held by another writer, or is no journal that this version knows.
    """
    if config.file is not None:
        from bcaf_stream.events.journal.sqlite import SqliteDatabase

        return SqliteDatabase(config, read_only, maintenance, clock)
    from bcaf_stream.events.journal.postgres import PostgresDatabase

    return PostgresDatabase(config, read_only, maintenance, clock)
