"""A PostgreSQL server of the tests' own: Debian's, in a temporary folder, on a free port."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from bcaf_stream.events.journal.config import JournalConfig

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/bin"), key=lambda p: p.parent.name)
USER = "bcaf"
FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=40")


class PostgresServer:
    """Runs as `postgres` where this process is root, whom the server refuses."""

    user = USER

    def __init__(self, folder: Path, settings: Sequence[str] = FAST) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._settings = settings
        self._namespaces = 0
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        self._run("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--no-locale", f"--username={USER}")

    def start(self) -> None:
        settings = [*self._settings, f"port={self.port}", f"unix_socket_directories={self.folder}"]
        options = " ".join(f"-c {setting}" for setting in [*settings, "listen_addresses=127.0.0.1"])
        self._run("pg_ctl", "--wait", f"--log={self.folder}/log", f"--options={options}", "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def config(self, **fields: object) -> JournalConfig:
        """Of an empty journal in a namespace of its own."""
        self._namespaces += 1
        values = {"namespace": f"j{self._namespaces}", "durability": "crash", "busy_ms": 200, **fields}
        return JournalConfig(url=self.url(), **values)

    def query(self, sql: str, namespace: str = "public") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute("SET default_transaction_read_only = off")
            db.execute(f"SET search_path = {namespace}")
            cursor = db.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The sessions of journals answer nothing, as on a machine that hangs."""
        like = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'bcaf-stream%'"
        pids = [int(str(row[0])) for row in self.query(like)]
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def _run(self, program: str, *arguments: str) -> None:
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*user, str(PROGRAMS / program), f"--pgdata={self.folder}/data", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running_server(settings: Sequence[str] = FAST) -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:  # a socket's path is short
        server = PostgresServer(Path(folder), settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
