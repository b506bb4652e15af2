"""The journal: every event of every call on disk, in one order, before anybody is told.

`journal_file` says what the file is and how it is opened, `rows` how an event lies in it, `retention` what is
deleted from it and when, `repair` what can be done when it is damaged.

Unusual: appending an event whose id is there already is no error and no second row; it returns the event as
it was stored first. So whoever is not sure that an append arrived simply appends again.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat

from bcaf_stream.errors import DamagedError
from bcaf_stream.events.codec import decode, draft, numbered
from bcaf_stream.events.event import Event, topic_of
from bcaf_stream.events.journal.damage import stand_in
from bcaf_stream.events.journal.rows import COLUMNS, INSERT, Entry, Row, entry_of, row_of
from bcaf_stream.events.journal.schema_2 import Context
from bcaf_stream.events.journal.sqlite import JournalConfig, JournalFile

ROWS = 100  # inserted by one statement: Python hands its lock over at each, and may wait to get it back
PAGE = 500  # rows fetched at once: a reader holds no lock while it looks at them
NOT_STORED = Entry(0, 0, b"", b"")  # in the place of an event whose call was erased


class Journal(JournalFile):
    """Appends events and reads them back; see JournalFile for the arguments."""

    def __init__(
        self,
        config: JournalConfig,
        read_only: bool = False,
        maintenance: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._contexts: dict[int, Context] = {}
        self._erased: frozenset[str] = frozenset()
        self._erased_version = -1  # of the file, when that was read
        self.damaged = 0  # how often an event could not be read
        super().__init__(config, read_only, maintenance, clock)

    def store(self, events: Sequence[Event], drafts: Sequence[bytes] | None = None) -> list[Entry]:
        """Store the events in one transaction and return them as they are to be published, in the given order.

        An event whose id is known comes back as it was stored first, one of an erased call as NOT_STORED. `drafts`
        are the events by `codec.draft`, of whoever had time to make them.

        Raises:
            JournalError: nothing was stored, and why.
        """
        if not events:
            return []
        with self._lock:
            drafts = drafts if drafts is not None else [draft(event) for event in events]
            with self.transaction() as db:
                erased = self._erased_calls()
                if not any(event.call in erased for event in events):
                    return self._store(db, events, drafts)
                kept = [n for n, event in enumerate(events) if event.call not in erased]
                entries = [NOT_STORED] * len(events)
                if kept:
                    wanted = self._store(db, [events[n] for n in kept], [drafts[n] for n in kept])
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
        return {row[0] for row in self.query(f"SELECT offset FROM events WHERE offset IN ({marks})", offsets)}

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

    def calls(self) -> list[tuple[str, int, int, str | None, bool]]:
        """Each call: its numbers of events and of utterances, its most frequent emotion, whether it ended."""
        return [(*row[:4], bool(row[4])) for row in self.query(_CALLS)]

    def unfinished(self) -> list[str]:
        """The calls that have no end."""
        last = self.query("SELECT call, offset FROM latest WHERE channel = '' ORDER BY offset")
        return [call for call, offset in last if not self._is_end(offset)]

    def _is_end(self, offset: int) -> bool:
        try:
            return bool(self.query("SELECT 1 FROM events WHERE offset = ? AND type = 'call.end'", (offset,)))
        except DamagedError:
            return False

    def is_erased(self, call: str) -> bool:
        """Whether this call was erased: nothing of it is stored any more."""
        with self._lock, self.translated():
            return call in self._erased_calls()

    @property
    def erasures(self) -> int:
        """How often a call was erased."""
        return int(self.query("SELECT count(*) FROM audit WHERE action = 'erase'")[0][0])

    def _erased_calls(self) -> frozenset[str]:
        version = self._one("PRAGMA data_version")  # another one, when another connection has changed the file
        if version != self._erased_version:
            self._erased_version = version
            self._erased = frozenset(
                row[0] for row in self._db.execute("SELECT call FROM audit WHERE action = 'erase'")
            )
        return self._erased

    def note_erasure(self, db: sqlite3.Connection, call: str, now: int, count: int) -> None:
        """Within a transaction: one line that says so stays, and nothing of the call is stored from now on."""
        db.execute("INSERT INTO audit VALUES (?, 'erase', ?, ?)", (now, call, count))
        self._erased_version = -1

    def _store(self, db: sqlite3.Connection, events: Sequence[Event], drafts: Sequence[bytes]) -> list[Entry]:
        last, stored_at = self._end()
        stored_at = max(self._clock(), stored_at)  # a clock that was set back moves nothing back
        offsets = range(last + 1, last + 1 + len(events))
        entries = [
            Entry(offset, stored_at, topic_of(e.call, e.channel, e.type), numbered(data, offset))
            for e, data, offset in zip(events, drafts, offsets, strict=True)
        ]
        rows = [row_of(*each) for each in zip(events, offsets, repeat(stored_at), drafts)]
        db.execute("SAVEPOINT new")
        try:
            _insert(db, rows)
        except sqlite3.IntegrityError:
            db.execute("ROLLBACK TO new")  # rare: some of them were stored before
            entries = [self._store_one(db, *each, last, stored_at) for each in zip(events, drafts, strict=True)]
        latest = {(e.call, e.channel): entry.offset for e, entry in zip(events, entries, strict=True)}
        db.executemany(_UPSERT_LATEST, [(*key, offset) for key, offset in latest.items()])
        return entries

    def _rows(self, from_offset: int, call: str | None, limit: int, latest: bool = False) -> list[Row]:
        where = "offset >= ?" if call is None else "call = ? AND offset >= ?"
        if latest:
            where = f"offset IN (SELECT offset FROM latest WHERE {where})"
        values = (from_offset, limit) if call is None else (call, from_offset, limit)
        order = f"WHERE {where} ORDER BY offset LIMIT ?"
        try:
            return self.query(f"SELECT {COLUMNS} FROM events {order}", values)
        except DamagedError:  # the index knows what there should be, and each is looked for by itself
            known = self.query(f"SELECT offset, call FROM events INDEXED BY events_by_call {order}", values)
            return [self._row(offset, call) for offset, call in known]

    def _row(self, offset: int, call: str) -> Row:
        try:
            return self.query(f"SELECT {COLUMNS} FROM events WHERE offset = ?", (offset,))[0]
        except (DamagedError, IndexError):
            return (offset, None, call, *[None] * 7)  # type: ignore[return-value]

    def _end(self) -> tuple[int, int]:
        """The last offset ever given and the last `stored_at`."""
        newest = self._db.execute("SELECT stored_at FROM events ORDER BY offset DESC LIMIT 1").fetchone()
        given = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(given[0]) if given else 0, int(newest[0]) if newest else 0

    def _store_one(self, db: sqlite3.Connection, event: Event, draft: bytes, last: int, stored_at: int) -> Entry:
        known = db.execute(f"SELECT {COLUMNS} FROM events WHERE id = ?", (event.id,)).fetchone()
        if known:
            try:
                return entry_of(known, self._context)
            except Exception:  # whatever is wrong with it: here it is again
                offset, stored_at = known[0], stored_at if type(known[7]) is not int else known[7]
                db.execute("DELETE FROM events WHERE offset = ?", (offset,))
        else:
            offset = max(last, self._end()[0]) + 1
        db.execute(INSERT, row_of(event, offset, stored_at, draft))
        return Entry(offset, stored_at, topic_of(event.call, event.channel, event.type), numbered(draft, offset))

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


def _insert(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    many = len(rows) - len(rows) % ROWS
    for at in range(0, many, ROWS):
        db.execute(_INSERT_ROWS, list(chain.from_iterable(rows[at : at + ROWS])))
    db.executemany(INSERT, rows[many:])


_INSERT_ROWS = INSERT + f", {INSERT.partition('VALUES ')[2]}" * (ROWS - 1)
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
