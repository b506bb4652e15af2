import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.config import load_config
from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import decode, from_json
from bcaf_stream.events.event import Event
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import PAGE, Journal
from bcaf_stream.events.journal.repair import repair
from tests.unit.events.test_codec import EVENTS


def event(n: int, call: str = "a") -> Event:
    return Event(
        type="alert", id=f"{call}-{n}", call=call, channel="left", seq=n, emitted_at=n + 1, text=f"words {n}"
    )


@pytest.fixture
def file_config(tmp_path: Path) -> JournalConfig:
    return JournalConfig(path=tmp_path / "events.sqlite3", durability="crash", busy_ms=50)


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest) -> JournalConfig:
    """Of an empty journal, on each of the two databases."""
    if request.param == "sqlite":
        return request.getfixturevalue("file_config")
    return request.getfixturevalue("postgres").config(busy_ms=50)


@pytest.fixture
def file_journal(file_config: JournalConfig) -> Iterator[Journal]:
    with Journal(file_config) as opened:
        yield opened


@pytest.fixture
def journal(config: JournalConfig) -> Iterator[Journal]:
    with Journal(config) as opened:
        yield opened


def test_append_gives_offsets_and_read_gives_the_same_events(journal: Journal):
    stored = journal.append([event(0), event(1)]) + journal.append([event(2)])
    assert [e.offset for e in stored] == [1, 2, 3]
    assert [replace(e, offset=None) for e in stored] == [event(0), event(1), event(2)]
    assert list(journal.read()) == stored
    assert journal.last_offset == 3


def test_an_empty_journal_and_an_empty_append(journal: Journal):
    assert journal.append([]) == []
    assert list(journal.read()) == []
    assert journal.last_offset == 0


def test_a_known_id_is_stored_once_and_comes_back_as_it_was_stored_first(journal: Journal):
    (first,) = journal.append([event(0)])
    again = journal.append([replace(event(0), text="other", emitted_at=99, offset=7), event(1), event(1)])
    assert again[0] == first
    assert [e.offset for e in again] == [1, 2, 2]
    assert list(journal.read()) == again[:2]


def test_offsets_go_on_after_a_restart_and_after_the_last_rows_were_deleted(config: JournalConfig):
    with Journal(config) as journal:
        journal.append([event(0), event(1)])
    with Journal(config, maintenance=True) as journal, journal.transaction() as db:
        db.execute("DELETE FROM events")
    with Journal(config) as journal:
        assert journal.last_offset == 2
        assert [e.offset for e in journal.append([event(1), event(2)])] == [3, 4]


def test_read_by_offset_call_and_limit(journal: Journal):
    journal.append([event(n, call) for n in range(4) for call in "ab"])
    assert [e.offset for e in journal.read(from_offset=6)] == [6, 7, 8]
    assert [e.offset for e in journal.read(call="b")] == [2, 4, 6, 8]
    assert [e.offset for e in journal.read(from_offset=3, call="b", limit=2)] == [4, 6]
    assert list(journal.read(limit=0)) == list(journal.read(call="c")) == list(journal.read(from_offset=9)) == []


def test_read_goes_over_its_pages(journal: Journal):
    journal.append([event(n) for n in range(2 * PAGE + 3)])
    assert [e.seq for e in journal.read()] == list(range(2 * PAGE + 3))
    assert [e.seq for e in journal.read(limit=PAGE + 1)] == list(range(PAGE + 1))
    assert [e.seq for e in journal.read(limit=PAGE)] == list(range(PAGE))


def test_a_reader_sees_what_is_appended_while_it_reads_and_blocks_nobody(journal: Journal):
    journal.append([event(n) for n in range(PAGE)])
    reader = journal.read()
    next(reader)
    journal.append([event(PAGE)])
    assert [e.seq for e in reader] == list(range(1, PAGE + 1))


