"""The journal on a real PostgreSQL in trouble: down, silent, read-only, full; two writers; secrets; erasure."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from typer.testing import CliRunner

from bcaf_stream.cli.main import app
from bcaf_stream.config import load_config
from bcaf_stream.errors import BcafError, ConfigError, EventError, FencedError, JournalError
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from tests.components import needs, require
from tests.hub_process import HubProcess
from tests.postgres import PostgresServer, running_server
from tests.waiting import until

pytestmark = needs("postgresql")
WAIT_S = 20.0
T = TypeVar("T")
END_ALL = "pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'bcaf-stream%'"


def event(n: int, call: str = "a", text: str = "the forbidden words") -> Event:
    return Event(type="alert", id=f"{call}-{n}", call=call, seq=n, emitted_at=n + 1, text=text)


def hub_config(journal: JournalConfig) -> EventHubConfig:
    any_port = "tcp://127.0.0.1:*"
    bus, replay = BusConfig(bind=any_port), ReplayConfig(bind=any_port)
    return EventHubConfig(journal=journal, bus=bus, replay=replay, heartbeat_s=0.1)


def opened(open: Callable[[], T]) -> T:
    """What is opened as soon as it can be: another writer may hold the journal until then."""
    made: list[T] = []

    def tried() -> bool:
        with suppress(EventError):
            made.append(open())
        return bool(made)

    until(tried, WAIT_S)
    return made[0]


def wait_until_ready(hub: EventHub) -> None:
    until(lambda: "not_ready" not in hub.stats(), WAIT_S)


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that these tests may ill-treat; each leaves it as it was, but the last one, on passwords."""
    with running_server() as server:
        yield server


def test_a_server_that_dies_stops_the_hub_until_it_is_back_and_nothing_is_lost(own_server: PostgresServer):
    with (
        EventHub(hub_config(own_server.config())) as hub,
        EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as subscriber,
    ):
        assert hub.publish([event(0)]).result(WAIT_S) == [1]
        own_server.stop("immediate")
        with pytest.raises(JournalError, match=r"cannot be reached|shut down"):
            hub.publish([event(1)]).result(WAIT_S)
        assert not hub.stats()["ready"]
        own_server.start()
        wait_until_ready(hub)
        assert hub.publish([event(1), event(0)]).result(WAIT_S) == [2, 1]
        told = [subscriber.receive(WAIT_S) for _ in range(3)]
        assert [(e.type, e.seq) for e in told if e.call] == [("alert", 0), ("alert", 1)]
        assert hub.journal.epoch == 1, "the same writer goes on"


def test_a_server_that_is_silent_holds_nobody_up_for_longer_than_the_deadline(own_server: PostgresServer):
    config = own_server.config(timeout_s=1.0, durability="power_loss")
    with EventHub(hub_config(config)) as hub:
        assert hub.publish([event(0)]).result(WAIT_S) == [1]
        with own_server.stopped():
            begin = time.monotonic()
            with pytest.raises(JournalError, match="no answer within 1 s"):
                hub.publish([event(1)]).result(WAIT_S)
            assert time.monotonic() - begin < 5.0
        wait_until_ready(hub)
        assert hub.publish([event(1)]).result(WAIT_S) == [2]
        assert [e.seq for e in hub.journal.read()] == [0, 1]


def test_a_read_only_server_is_named_and_gone_on_with(own_server: PostgresServer):
    with EventHub(hub_config(own_server.config())) as hub:
        hub.publish([event(0)]).result(WAIT_S)
        own_server.query("ALTER SYSTEM SET default_transaction_read_only = on")
        own_server.query("SELECT pg_reload_conf()")
        own_server.query(f"SELECT {END_ALL}")
        with pytest.raises(JournalError, match="read-only: name the primary"):
            hub.publish([event(1)]).result(WAIT_S)
        own_server.query("ALTER SYSTEM RESET default_transaction_read_only")
        own_server.query("SELECT pg_reload_conf()")
        wait_until_ready(hub)
        assert hub.publish([event(1)]).result(WAIT_S) == [2]


