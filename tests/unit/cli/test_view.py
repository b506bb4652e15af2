"""What a person sees of events: interim results while somebody speaks, revised ones in their place."""

import io
from dataclasses import replace

import pytest

from bcaf_stream.console import EventView, line
from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import settled
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance

CALL = Call("c", (Channel("left", "customer"),))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def events() -> list[Event]:
    writer = EventWriter(CALL, "m")
    said = Utterance("c", "left", "customer", 0, 0, 1000, None, None, "none")
    joy, anger = (EmotionPrediction(("joy", "anger"), p, None, None, ()) for p in ((0.9, 0.1), (0.2, 0.8)))
    return [
        writer.start(),
        writer.interim(replace(said, revision=1), joy),
        writer.final(said, anger),
        writer.final(replace(said, index=1, start_ms=2000, end_ms=2500), joy),
        writer.final(replace(said, text="at last", revision=1), joy),
        writer.end("complete"),
    ]


def test_what_holds_in_the_end(events: list[Event]):
    assert [(e.utterance, e.revision, e.emotion) for e in settled(events)] == [(0, 1, "joy"), (1, 0, "joy")]
    assert settled(events[:2]) == []
    assert settled([events[4], events[2]]) == [events[4]]


def test_a_table_has_one_row_for_each_utterance(events: list[Event]):
    out = Terminal()
    with EventView("table", out) as view:
        for event in events:
            view.add(event)
    shown = out.getvalue()
    assert shown.count("joy") == 2
    assert "anger" not in shown
    assert "at last" in shown


def test_what_is_felt_by_now_stands_in_the_live_table_until_the_final_event(events: list[Event]):
    view = EventView("table", Terminal(), live=True)
    with view:
        view.add(events[1])
        assert view._table().row_count == 1
        assert view._table(whole=True).row_count == 0
        view.add(events[2])
        assert view._table().row_count == view._table(whole=True).row_count == 1


def test_a_pipe_gets_finals_and_revisions(events: list[Event]):
    out = io.StringIO()
    with EventView("table", out) as view:
        for event in events:
            view.add(event)
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[3] == line(events[4])
    assert lines[3].endswith("at last  (revised)")


def test_events_of_several_calls_say_which(events: list[Event]):
    for out in (io.StringIO(), Terminal()):
        with EventView("table", out) as view:
            for event in [*events, replace(events[2], call="another")]:
                view.add(event)
        last = [row for row in out.getvalue().splitlines() if "another" in row]
        assert len(last) == 1
        assert "anger" in last[0]
