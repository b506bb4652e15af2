"""One session with a PostgreSQL server: made again when it was lost, and cut off when it takes too long.

Deadlines are kept on this side, for a server that has stopped keeps none: a watch cuts the connection. After an
attempt that failed there is a rest, in which every use fails at once: nobody waits for each attempt.
"""

import os
import platform
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from bcaf_stream.errors import DamagedError, EventError, JournalError
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.files import read_private
from bcaf_stream.loops import start_thread

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.types.string import StrBinaryDumper, TextBinaryLoader
except ImportError as error:
    raise EventError("a journal on PostgreSQL needs psycopg: pip install 'bcaf-stream[postgres]'") from error

LONGEST_REST_S = 4.0
_WATCH_S = 0.2

_WAYS_OUT = {
    "25006": "it is read-only: name the primary server, or let this user write",
    "28": "the server refuses this user or password: see pg_hba.conf, password_file, PGPASSFILE, PGPASSWORD",
    "3D": "there is no such database: createdb makes one",
    "3F": "there is no journal in it: see namespace and the database's name",
    "42501": "this user may not do that: it needs CREATE in the database, or the tables made and granted to it",
    "42703": "its tables are no journal's: choose another namespace",
    "42P01": "there is no journal in it: see namespace and the database's name",
    "53100": "the disk is full: free some space; nothing of this append was stored",
    "53": "the server is short of memory or connections: see its log",
    "55P03": "another process is writing to it: stop that one, or choose another namespace",
    "57": "the server was shut down, is starting, or ended the connection: see its log",
    "58": "the server's disk failed: check its space and its health",
    "XX": "it is damaged, says the server: restore it from a backup",
}