def test_a_full_disk_is_named_and_what_was_refused_is_stored_when_there_is_room(
    own_server: PostgresServer,
):
    disk = Path(own_server.folder) / "small"
    disk.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False).returncode == 0
    if not mounted:
        require("root", "this user may not mount a small disk")
    try:
        subprocess.run(["chown", "postgres", disk], check=True)
        own_server.query(f"CREATE TABLESPACE small LOCATION '{disk}'")
        own_server.query("ALTER DATABASE postgres SET default_tablespace = small")
        stored: list[int] = []
        config = own_server.config()
        with Journal(config) as journal:
            (disk / "filler").write_bytes(bytes(2_000_000))
            batch: list[Event] = []

            def fill() -> None:
                while len(stored) < 20_000:
                    batch[:] = [event(len(stored) + n, text="word " * 100) for n in range(200)]
                    stored.extend(e.seq for e in journal.append(batch))

            with pytest.raises(JournalError, match="the disk is full: free some space"):
                fill()
            assert [e.seq for e in journal.read()] == stored
            (disk / "filler").unlink()
            assert journal.append(batch)[0].offset == len(stored) + 1
    finally:
        own_server.query(f"DROP SCHEMA {config.namespace} CASCADE")
        own_server.query("ALTER DATABASE postgres RESET default_tablespace")
        own_server.query("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", disk], check=True)


def test_the_second_of_two_writers_is_told_who_the_first_is(postgres: PostgresServer):
    config = postgres.config()
    with Journal(config) as first:
        with pytest.raises(JournalError, match=rf"process {os.getpid()} on \S+ writes to it: stop that one"):
            Journal(config)
        assert first.append([event(0)])[0].offset == 1
    with Journal(config) as second:
        assert (second.epoch, second.append([event(1)])[0].offset) == (2, 2)


def test_a_hub_that_is_killed_is_followed_at_once_with_the_same_offsets(postgres: PostgresServer):
    config = hub_config(postgres.config())
    hub = HubProcess(config)
    assert hub.wait_ready()
    assert hub.publish([event(0), event(1)])
    hub.kill()
    hub.end()
    with opened(lambda: EventHub(config)) as other:  # as soon as the server has seen the end of the connection
        assert other.publish([event(2), event(1)]).result(WAIT_S) == [3, 2]
        with EventSubscriber(other.bus.endpoint, other.replay.endpoint, start="start") as subscriber:
            assert [subscriber.receive(WAIT_S).offset for _ in range(3)] == [1, 2, 3]


