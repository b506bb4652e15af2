"""The monitor's own index: what is found, what is kept once, and that nothing of a forgotten call is left."""

import json
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.monitor.store import Query, Store, as_json
from tests.monitor_calls import MadeCall, numbered


@pytest.fixture
def store():
    opened = Store()
    yield opened
    opened.close()


def test_events_come_back_as_they_came_and_once(store: Store):
    events = numbered(MadeCall("a").whole())
    assert store.add(events) == events
    assert store.add(events) == []
    assert [json.loads(data)["id"] for _, data in store.events("a")] == [event.id for event in events]
    assert store.counts["a"] == len(events) == store.count_to(len(events))
    assert store.count_to(3) == 3
    assert store.events("b") == []


def test_what_came_late_is_given_to_those_who_have_the_later_ones(store: Store):
    events = numbered(MadeCall("a").whole())
    store.add(events[:3] + events[5:])
    seen = store.events("a", after=2)
    assert [json.loads(data)["offset"] for _, data in seen] == [3, *range(6, len(events) + 1)]
    store.add(events[3:5])
    assert [json.loads(data)["offset"] for _, data in store.events("a", 2, seen[-1][0])] == [4, 5]


def test_times_of_day_are_strings_and_what_does_not_apply_is_left_out():
    event = numbered([MadeCall("a").say()])[0]
    fields = json.loads(as_json(event))
    assert fields["emitted_at"] == str(event.emitted_at)
    assert fields["speech_ended_at"] == str(event.speech_ended_at)
    assert "degraded" not in fields
    assert fields["start_ms"] == event.start_ms


def test_search_by_words_emotion_role_time_and_call(store: Store):
    made = MadeCall("Alpha", began=10**18)
    first = made.say("left", "Where is my refund?", mood="anger")
    second = made.say("right", "The refunds are Ärger, on their way", mood="joy")
    store.add(numbered([made.start(), first, second]))

    def found(**query: object) -> list[str]:
        return [hit["text"] for hit in store.search(Query(**query))]

    assert len(found()) == 2
    assert found(words="REFUND where") == [first.text]
    assert found(words="argeR") == [second.text]
    assert found(words="refund") == [second.text, first.text]
    assert found(emotions=("joy", "fear")) == [second.text]
    assert found(roles=("customer",)) == [first.text]
    assert found(call="alp", words="way") == [second.text]
    assert found(call="beta") == []
    assert found(until=first.emitted_at) == [first.text]
    assert found(since=first.emitted_at + 1) == [second.text]


@given(st.text())
def test_no_words_are_a_syntax_error(words: str):
    store = Store()
    store.add(numbered([MadeCall("a").say(words="hello")]))
    store.search(Query(words=words, call=words, alert=words))
    store.close()


def test_a_revision_replaces_what_is_found_and_an_older_one_does_not(store: Store):
    made = MadeCall("a")
    final = made.say(words="he said yellow")
    revised = made.revise(final, "he said hello", mood="joy")
    store.add(numbered([final, revised]))
    assert [hit["text"] for hit in store.search(Query(words="said"))] == ["he said hello"]
    assert store.search(Query(words="yellow")) == []
    store.add([replace(final, offset=9, id="late")])
    assert store.search(Query(words="yellow")) == []


def test_nothing_of_a_forgotten_call_is_left_in_any_page(store: Store):
    store.add(numbered([MadeCall("kept").say(words="perfectly ordinary words")]))
    secret = MadeCall("secret-name")
    events = numbered([secret.start(), secret.say(words="xylophone quartz"), secret.end()], 100)
    store.add(events)
    assert b"xylophone" in bytes_of(store)
    store.forget(["secret-name", "never-there"])
    assert store.search(Query(words="xylophone")) == []
    assert store.events("secret-name") == []
    left = bytes_of(store)
    for word in (b"xylophone", b"quartz", b"secret-name"):
        assert word not in left
    assert [hit["call"] for hit in store.search(Query())] == ["kept"]


def test_what_is_older_than_an_offset_goes_and_calls_without_events_with_it(store: Store):
    store.add(numbered([MadeCall("old").say(words="ancient"), MadeCall("new").start()]))
    store.add(numbered([MadeCall("new").say(words="recent")], 3))
    assert store.forget_before(3) == ["old"]
    assert store.counts == {"new": 1}
    assert store.first_offset == 3
    assert [hit["text"] for hit in store.search(Query())] == ["recent"]


def bytes_of(store: Store) -> bytes:
    """Every page of the database; free ones too."""
    with store._lock:
        if not hasattr(store._db, "serialize"):
            pytest.skip("this Python cannot serialize a database")
        try:
            return store._db.serialize()
        except sqlite3.OperationalError:
            pytest.skip("this SQLite cannot serialize a database")
