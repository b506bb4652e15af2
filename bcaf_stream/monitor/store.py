"""What the page knows of the past: the events of the stream and an index of their words, in a private SQLite file.

The file has no name (SQLite's temporary database): it is filled from the stream at each start, nobody else can
open it, and nothing of it outlives the process, however that ends. So a call that is erased from the journal is
nowhere else when the monitor is not running; while it runs, `forget` takes the call out, bytes included.
"""

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bcaf_stream.events.codec import from_map, to_map
from bcaf_stream.events.event import Event

_SCHEMA = """
CREATE TABLE calls (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE events (
  arrived INTEGER PRIMARY KEY, offset INTEGER NOT NULL UNIQUE, call INTEGER NOT NULL, data TEXT NOT NULL
);
CREATE INDEX events_by_call ON events (call, arrived);
CREATE TABLE utterances (
  id INTEGER PRIMARY KEY, call INTEGER NOT NULL, channel TEXT NOT NULL, utterance INTEGER NOT NULL,
  offset INTEGER NOT NULL, revision INTEGER NOT NULL, role TEXT, emotion TEXT, confidence REAL,
  start_ms INTEGER, end_ms INTEGER, at INTEGER NOT NULL, text TEXT, UNIQUE (call, channel, utterance)
);
CREATE INDEX utterances_by_time ON utterances (at);
CREATE TABLE alerts (offset INTEGER PRIMARY KEY, call INTEGER NOT NULL, rule TEXT NOT NULL);
CREATE INDEX alerts_by_call ON alerts (call);
CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'unicode61 remove_diacritics 2');
"""
NS_FIELDS = ("emitted_at", "speech_ended_at")  # beyond 2 ** 53, where numbers of JavaScript end
MOST_HITS = 200
_BLANK = to_map(Event(type="heartbeat", id="", call="", seq=0, emitted_at=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for; what is empty or None is not asked. Times are unix ns of the utterance's event."""

    words: str = ""
    call: str = ""
    emotions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    alert: str = ""
    since: int | None = None
    until: int | None = None


class Store:
    """Holds events in the order of their offsets; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.executescript("PRAGMA secure_delete = ON; PRAGMA journal_mode = MEMORY;" + _SCHEMA)
        self._ids: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        """How many events of each call are here."""

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(self, events: Sequence[Event]) -> list[Event]:
        """Take events in, and give those that are new; one without an offset is in no journal and is not kept."""
        new: list[Event] = []
        with self._lock:
            self._db.execute("BEGIN")
            for event in events:
                if event.offset is None or not event.call:
                    continue
                call = self._id_of(event.call)
                row = (event.offset, call, as_json(event))
                if self._db.execute(
                    "INSERT OR IGNORE INTO events (offset, call, data) VALUES (?, ?, ?)", row
                ).rowcount:
                    self.counts[event.call] += 1
                    new.append(event)
                    self._index(event, call)
            self._db.execute("COMMIT")
        return new

    def clear(self) -> None:
        """Forget everything: the journal is another one now."""
        for call in list(self.counts):
            self.forget([call], compact=False)
        self._compact()

    def forget(self, calls: Iterable[str], compact: bool = True) -> None:
        """Take calls out; afterwards no page of the file holds their words."""
        with self._lock:
            for name in calls:
                call = self._ids.pop(name, None)
                self.counts.pop(name, None)
                if call is None:
                    continue
                self._db.execute("BEGIN")
                of_call = "SELECT id FROM utterances WHERE call = ?"
                self._db.execute(f"DELETE FROM words WHERE rowid IN ({of_call})", (call,))
                for table in ("utterances", "alerts", "events"):
                    self._db.execute(f"DELETE FROM {table} WHERE call = ?", (call,))
                self._db.execute("DELETE FROM calls WHERE id = ?", (call,))
                self._db.execute("COMMIT")
        if compact:
            self._compact()

    def forget_before(self, offset: int) -> list[str]:
        """Take out what the journal does not keep any more; the calls of which nothing is left."""
        with self._lock:
            gone = self._db.execute(
                "SELECT name, count(*) FROM events JOIN calls ON calls.id = call WHERE offset < ? GROUP BY call",
                (offset,),
            ).fetchall()
            old = "SELECT id FROM utterances WHERE offset < ?"
            self._db.execute("BEGIN")
            self._db.execute(f"DELETE FROM words WHERE rowid IN ({old})", (offset,))
            for table in ("utterances", "alerts", "events"):
                self._db.execute(f"DELETE FROM {table} WHERE offset < ?", (offset,))
            self._db.execute("COMMIT")
            for name, count in gone:
                self.counts[name] -= count
            empty = [name for name, _ in gone if self.counts[name] <= 0]
            self.forget(empty)
        return empty

    @property
    def first_offset(self) -> int:
        """Of the oldest event that is here; 0 where there is none."""
        with self._lock:
            return int(self._db.execute("SELECT ifnull(min(offset), 0) FROM events").fetchone()[0])

    def count_to(self, offset: int) -> int:
        """How many events are here up to an offset."""
        with self._lock:
            beyond = self._db.execute("SELECT count(*) FROM events WHERE offset > ?", (offset,)).fetchone()[0]
            return sum(self.counts.values()) - int(beyond)

    def counts_to(self, offset: int, calls: Sequence[str]) -> int:
        """The same of these calls alone."""
        with self._lock:
            total = 0
            for name in calls:
                beyond = self._db.execute(
                    "SELECT count(*) FROM events WHERE call = ? AND offset > ?", (self._ids.get(name), offset)
                ).fetchone()[0]
                total += self.counts[name] - int(beyond)
            return total

    def events(self, call: str, after: int = -1, arrived: int = 0, limit: int = -1) -> list[tuple[int, str]]:
        """The events of a call behind an offset that came here after `arrived`: when each one came, and its JSON.

        They are in the order in which they came: that of their offsets, unless some were lost on their way.
        """
        with self._lock:
            return self._db.execute(
                "SELECT arrived, data FROM events WHERE call = ? AND arrived > ? AND offset > ?"
                " ORDER BY arrived LIMIT ?",
                (self._ids.get(call), arrived, after, limit),
            ).fetchall()

    def utterance(self, call: str, channel: str, number: int) -> dict[str, Any] | None:
        """The event that told an utterance last, as the page has it; None where there is none."""
        with self._lock:
            found = self._db.execute(
                "SELECT e.data FROM utterances u JOIN events e ON e.offset = u.offset"
                " WHERE u.call = ? AND u.channel = ? AND u.utterance = ?",
                (self._ids.get(call), channel, number),
            ).fetchone()
        return found and json.loads(found[0])

    def search(self, query: Query, limit: int = MOST_HITS) -> list[dict[str, Any]]:
        """Utterances as they hold now, the latest first; words are found by their beginnings, all of them."""
        where: list[str] = ["1"]
        values: list[object] = []

        def needs(condition: str, *given: object) -> None:
            where.append(condition)
            values.extend(given)

        if terms := _terms(query.words):
            needs("u.id IN (SELECT rowid FROM words WHERE words MATCH ?)", terms)
        if query.call:
            needs("instr(lower(c.name), lower(?)) > 0", query.call)
        for column, wanted in (("emotion", query.emotions), ("role", query.roles)):
            if wanted:
                needs(f"u.{column} IN ({','.join('?' * len(wanted))})", *wanted)
        if query.alert:
            needs("u.call IN (SELECT call FROM alerts WHERE ? IN ('*', rule))", query.alert)
        if query.since is not None:
            needs("u.at >= ?", query.since)
        if query.until is not None:
            needs("u.at <= ?", query.until)
        names = (
            "c.name, u.channel, u.role, u.utterance, u.start_ms, u.end_ms, u.emotion, u.confidence, u.text, u.at"
        )
        with self._lock:
            rows = self._db.execute(
                f"SELECT {names} FROM utterances u JOIN calls c ON c.id = u.call WHERE {' AND '.join(where)}"
                " ORDER BY u.at DESC, u.id DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        keys = (
            "call",
            "channel",
            "role",
            "utterance",
            "start_ms",
            "end_ms",
            "emotion",
            "confidence",
            "text",
            "at",
        )
        return [{**dict(zip(keys, row, strict=True)), "at": str(row[-1])} for row in rows]

    def _id_of(self, name: str) -> int:
        if name not in self._ids:
            found = self._db.execute("INSERT INTO calls (name) VALUES (?) RETURNING id", (name,)).fetchone()
            self._ids[name] = found[0]
        return self._ids[name]

    def _index(self, event: Event, call: int) -> None:
        if event.type == "alert":
            rule = str(getattr(event, "rule", None) or event.reason or "")
            self._db.execute("INSERT INTO alerts VALUES (?, ?, ?)", (event.offset, call, rule))
        if event.utterance is None or event.type == "emotion.interim":
            return
        key = (call, event.channel, event.utterance)
        known = self._db.execute(
            "SELECT id, revision FROM utterances WHERE call = ? AND channel = ? AND utterance = ?", key
        ).fetchone()
        if known and known[1] > event.revision:
            return
        said = (event.offset, event.revision, event.role, event.emotion, event.confidence)
        values = (*said, event.start_ms, event.end_ms, event.emitted_at, event.text)
        if known:
            id = known[0]
            self._db.execute(
                "UPDATE utterances SET offset = ?, revision = ?, role = ?, emotion = ?, confidence = ?,"
                " start_ms = ?, end_ms = ?, at = ?, text = ? WHERE id = ?",
                (*values, id),
            )
            self._db.execute("DELETE FROM words WHERE rowid = ?", (id,))
        else:
            columns = (
                "call, channel, utterance, offset, revision, role, emotion, confidence, start_ms, end_ms, at, text"
            )
            marks = ",".join("?" * 12)
            id = self._db.execute(
                f"INSERT INTO utterances ({columns}) VALUES ({marks}) RETURNING id", (*key, *values)
            ).fetchone()[0]
        if event.text:
            self._db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (id, event.text))

    def _compact(self) -> None:
        """FTS5 only marks what is deleted, until its segments are merged."""
        with self._lock:
            self._db.execute("INSERT INTO words (words) VALUES ('optimize')")


def as_json(event: Event) -> str:
    """An event for the page: one JSON object without what does not apply, times of day as strings."""
    fields = {name: value for name, value in to_map(event).items() if value not in (None, "", [], {})}
    for name in NS_FIELDS:
        if name in fields:
            fields[name] = str(fields[name])
    fields.pop("v", None)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def event_of(fields: dict[str, Any]) -> Event:
    """The inverse of `as_json`, from its parsed object; raises EventError where it is none."""
    return from_map({**_BLANK, **{name: int(v) if name in NS_FIELDS else v for name, v in fields.items()}})


def _terms(words: str) -> str:
    """An FTS5 query: each word by its beginning; nothing in it is an operator."""
    return " ".join(f'"{word}"*' for word in words.replace('"', " ").replace("\0", " ").split())