def test_a_writer_that_was_thought_dead_writes_nothing_more(postgres: PostgresServer):
    """A hub is stopped for longer than its lease, another takes over, the first one wakes with events in hand."""
    config = hub_config(postgres.config(lease_s=5.0))
    hub = HubProcess(config)
    assert hub.wait_ready()
    assert hub.publish([event(0)])
    os.kill(hub.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(JournalError, match=f"process {hub.process.pid} on .* writes to it"):
            Journal(config.journal)
        with opened(lambda: Journal(config.journal)) as other:
            assert other.append([event(1)])[0].offset == 2
            os.kill(hub.process.pid, signal.SIGCONT)
            assert not hub.publish([event(2)]), "it is no writer any more"
            assert [e.seq for e in other.read()] == [0, 1]
            assert other.append([event(3)])[0].offset == 3
    finally:
        hub.kill()
        hub.end()


def test_a_writer_whose_connection_breaks_goes_on_unless_another_took_over(postgres: PostgresServer):
    config = postgres.config(lease_s=5.0)
    with Journal(config) as journal:
        for n in range(3):
            journal.append([event(n)])
            postgres.query(f"SELECT {END_ALL}")
        assert [e.seq for e in journal.read()] == [0, 1, 2]
        postgres.query("UPDATE journal SET epoch = epoch + 1, holder = 'somebody'", config.namespace)
        with pytest.raises(FencedError, match="somebody has taken it over: this one writes nothing more"):
            journal.append([event(3)])
        assert postgres.query("SELECT count(*) FROM events", config.namespace) == [(3,)]


def test_a_journal_that_was_made_anew_takes_nothing_of_the_writer_of_the_old_one(postgres: PostgresServer):
    config = postgres.config()
    with Journal(config) as old:
        old.append([event(0)])
        postgres.query(f"DROP SCHEMA {config.namespace} CASCADE")
        with pytest.raises(JournalError, match="there is no journal in it"):
            old.append([event(1)])
        with Journal(config) as new:
            assert new.epoch == old.epoch
            with pytest.raises(FencedError, match="another journal is in its place"):
                old.append([event(1)])
            assert new.append([event(2)])[0].offset == 1
            assert [e.seq for e in new.read()] == [2]


def test_a_fenced_hub_says_nothing_more(postgres: PostgresServer):
    """Neither an event nor that it is degraded: what comes of a call is another hub's to say."""
    config = hub_config(postgres.config())
    with EventHub(config) as hub, EventSubscriber(hub.bus.endpoint, None) as plain:
        assert hub.bus.wait_for_subscriber(WAIT_S)
        assert hub.publish([event(0)]).result(WAIT_S) == [1]
        postgres.query("UPDATE journal SET epoch = epoch + 1, holder = 'somebody'", config.journal.namespace)
        with pytest.raises(BcafError, match=r"somebody has taken it over|event hub has stopped"):
            hub.publish([event(1)]).result(WAIT_S)
        assert [e.seq for e in plain.receive_many(100, 0.5) if e.type != "heartbeat"] == [0]


def test_events_sent_again_cost_no_journey_each(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch):
    """Of a group whose answer was lost some are stored: however far the server is, it must fit in the deadline."""
    with Journal(postgres.config()) as journal:
        journal.append([event(n) for n in range(0, 2000, 2)])
        asked: list[bytes] = []
        execute = psycopg.Connection.execute

        def counted(self, query, *values, **options):
            asked.append(query)
            return execute(self, query, *values, **options)

        monkeypatch.setattr(psycopg.Connection, "execute", counted)
        again = journal.append([event(n) for n in (*range(2000), 5)])
        assert len(asked) < 20
        assert [e.offset for e in again[:4]] == [1, 1001, 2, 1002]
        assert again[5] == again[-1]
        assert journal.last_offset == 2000


def test_connections_that_are_ended_while_events_come_lose_and_double_nothing(postgres: PostgresServer):
    """As an administrator, a failover or a proxy ends them: at any moment, that of a commit among them."""
    with (
        EventHub(hub_config(postgres.config())) as hub,
        EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as subscriber,
        ThreadPoolExecutor(1) as administrator,
    ):
        refused = 0

        def taken(n: int) -> bool:
            nonlocal refused
            try:
                return bool(hub.publish([event(n)]).result(WAIT_S))
            except JournalError:  # as who owns a call does: once more
                refused += 1
                return False

        for n in range(200):
            if n % 20 == 0:
                ended = administrator.submit(postgres.query, f"SELECT {END_ALL}")
            until(lambda n=n: taken(n), WAIT_S)
        ended.result()
        told: list[Event] = []
        until(
            lambda: told.extend(e for e in subscriber.receive_many(200, 0.1) if e.call) or len(told) >= 200, WAIT_S
        )
        stored = list(hub.journal.read())
        assert [(e.offset, e.seq) for e in stored] == [(n + 1, n) for n in range(200)]
        assert told == stored
        assert refused, "some of them broke something"
        assert hub.journal.epoch == 1


def test_a_hub_with_a_thousand_open_files_makes_its_connection_again(postgres: PostgresServer):
    with Journal(postgres.config()) as journal, contextlib.ExitStack() as files:
        for _ in range(1100):
            files.enter_context(open(os.devnull))
        for n in range(3):
            assert journal.append([event(n)])[0].offset == n + 1
            postgres.query(f"SELECT {END_ALL}")


@pytest.mark.parametrize(
    "secret",
    [
        "postgresql://me:hunter2@h/db",
        "postgresql://me@h/db?password=hunter2",
        "postgresql://me@h/db?sslmode=require&sslpassword=hunter2",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(secret: str):
    with pytest.raises(ConfigError, match=r"a password here would be seen.*password_file, PGPASSFILE") as refused:
        load_config(JournalConfig, None, [f"url={secret}"])
    assert "hunter2" not in str(refused.value)
    result = CliRunner().invoke(app, ["calls", "--journal", secret])
    assert result.exit_code != 0
    assert "hunter2" not in result.output + str(result.exception)


def test_the_password_comes_from_a_file_and_a_wrong_one_is_one_line(own_server: PostgresServer, tmp_path: Path):
    own_server.query(f"ALTER USER {own_server.user} PASSWORD 'hunter2'")
    (own_server.folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    own_server.stop("fast")
    own_server.start()
    file = tmp_path / "password"
    file.write_text("hunter3\n")
    file.chmod(0o600)
    for config in (own_server.config(password_file=file), own_server.config()):
        with pytest.raises(JournalError, match="the server refuses this user or password") as refused:
            Journal(config)
        assert "hunter" not in str(refused.value)
        assert "\n" not in str(refused.value)
    file.write_text("hunter2\n")
    with Journal(own_server.config(password_file=file)) as journal:
        assert journal.append([event(0)])[0].offset == 1
    file.chmod(0o644)
    with pytest.raises(EventError, match="others may read this password"):
        Journal(own_server.config(password_file=file))


def test_what_is_not_there_is_named(postgres: PostgresServer):
    absent = postgres.config()
    with pytest.raises(JournalError, match="there is no journal in it: see namespace"):
        Journal(absent, read_only=True)
    with pytest.raises(JournalError, match="there is no such database: createdb"):
        Journal(JournalConfig(url=postgres.url("nowhere")))
    with pytest.raises(JournalError, match="cannot be reached: see that the server runs"):
        Journal(JournalConfig(url="postgresql://bcaf@127.0.0.1:1/postgres"))
    with Journal(JournalConfig(url=postgres.url(), namespace="user", durability="crash")) as reserved:
        assert reserved.append([event(0)])[0].offset == 1, "a word of SQL is a name like others"
    postgres.query("CREATE SCHEMA other; CREATE TABLE other.journal (x int)")
    with pytest.raises(JournalError, match="its tables are no journal's: choose another namespace"):
        Journal(JournalConfig(url=postgres.url(), namespace="other"))
    older = postgres.config()
    Journal(older).close()
    postgres.query("UPDATE journal SET schema = 0", older.namespace)
    for read_only in (False, True):
        with pytest.raises(JournalError, match="this version knows schema 1 and not 0: choose another namespace"):
            Journal(older, read_only=read_only)
    with pytest.raises(ConfigError, match="give path or url, not both"):
        load_config(JournalConfig, None, ["path=x", "url=sqlite:///y"])
    assert load_config(JournalConfig, None, ["url=sqlite:////x/y"]).file == Path("/x/y")


def test_the_commands_read_and_erase_it(postgres: PostgresServer):
    config = postgres.config()
    with Journal(config) as journal:
        journal.append([event(0), event(0, "b\0\\0", "others")])
        place = f"{config.url}?namespace={config.namespace}"
        run = CliRunner().invoke
        assert run(app, ["export", "--journal", place]).output.count("\n") == 2
        erased = run(app, ["erase", "a", "--yes", "--journal", place])
        assert erased.exit_code == 0, erased.output
        assert "1 events erased" in erased.output
        assert "write-ahead log and backups" in erased.output
        assert [e.call for e in journal.read()] == ["b\0\\0"]
        assert journal.append([event(1)]) == [], "nothing more of it is stored"
        assert "repairs its own tables" in str(run(app, ["repair", "--journal", place]).exception)