class _Dumper(StrBinaryDumper):
    """PostgreSQL's text may hold every character but NUL, and names of calls may hold that."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\\", "\\\\").replace("\0", "\\0") if "\0" in obj or "\\" in obj else obj)


class _Loader(TextBinaryLoader):
    def load(self, data: Any) -> str:
        text = str(super().load(data))
        return "\\".join(part.replace("\\0", "\0") for part in text.split("\\\\")) if "\\" in text else text


class Session:
    """For any thread, one at a time.

    Args:
        prepare: is called with each new connection, before anybody else uses it.

    Raises:
        JournalError: from every use: the server cannot be reached, does not answer in time, or refuses, and why.
    """

    def __init__(
        self, config: JournalConfig, read_only: bool, prepare: Callable[["Connected"], None] | None = None
    ) -> None:
        assert config.url is not None
        self._config = config
        self._read_only = read_only
        self._prepare = prepare
        self._parameters = _parameters(config)
        self.name = _name(self._parameters, config)
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._wire: socket.socket | None = None
        self._wire_lock = threading.Lock()
        self._due: float | None = None  # when the watch cuts the wire
        self._late = False
        self._failures = 0
        self._rest_until = 0.0
        self._failure = ""
        self._closed = False
        self._watch = start_thread("journal deadline", self._watch_deadline)

    @contextmanager
    def connected(self) -> Iterator["Connected"]:
        """The connection, for one question or one transaction, which must take no longer than `timeout_s`."""
        with self._lock:
            if self._due is not None:  # within a transaction of this thread
                assert self._connection is not None
                yield Connected(self._connection)
                return
            if self._closed:
                raise JournalError(f"journal {self.name}: it is closed")
            self._due = time.monotonic() + self._config.timeout_s
            self._late = False
            try:
                yield Connected(self._usable())
            except psycopg.Error as error:
                raise self._translated(error) from None
            finally:
                self._due = None
                if self._connection is not None and (self._connection.closed or self._late):
                    self._drop()

    @contextmanager
    def transaction(self) -> Iterator["Connected"]:
        """All or nothing."""
        with self.connected() as db:
            db.execute("BEGIN")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(psycopg.Error):
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()
        self._watch.end()

    def _usable(self) -> "psycopg.Connection[Any]":
        if self._connection is not None and _has_to_say(self._connection):
            try:  # an idle server has something to say: most often, that it ended
                self._connection.execute("SELECT 1")
            except psycopg.Error:
                self._drop()
        if self._connection is None:
            if time.monotonic() < self._rest_until:
                raise JournalError(self._failure)
            try:
                self._connect()
            except BaseException as error:
                self._drop()
                told = self._translated(error) if isinstance(error, psycopg.Error) else error
                self._failures += 1
                self._rest_until = time.monotonic() + min(LONGEST_REST_S, 0.1 * 2**self._failures)
                self._failure = str(told)
                raise told from None
            self._failures = 0
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        password = {}
        if self._config.password_file is not None:
            password["password"] = read_private(self._config.password_file, "password")
        self._connection = psycopg.connect(**{**self._parameters, **password}, autocommit=True)
        with self._wire_lock:
            self._wire = socket.socket(fileno=os.dup(self._connection.fileno()))
        self._connection.adapters.register_dumper(str, _Dumper)
        self._connection.adapters.register_loader("text", _Loader)
        db = Connected(self._connection)
        if db.execute("SHOW server_encoding").fetchone()[0] != "UTF8":
            raise JournalError(f"journal {self.name}: its encoding is not UTF8: createdb --encoding=UTF8")
        for name, value in _settings(self._config, self._read_only):
            db.execute("SELECT set_config(?, ?, false)", (name, value))
        if self._config.durability == "power_loss" and not self._read_only:
            off = "current_setting('synchronous_commit') = 'off'"
            db.execute(f"SELECT set_config('synchronous_commit', 'on', false) WHERE {off}")
        if self._prepare is not None:
            self._prepare(db)

    def _drop(self) -> None:
        with self._wire_lock:
            if self._wire is not None:
                self._wire.close()
                self._wire = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _watch_deadline(self, ending: threading.Event) -> None:
        while not ending.wait(min(_WATCH_S, self._config.timeout_s / 4)):
            with self._wire_lock:
                due = self._due
                if due is not None and time.monotonic() > due and self._wire is not None:
                    self._late = True
                    with suppress(OSError):
                        self._wire.shutdown(socket.SHUT_RDWR)

    def _translated(self, error: psycopg.Error) -> JournalError:
        if self._late or isinstance(error, psycopg.errors.ConnectionTimeout):
            seconds = f"{self._config.timeout_s:g} s"
            return JournalError(f"journal {self.name}: no answer within {seconds}: see whether the server is busy")
        code = error.sqlstate or _code_of_failed_connection(error)
        if code is None or code.startswith("08"):
            return JournalError(
                f"journal {self.name}: cannot be reached: see that the server runs, and the host and port"
            )
        way_out = next((way for start, way in _WAYS_OUT.items() if code.startswith(start)), f"SQLSTATE {code}")
        return (DamagedError if code.startswith("XX") else JournalError)(f"journal {self.name}: {way_out}")


class Connected:
    """Statements with `?` for a value; values and rows travel as bytes."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[object] = ()) -> Any:
        return self._connection.execute(_in_psycopg(sql), values or None, binary=True)

    def executemany(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        self._connection.cursor().executemany(_in_psycopg(sql), values)

    def copy(self, sql: str, types: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Raises psycopg.errors.UniqueViolation."""
        with self._connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)


def _has_to_say(connection: "psycopg.Connection[Any]") -> bool:
    poll = select.poll()  # a hub has a file number for each subscriber, and `select` counts to 1024
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _in_psycopg(sql: str) -> bytes:
    return sql.replace("?", "%b").encode()


def _parameters(config: JournalConfig) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(config.url or "")
    except psycopg.Error as error:
        reason = str(error).splitlines()[0]
        raise JournalError(f"hub.journal.url: {reason}") from None
    mine = {
        "connect_timeout": max(2, round(config.timeout_s)),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "application_name": f"bcaf-stream {platform.node()} {os.getpid()}",
    }
    return {**mine, **given, "client_encoding": "UTF8"}


def _name(parameters: dict[str, Any], config: JournalConfig) -> str:
    port = f":{parameters['port']}" if "port" in parameters else ""
    where = f"{parameters.get('host', 'localhost')}{port}/{parameters.get('dbname', parameters.get('user', ''))}"
    return f"postgresql://{where} ({config.namespace})"


def _settings(config: JournalConfig, read_only: bool) -> Iterator[tuple[str, str]]:
    yield "search_path", f'"{config.namespace}"'
    yield "lock_timeout", str(max(1, config.busy_ms))
    # Who is stopped in the middle of a transaction holds up the one that takes over.
    yield "idle_in_transaction_session_timeout", str(round(config.timeout_s * 1000))
    for name, seconds in (("idle", "5"), ("interval", "2"), ("count", "3")):  # a machine that is gone is noticed
        yield f"tcp_keepalives_{name}", seconds
    if read_only:
        yield "default_transaction_read_only", "on"


def _code_of_failed_connection(error: psycopg.Error) -> str | None:
    """libpq gives no SQLSTATE of a connection that was refused, only the server's words, in its language."""
    said = str(error)
    for words, code in (
        ("no password supplied", "28P01"),
        ("password authentication", "28P01"),
        ("pg_hba", "28000"),
    ):
        if words in said:
            return code
    for words, code in (("does not exist", "3D000"), ("too many clients", "53300"), ("starting up", "57P03")):
        if words in said:
            return code
    return None