def test_another_reader_follows_the_writer(config: JournalConfig, journal: Journal):
    with Journal(config, read_only=True) as reader:
        journal.append([event(0)])
        assert [e.seq for e in reader.read()] == [0]
        with pytest.raises(EventError, match="read-only"):
            reader.append([event(1)])


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest) -> Callable[[], JournalConfig]:
    """Makes the configuration of an empty journal, for as many as a test needs."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").config
    folders = request.getfixturevalue("tmp_path_factory")
    return lambda: JournalConfig(path=folders.mktemp("journal") / "j", durability="crash")


@settings(max_examples=20, deadline=None)
@given(batches=st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6), reopen=st.booleans())
def test_any_batches_are_stored_once_each_in_order(
    batches: list[list[int]], reopen: bool, fresh: Callable[[], JournalConfig]
):
    config = fresh()
    journal, known = Journal(config), {}
    for batch in batches:
        for n, stored in zip(batch, journal.append([event(n) for n in batch]), strict=True):
            known.setdefault(n, stored)
            assert stored == known[n]
        if reopen:
            journal.close()
            journal = Journal(config)
    assert list(journal.read()) == list(known.values())
    assert [e.offset for e in known.values()] == list(range(1, len(known) + 1))
    journal.close()


def test_threads_may_share_it(journal: Journal):
    threads = [
        threading.Thread(target=lambda c=call: [journal.append([event(n, c)]) for n in range(20)])
        for call in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e.offset for e in journal.read()] == list(range(1, 81))
    for call in "abcd":
        assert [e.seq for e in journal.read(call=call)] == list(range(20))


def test_what_was_appended_survives_the_death_of_the_process(config: JournalConfig):
    script = (
        "import os, sys\n"
        "from bcaf_stream.events.journal.journal import *\n"
        "j = Journal(JournalConfig.model_validate_json(sys.argv[1]))\n"
        "j.append([Event(type='alert', id=str(n), call='a', seq=n, emitted_at=1) for n in range(3)])\n"
        "os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", script, config.model_dump_json(exclude_unset=True)], check=False)
    assert died.returncode == -9
    with Journal(config) as journal:
        assert [e.seq for e in journal.read()] == [0, 1, 2]


def test_nothing_of_a_batch_is_stored_when_one_event_is_wrong(journal: Journal):
    with pytest.raises(EventError, match="seq"):
        journal.append([event(0), replace(event(1), seq=-1)])
    assert list(journal.read()) == []


def test_a_full_disk_is_named_and_leaves_the_journal_whole(file_config: JournalConfig, file_journal: Journal):
    file_journal.append([event(0)])
    pages = file_journal.query("PRAGMA page_count")[0][0]
    file_journal.query(f"PRAGMA max_page_count = {pages}")  # SQLite's own limit fails exactly as a full disk does
    with pytest.raises(EventError, match=f"{file_config.path}: the disk is full"):
        file_journal.append([event(n) for n in range(1, 1000)])
    assert [e.seq for e in file_journal.read()] == [0]
    file_journal.query("PRAGMA max_page_count = 100000")
    assert [e.offset for e in file_journal.append([event(1)])] == [2]


def test_a_busy_journal_is_named(file_config: JournalConfig, file_journal: Journal):
    other = sqlite3.connect(file_config.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(EventError, match="another process is writing"):
        file_journal.append([event(0)])
    other.execute("ROLLBACK")
    other.close()
    assert [e.offset for e in file_journal.append([event(0)])] == [1]


def test_files_that_are_no_journal_are_left_alone(tmp_path: Path):
    text, database = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("not a database " * 100)
    with sqlite3.connect(database) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    for path in (text, database):
        before = path.read_bytes()
        with pytest.raises(EventError, match="not a journal"):
            Journal(JournalConfig(path=path))
        assert path.read_bytes() == before


def test_a_journal_of_a_later_version_is_refused(file_config: JournalConfig):
    Journal(file_config).close()
    with sqlite3.connect(file_config.path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(EventError, match="knows schema 2 and 3 and not 9"):
        Journal(file_config)


def test_a_damaged_file_is_named(file_config: JournalConfig):
    with Journal(file_config) as journal:
        journal.append([event(n) for n in range(200)])
    with file_config.path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(file_config.path.stat().st_size - 4096))
    with pytest.raises(EventError, match="damaged"), Journal(file_config) as journal:
        list(journal.read())


def test_paths_that_cannot_be_opened(tmp_path: Path):
    with pytest.raises(EventError, match="cannot be written"):
        Journal(JournalConfig(path=Path("/proc/nowhere/events.sqlite3")))
    with pytest.raises(EventError, match="cannot be opened"):
        Journal(JournalConfig(path=tmp_path / "absent"), read_only=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EventError, match=str(tmp_path)):
        Journal(JournalConfig(path=tmp_path))


def test_folders_are_made_and_only_the_owner_may_read(tmp_path: Path):
    config = JournalConfig(path=tmp_path / "new" / "deep" / "events.sqlite3")
    with Journal(config) as journal:
        journal.append([event(0)])
        assert {p.stat().st_mode & 0o777 for p in config.path.parent.iterdir()} == {0o600}


def test_a_closed_journal_says_so(config: JournalConfig):
    journal = Journal(config)
    journal.close()
    journal.close()
    with pytest.raises(EventError, match="closed"):
        journal.append([event(0)])


def test_the_configuration_loads_from_text():
    config = load_config(JournalConfig, overrides=["path=/x/y.sqlite3", "durability=crash"])
    assert config.path == Path("/x/y.sqlite3")


@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENTS, min_size=1, max_size=5, unique_by=lambda e: e.id))
def test_any_event_comes_back_as_it_was_stored(events: list[Event], fresh: Callable[[], JournalConfig]):
    """The row is compact, and loses nothing: what is replayed are the very bytes that were published."""
    with Journal(fresh()) as journal:
        entries = journal.store(events)
        assert [
            replace(decode(entry.data), offset=e.offset) for entry, e in zip(entries, events, strict=True)
        ] == events
        assert journal.page(0) == entries


GOLDEN = Path(__file__).with_name("golden")


def test_a_journal_of_schema_2_is_read_and_gone_on_with(file_config: JournalConfig):
    with sqlite3.connect(file_config.path) as db:
        db.executescript((GOLDEN / "journal_schema_2.sql").read_text(encoding="utf-8"))
    db.close()
    old = [from_json(line) for line in (GOLDEN / "journal_schema_2.jsonl").read_text("utf-8").splitlines()]
    with Journal(file_config, read_only=True) as journal:
        assert list(journal.read()) == old
    with Journal(file_config) as journal:
        again = journal.append([replace(old[1], text="other"), event(0)])
        assert again == [old[1], replace(event(0), offset=len(old) + 1)]
    with Journal(file_config, read_only=True) as journal:
        assert list(journal.read()) == [*old, again[1]]
    assert repair(file_config.path, 0.0).broken is None


def test_a_row_whose_columns_are_not_its_events_is_damaged(file_journal: Journal):
    file_journal.append([event(0), event(1)])
    with sqlite3.connect(file_journal.name) as db:
        db.execute("UPDATE events SET emotion = 'joy' WHERE offset = 1")
    db.close()
    assert [read.degraded for read in file_journal.read()] == [("journal",), None]
