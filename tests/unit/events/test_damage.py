"""What cannot be read any more: real rows and pages are overwritten, and reading goes on around them."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from bcaf_stream.events.codec import decode
from bcaf_stream.events.event import DAMAGED, Event, event_id
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.progress import progress_of
from tests.unit.events.test_repair import damage, pages_of

COUNT = 400


def event(n: int, call: str = "a", type: str = "emotion.final") -> Event:
    utterance = n if type == "emotion.final" else None
    id = event_id(call, "left", utterance, type, 0)
    return Event(
        type=type,
        id=id,
        call=call,
        channel="left",
        utterance=utterance,
        seq=n,
        emitted_at=n + 1,
        text="word " * 30,
    )


def config(folder: Path) -> JournalConfig:
    return JournalConfig(path=folder / "j.sqlite", durability="crash", check_mb=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(config(tmp_path), clock=iter(range(10**6)).__next__) as journal:
        for n in range(COUNT):
            journal.append([event(n)])
    return tmp_path / "j.sqlite"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize(
    "changed",
    [
        "payload = x'c1'",
        "payload = x''",
        "payload = 'text'",
        "payload = substr(payload, 1, 40)",
        "payload = substr(payload, 3)",
        "type = 'emotion.guess'",
        "type = 7",
        "seq = -1",
        "seq = 'x'",
        "stored_at = 'x'",
        "emotion = x'ff'",
        "channel = cast(x'ff' AS TEXT)",
        "id = cast(x'ff' AS TEXT)",
    ],
)
def test_one_damaged_row_is_said_with_its_offset_and_the_others_are_read(path: Path, changed: str):
    change(path, f"UPDATE events SET {changed} WHERE offset = 3")
    with Journal(config(path.parent), read_only=True) as journal:
        read = list(journal.read())
        assert [e.offset for e in read] == list(range(1, COUNT + 1))
        assert [decode(entry.data) for entry in journal.page(1, limit=COUNT)] == read
        assert [decode(entry.data) for entry in journal.page(1, "a", limit=5)] == read[:5]
        assert journal.first_since(200) == 200
    told = read.pop(2)
    assert (told.type, told.degraded, told.text, told.emotion, dict(told.probs)) == (
        "degraded",
        DAMAGED,
        None,
        None,
        {},
    )
    assert told.reason == "event 3 of the journal is damaged: `bcaf-stream repair` saves the others"
    assert told.call == "a"
    assert [e.seq for e in read] == [0, 1, *range(3, COUNT)]


@pytest.mark.parametrize("what", [b"\0", b"\xff", bytes(range(1, 250))])
def test_a_damaged_page_costs_what_was_in_it_and_no_more(path: Path, what: bytes):
    pages = pages_of(path, "events")
    damage(path, pages[3:5], what)
    with Journal(config(path.parent), read_only=True) as journal:
        read = list(journal.read())
        lost = [e for e in read if e.degraded == DAMAGED]
        assert [e.offset for e in read] == list(range(1, COUNT + 1))
        assert 2 <= len(lost) <= 60
        assert {e.call for e in lost} == {"a"}, "the index knows"
        assert [e.offset for e in lost] == list(range(lost[0].offset, lost[-1].offset + 1))
        for since in (1, lost[0].offset, lost[-1].offset + 1, COUNT, COUNT + 1):
            found = journal.first_since(since)
            assert found == since or lost[0].offset <= since <= lost[-1].offset
        assert [decode(entry.data).offset for entry in journal.page(1, "a", limit=COUNT)] == [
            e.offset for e in read
        ]


@pytest.mark.parametrize("damaged", [[1], [COUNT], [5, 6, 7], list(range(1, COUNT + 1))])
@pytest.mark.parametrize("type", ["emotion.final", "audio.gap", "degraded"])
def test_whoever_goes_on_with_a_damaged_call_gives_no_id_twice(tmp_path: Path, damaged: list[int], type: str):
    with Journal(config(tmp_path)) as journal:
        stored = [event(n) for n in range(COUNT - 1)]
        stored.append(Event(**{**{f: getattr(event(COUNT - 1), f) for f in Event.__slots__}, "type": type}))
        journal.append(stored)
        whole = progress_of(journal.read())
        marks = ",".join(map(str, damaged))
        journal.query(f"UPDATE events SET payload = x'c1', type = 'x' WHERE offset IN ({marks})")
        progress = progress_of(journal.read())
    assert progress.seq == whole.seq == COUNT
    assert not progress.ended
    assert progress.utterances["left"] >= whole.utterances["left"]
    assert all(progress.occurrences[key] >= n for key, n in whole.occurrences.items())
    assert progress.started_at > 0


def test_a_whole_call_leaves_nothing_out():
    assert progress_of([event(0), event(1)]).occurrences == Counter()


def test_an_event_that_is_given_again_takes_the_place_of_its_damaged_one(path: Path):
    change(path, "UPDATE events SET payload = x'c1' WHERE offset = 3")
    with Journal(config(path.parent)) as journal:
        (stored,) = journal.append([event(2)])
        assert (stored.offset, stored.text) == (3, event(2).text)
        assert [e.seq for e in journal.read(limit=5)] == [0, 1, 2, 3, 4]
        assert journal.damaged == 0


def test_a_call_whose_start_or_end_is_damaged_has_begun_and_ended(tmp_path: Path):
    with Journal(config(tmp_path)) as journal:
        journal.append([event(0, type="call.start"), event(1), event(2, type="call.end")])
        journal.append([Event(type="call.start", id="b", call="b", seq=0, emitted_at=1)])
        journal.query("UPDATE events SET payload = x'c1', channel = '' WHERE offset <> 2")
        journal.query("UPDATE latest SET channel = ''")
        assert [e.type for e in journal.read()] == ["call.start", "emotion.final", "call.end", "call.start"]
        assert progress_of(journal.read(call="a")).ended
        assert journal.unfinished() == ["b"]
