"""Damaged journals: real bytes of real files are overwritten, and what is left is counted."""

import random
import sqlite3
from pathlib import Path

import pytest

from bcaf_stream.errors import JournalError
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.journal.repair import LEAP, repair
from bcaf_stream.events.journal.retention import erase
from tests.deployed import free_address
from tests.hub_process import HubProcess

COUNT = 2000
PAGE_BYTES = 4096


def event(n: int) -> Event:
    return Event(type="alert", id=f"id-{n:05}", call=f"call-{n % 7}", seq=n, emitted_at=n + 1, text="word " * 30)


def config(path: Path, **fields: object) -> JournalConfig:
    return JournalConfig(path=path, durability="crash", **fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of several hundred pages, closed in order."""
    with Journal(config(tmp_path / "j.sqlite")) as journal:
        for at in range(0, COUNT, 100):
            journal.append([event(n) for n in range(at, at + 100)])
        erase(journal, "call-6", now=5)
    return tmp_path / "j.sqlite"


def read(path: Path) -> list[Event]:
    with Journal(config(path), read_only=True) as journal:
        return list(journal.read())


def damage(path: Path, pages: list[int], what: bytes) -> bytes:
    data = bytearray(path.read_bytes())
    for page in pages:
        data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = (what * PAGE_BYTES)[:PAGE_BYTES]
    path.write_bytes(data)
    return bytes(data)


def pages_of(path: Path, table: str) -> list[int]:
    """The leaf pages of a table or index, by number from 0, as the file itself says."""
    with sqlite3.connect(path) as db:
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    db.close()
    data, found, inner = path.read_bytes(), [], [root]
    while inner:
        at = (inner.pop() - 1) * PAGE_BYTES
        if data[at] in (10, 13):
            found.append(at // PAGE_BYTES)
            continue
        cells = int.from_bytes(data[at + 3 : at + 5], "big")
        places = [int.from_bytes(data[at + 12 + 2 * n : at + 14 + 2 * n], "big") for n in range(cells)]
        inner += [int.from_bytes(data[at + p : at + p + 4], "big") for p in places]
        inner.append(int.from_bytes(data[at + 8 : at + 12], "big"))
    return sorted(found)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_pages_of_events_cost_only_the_events_in_them(path: Path, seed: int):
    before, rng = read(path), random.Random(seed)
    bad = rng.sample(pages_of(path, "events"), 3)
    broken_bytes = damage(path, bad, rng.randbytes(64) if seed % 2 else b"\0")
    result = repair(path, now=0)
    after = read(path)
    assert result.kept == len(after)
    assert result.kept + result.lost == len(before)
    assert 3 <= result.lost <= 3 * 20
    assert [e for e in before if e in after] == after
    assert result.broken == path.with_name("j.sqlite.broken-19700101T000000Z")
    assert result.broken.read_bytes() == broken_bytes
    with Journal(config(path)) as journal:
        assert journal.append([event(COUNT)])[0].offset == COUNT + 1
        assert journal.epoch == 2
        assert journal.query("SELECT action, call FROM audit") == [("erase", "call-6"), ("repair", None)]
        assert journal.query("PRAGMA integrity_check") == [("ok",)]


def test_damaged_indexes_cost_no_event(path: Path):
    before = read(path)
    damage(path, [*pages_of(path, "events_by_call"), *pages_of(path, "sqlite_autoindex_events_1")], b"\xff")
    result = repair(path, now=0)
    assert (result.kept, result.lost) == (len(before), None)
    assert read(path) == before


def test_no_offset_is_given_twice_where_nobody_knows_the_last_one(path: Path):
    damage(path, [pages_of(path, "sqlite_sequence")[0], pages_of(path, "events")[-1]], b"\xff")
    result = repair(path, now=0)
    assert result.lost
    with Journal(config(path)) as journal:
        assert journal.append([event(COUNT)])[0].offset == COUNT + LEAP + 1


def test_the_identity_stays_and_a_second_repair_finds_nothing_to_do(path: Path):
    with Journal(config(path), read_only=True) as journal:
        identity = journal.identity
    damage(path, pages_of(path, "events")[5:6], b"\0")
    kept = repair(path, now=0).kept
    with Journal(config(path), read_only=True) as journal:
        assert journal.identity == identity
    assert repair(path, now=0) == (kept, 0, None)


def test_what_cannot_be_read_at_all_is_left_as_it_is(path: Path, tmp_path: Path):
    data = damage(path, list(range(1, len(path.read_bytes()) // PAGE_BYTES)), b"\0")
    with pytest.raises(JournalError, match=r"no event in it can be read; .*sqlite3 .* \.recover"):
        repair(path, now=0)
    assert path.read_bytes() == data
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"x" * 10_000)
    with pytest.raises(JournalError, match="no event in it can be read"):
        repair(garbage, now=0)
    assert garbage.read_bytes() == b"x" * 10_000
    with pytest.raises(JournalError, match="there is none"):
        repair(tmp_path / "absent", now=0)


def test_nothing_is_overwritten(path: Path):
    damage(path, pages_of(path, "events")[5:6], b"\0")
    path.with_name("j.sqlite.broken-19700101T000000Z").write_text("of an earlier day")
    with pytest.raises(JournalError, match="exists already"):
        repair(path, now=0)
    assert path.with_name("j.sqlite.broken-19700101T000000Z").read_text() == "of an earlier day"


def test_a_journal_that_a_hub_writes_to_is_not_touched(tmp_path: Path):
    hub = {"bus": {"bind": free_address()}, "replay": {"bind": free_address()}}
    process = HubProcess(EventHubConfig(journal=config(tmp_path / "j.sqlite"), **hub))
    assert process.wait_ready()
    with pytest.raises(JournalError, match="another process is writing"):
        repair(tmp_path / "j.sqlite", now=0)
    with pytest.raises(JournalError, match="another process is writing"):
        Journal(config(tmp_path / "j.sqlite"))
    process.kill()
    process.end()
    assert repair(tmp_path / "j.sqlite", now=0) == (0, 0, None)


@pytest.mark.parametrize("seed", range(6))
def test_a_log_torn_or_garbled_behind_what_was_acknowledged_costs_nothing(tmp_path: Path, seed: int):
    rng, log = random.Random(seed), "j.sqlite-wal"
    with Journal(config(tmp_path / "j.sqlite")) as journal:
        for n in range(20):
            journal.append([event(n)])  # acknowledged
        acknowledged = (tmp_path / log).stat().st_size
        journal.append([event(n) for n in range(20, 40)])  # was being written when the machine died
        files = {name: (tmp_path / name).read_bytes() for name in ("j.sqlite", log)}
    torn = bytearray(files[log])
    at = rng.randrange(acknowledged, len(torn))
    if seed % 2:
        del torn[at:]
    else:
        torn[at : at + 500] = rng.randbytes(len(torn[at : at + 500]))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "j.sqlite").write_bytes(files["j.sqlite"])
    (tmp_path / "copy" / log).write_bytes(torn)
    with Journal(config(tmp_path / "copy" / "j.sqlite")) as journal:
        assert [e.seq for e in journal.read()] == list(range(20))
        assert journal.append([event(20)])[0].offset == 21
