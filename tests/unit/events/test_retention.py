import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from bcaf_stream.errors import JournalError
from bcaf_stream.events.event import Event
from bcaf_stream.events.journal.config import JournalConfig, sound_of
from bcaf_stream.events.journal.journal import NOT_STORED, Journal
from bcaf_stream.events.journal.retention import DAY_NS, erase, expire

LEAF = 0x0D  # first byte of a page of rows: https://www.sqlite.org/fileformat2.html


def event(n: int, call: str = "a", text: str = "hello") -> Event:
    return Event(type="alert", id=f"{call}-{n}", call=call, seq=n, emitted_at=n + 1, text=text)


class Clock:
    now = 10 * DAY_NS

    def __call__(self) -> int:
        return self.now


def config(folder: Path, **fields: object) -> JournalConfig:
    return JournalConfig(path=folder / "j.sqlite", durability="crash", **fields)


@pytest.fixture(params=["sqlite", "postgresql"])
def kept(request: pytest.FixtureRequest) -> Callable[..., JournalConfig]:
    """Makes the configuration of an empty journal, with these fields."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").config
    return partial(config, request.getfixturevalue("tmp_path"))


def test_what_is_too_old_goes_and_offsets_go_on(kept: Callable[..., JournalConfig]):
    clock = Clock()
    here = kept(keep_days=2)
    with Journal(here, clock=clock) as journal:
        journal.append([event(0), event(1)])
        clock.now += DAY_NS
        journal.append([event(2)])
        assert expire(journal, clock.now) == 0
        clock.now += DAY_NS + 1
        assert expire(journal, clock.now) == 2
        assert [e.seq for e in journal.read()] == [2]
        assert journal.append([event(3)])[0].offset == 4


def test_what_is_too_much_goes_oldest_first_until_it_fits(kept: Callable[..., JournalConfig]):
    here = kept(keep_mb=1)
    with Journal(here) as journal:
        for at in range(0, 20_000, 500):
            journal.append([event(n, text="word " * 20) for n in range(at, at + 500)])
        while expire(journal, 0):
            pass
        left = [e.seq for e in journal.read()]
    assert left[-1] == 19_999
    assert left == list(range(left[0], 20_000))
    assert 1000 <= len(left) < 8000
    if here.file is not None:
        assert here.file.stat().st_size < 2e6


def test_nothing_goes_where_everything_is_kept(kept: Callable[..., JournalConfig]):
    here = kept()
    with Journal(here) as journal:
        journal.append([event(0)])
        assert expire(journal, 10**20) == 0


def test_an_erased_call_leaves_no_byte_beside_its_audit_line(tmp_path: Path):
    with Journal(config(tmp_path)) as journal:
        for n in range(300):
            journal.append([event(n, "secret-call", "the forbidden words"), event(n, "other")])
        with Journal(config(tmp_path), maintenance=True) as beside:
            assert erase(beside, "secret-call", now=7) == (300, False, [])
        assert [e.call for e in journal.read()] == ["other"] * 300
        assert journal.query("SELECT * FROM audit") == [(7, "erase", "secret-call", 300)]
        assert journal.query("SELECT call FROM latest") == [("other",)]
        assert journal.epoch == 1
    for path in tmp_path.iterdir():
        assert b"forbidden words" not in path.read_bytes()


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_the_sound_of_a_call_goes_with_it_and_that_of_others_stays(tmp_path: Path):
    with Journal(config(tmp_path)) as journal:
        journal.append([event(1, "mine"), event(1, "yours")])
        folders = [sound_of(journal.config.sound_folder, call) for call in ("mine", "yours")]
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "a.000000000000.ogg").write_bytes(b"said")
        (folders[0].with_name(f"{folders[0].name}.erased")).mkdir()  # of an erasure that was killed
        assert erase(journal, "mine", now=7).events == 1
        assert list(journal.config.sound_folder.iterdir()) == [folders[1]]
        folders[0].mkdir()
        erase(journal, "mine", now=8)  # again: also what came meanwhile
        assert list(journal.config.sound_folder.iterdir()) == [folders[1]]


def test_what_a_reader_holds_back_is_said_and_goes_when_it_is_erased_again(tmp_path: Path):
    with Journal(config(tmp_path)) as journal:
        journal.append([event(n, "secret", "the forbidden words") for n in range(300)])
        journal.append([event(0, "other")])
        with closing(sqlite3.connect(tmp_path / "j.sqlite", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            with Journal(config(tmp_path), maintenance=True) as beside:
                with pytest.raises(JournalError, match="300 events are erased, but their bytes stay"):
                    erase(beside, "secret", now=7, wait_s=0.2)
                assert b"forbidden words" in bytes_of(tmp_path)
                assert journal.append([event(1, "other")]), "whoever writes goes on meanwhile"
                reader.execute("COMMIT")
                assert erase(beside, "secret", now=8) == (0, True, [])
        assert b"forbidden words" not in bytes_of(tmp_path)


def test_of_a_call_that_is_erased_while_it_runs_nothing_more_is_stored(kept: Callable[..., JournalConfig]):
    here = kept()
    with Journal(here) as journal, Journal(here, maintenance=True) as beside:
        journal.append([event(0, "secret", "the forbidden words"), event(0, "other")])
        erase(beside, "secret", now=7)
        both = [event(1, "other"), event(1, "secret", "the forbidden words"), event(2, "other")]
        assert [entry.offset for entry in journal.store(both)] == [3, 0, 4]
        assert journal.store([event(2, "secret", "the forbidden words")]) == [NOT_STORED]
        assert journal.is_erased("secret")
        assert journal.unfinished() == ["other"]
        assert erase(beside, "nobody", now=8) == (0, False, [])
        assert not journal.is_erased("nobody"), "a wrong name closes nothing"
        assert not any(entry.data.count(b"forbidden words") for entry in journal.page(0))
        if here.file is not None:
            assert b"forbidden words" not in bytes_of(here.file.parent)
    with Journal(here) as journal:
        assert journal.append([event(3, "secret")]) == []


def test_what_a_repair_has_left_beside_the_journal_is_erased_as_well(tmp_path: Path):
    left = [tmp_path / name for name in ("j.sqlite.broken-1", "j.sqlite.broken-1-wal", ".j.sqlite.repaired-wal")]
    with Journal(config(tmp_path)) as journal:
        journal.append([event(0, "secret")])
    for path in left:
        path.write_text("the forbidden words")
    (tmp_path / "other.sqlite.broken-1").write_text("of somebody else")
    with Journal(config(tmp_path), maintenance=True) as beside:
        assert erase(beside, "nobody", now=7).copies == []
        assert sorted(erase(beside, "secret", now=7).copies) == sorted(left)
    assert b"forbidden words" not in bytes_of(tmp_path)
    assert (tmp_path / "other.sqlite.broken-1").exists()


def test_a_half_written_repair_is_gone_when_a_writer_opens_the_journal(tmp_path: Path):
    (tmp_path / ".j.sqlite.repaired").write_text("the forbidden words")
    with Journal(config(tmp_path)):
        assert not (tmp_path / ".j.sqlite.repaired").exists()


def test_a_clock_that_is_set_back_moves_nothing_back(kept: Callable[..., JournalConfig]):
    clock = Clock()
    here = kept()
    with Journal(here, clock=clock) as journal:
        journal.append([event(0)])
        clock.now -= DAY_NS
        journal.append([event(1)])
        stored = [entry.stored_at for entry in journal.page(0)]
        assert stored == [10 * DAY_NS] * 2
        assert journal.first_since(10 * DAY_NS) == 1
        assert journal.first_since(10 * DAY_NS + 1) == 3


def test_epochs_count_the_starts_and_the_identity_stays(kept: Callable[..., JournalConfig]):
    here = kept()
    found = []
    for _ in range(3):
        with Journal(here) as journal:
            found.append((journal.epoch, journal.identity))
    assert [epoch for epoch, _ in found] == [1, 2, 3]
    assert len({identity for _, identity in found}) == 1


def test_a_journal_left_open_is_checked_and_damage_is_not_built_upon(tmp_path: Path):
    with Journal(config(tmp_path)) as journal:
        journal.append([event(n) for n in range(2000)])
        journal.query("PRAGMA wal_checkpoint(TRUNCATE)")
    path = tmp_path / "j.sqlite"
    with Journal(config(tmp_path)) as journal:
        journal.query("UPDATE epochs SET ended_at = NULL")  # as a crash leaves it
        journal.database._is_writer = False
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    leaves = [at for at in range(page, len(data), page) if data[at] == LEAF]  # nearly all of them hold events
    at = leaves[len(leaves) // 2]
    data[at : at + page] = bytes(page)
    path.write_bytes(data)
    with pytest.raises(JournalError, match="damaged"):
        Journal(config(tmp_path))
    with Journal(config(tmp_path, check_mb=0)) as journal:
        read = list(journal.read())
        assert journal.damaged == sum(e.reason is not None for e in read) > 0
        assert [e.offset for e in read] == list(range(1, 2001))


def test_a_torn_log_costs_only_its_torn_end(tmp_path: Path):
    with Journal(config(tmp_path)) as journal:
        for n in range(5):
            journal.append([event(n)])
        files = {p.name: p.read_bytes() for p in tmp_path.iterdir() if not p.name.endswith("-shm")}
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, data in files.items():  # the last transaction was being written when the machine died
        (copy / name).write_bytes(data[:-100] if name.endswith("-wal") else data)
    with Journal(config(copy)) as journal:
        assert [e.seq for e in journal.read()] == [0, 1, 2, 3]
        assert journal.append([event(4)])[0].offset == 5
