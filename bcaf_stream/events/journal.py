"""The journal: every event of every call on disk, in one order, before anybody is told.

`journal_file` says what the file is and how it is opened, `rows` how an event lies in it, `upkeep` what is deleted
from it and when, `repair` what can be done when it is damaged.

Unusual: appending an event whose id is there already is no error and no second row; it returns the event as
it was stored first. So whoever is not sure that an append arrived simply appends again.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat

from bcaf_stream.errors import EventError, JournalError
from bcaf_stream.events.codec import decode, draft, numbered
from bcaf_stream.events.journal_file import JournalConfig, JournalFile
from bcaf_stream.events.messages import Event, topic_of
from bcaf_stream.events.rows import COLUMNS, INSERT, Context, Entry, Row, context_of, entry_of, row_of

ROWS = 100  # inserted by one statement: Python hands its lock over at each, and may wait to get it back
PAGE = 500  # rows fetched at once: a reader holds no lock while it looks at them


class Journal(JournalFile):
    """Appends events and reads them back; see JournalFile for the arguments."""

    def __init__(
        self,
        config: JournalConfig,
        read_only: bool = False,
        maintenance: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._contexts: dict[Context, int] = {}
        self._context_of: dict[int, Context] = {}
        super().__init__(config, read_only, maintenance, clock)

    def store(self, events: Sequence[Event], drafts: Sequence[bytes] | None = None) -> list[Entry]:
        """Store the events in one transaction and return them as they are to be published, in the given order.

        An event whose id is known comes back as it was stored first. `drafts` are the events by `codec.draft`, of
        whoever had time to make them.

        Raises:
            JournalError: nothing was stored, and why.
        """
        if not events:
            return []
        with self._lock:
            with self.translated():
                contexts = self._contexts_of(events)
            drafts = drafts if drafts is not None else [draft(event) for event in events]
            with self.transaction() as db:
                return self._store(db, events, drafts, contexts)

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

    def calls(self) -> list[tuple[str, int, int, str | None, bool]]:
        """Each call: its numbers of events and of utterances, its most frequent emotion, whether it ended."""
        return [(*row[:4], bool(row[4])) for row in self.query(_CALLS)]

    def _store(
        self, db: sqlite3.Connection, events: Sequence[Event], drafts: Sequence[bytes], contexts: list[int]
    ) -> list[Entry]:
        last, stored_at = self._end()
        stored_at = max(self._clock(), stored_at)  # a clock that was set back moves nothing back
        offsets = range(last + 1, last + 1 + len(events))
        entries = [
            Entry(offset, stored_at, topic_of(e.call, e.channel, e.type), numbered(data, offset))
            for e, data, offset in zip(events, drafts, offsets, strict=True)
        ]
        rows = [row_of(*each) for each in zip(events, offsets, repeat(stored_at), contexts)]
        db.execute("SAVEPOINT new")
        try:
            _insert(db, rows)
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
        return Entry(
            offset, stored_at, topic_of(event.call, event.channel, event.type), numbered(draft(event), offset)
        )

    def _contexts_of(self, events: Sequence[Event]) -> list[int]:
        """The number of each event's context; mostly it is that of the event before."""
        numbers, last, number = [], None, 0
        for event in events:
            if last is None or event.model != last.model or tuple(event.probs) != last.labels:
                last = context_of(event)
                number = self._context(last)
            numbers.append(number)
        return numbers

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
