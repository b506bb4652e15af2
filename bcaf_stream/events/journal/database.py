"""What a journal asks of the database that keeps it, which is `sqlite` or `postgres`.

SQL is the same for both: `?` for a value, `"offset"` in quotes, for PostgreSQL reserves that word.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from bcaf_stream.errors import JournalError
from bcaf_stream.events.journal.rows import Row

OWNERS = """
CREATE TABLE IF NOT EXISTS owners (
    call TEXT PRIMARY KEY, epoch BIGINT NOT NULL, owner TEXT NOT NULL, claimed_at BIGINT NOT NULL
)
"""  # see bcaf_stream.events.owners; a journal of an earlier version gets it when a writer opens it


class DuplicateError(JournalError):
    """An event of this id is stored already."""


class End(NamedTuple):
    """The last offset ever given, the last `stored_at`, and a number that changes when calls are erased."""

    offset: int
    stored_at: int
    erasures: int


class Statements(Protocol):
    """An open transaction."""

    def execute(self, sql: str, values: Sequence[object] = (), /) -> Any: ...

    def executemany(self, sql: str, values: Iterable[Sequence[object]], /) -> Any: ...


class Database(Protocol):
    """An open journal's tables; may be used from any thread, and every method may raise JournalError.

    `identity` is the journal's own, `epoch` counts how often a writer has opened it.
    """

    name: str  # for messages
    columns: str  # of `events`, as in `rows`
    identity: str
    epoch: int

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a question."""

    def transaction(self) -> AbstractContextManager[Statements]:
        """All or nothing, and nothing where another writer has taken the journal over."""

    def end(self, db: Statements) -> End:
        """Within a transaction: where it goes on."""

    def insert(self, db: Statements, rows: Sequence[Row]) -> None:
        """Within a transaction; raises DuplicateError, and then none of them is inserted."""

    def set_end(self, db: Statements, end: End) -> None:
        """Within a transaction, after `insert`."""

    def delete(self, db: Statements, where: str, value: object) -> int:
        """Within a transaction: forget these events; how many they were."""

    def erased(self, db: Statements) -> None:
        """Within a transaction: a call was erased."""

    def known(self, where: str, values: Sequence[object]) -> list[tuple[int, str]]:
        """Offset and call of events, where their rows cannot be read."""

    def bytes(self, db: Statements) -> int:
        """How much room the events take."""

    @property
    def last_offset(self) -> int:
        """The highest offset ever given; 0 before the first."""

    def probe(self) -> None:
        """Write something that changes nothing."""

    def keep(self) -> None:
        """Say that this writer lives."""

    def shrink(self, wait_s: float = 0.0) -> bool:
        """Give the room of what was deleted back; whether nothing of it is left that can be taken away."""

    def close(self) -> None:
        """Note that the writer has ended in order."""
