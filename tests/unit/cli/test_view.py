"""What a person sees of events: interim results while somebody speaks, revised ones in their place."""

import io
from dataclasses import replace

import pytest
from pysubs2 import SSAFile

from bcaf_stream.cli.turn_files import rttm, srt
from bcaf_stream.console import EventView, line
from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import settled
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance
from tests.waiting import until

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
    out = Terminal()
    with EventView("table", out, live=True) as view:
        view.add(events[1])
        until(lambda: "(speaking ...)" in out.getvalue())
        view.add(events[2])
        until(lambda: "anger" in out.getvalue())
    in_the_end = out.getvalue().rpartition("emotion")[2]  # below the heads of the last table
    assert ("anger" in in_the_end, "(speaking ...)" in in_the_end) == (True, False)


def test_what_nobody_has_finished_saying_is_not_in_the_table_that_stays(events: list[Event]):
    out = Terminal()
    with EventView("table", out, live=True) as view:
        view.add(events[1])
    assert "(speaking ...)" not in out.getvalue().rpartition("emotion")[2]


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


def of_speakers() -> list[Event]:
    writer = EventWriter(MEETING, "m")
    joy = EmotionPrediction(("joy", "anger"), (0.9, 0.1), None, None, ())
    said = Utterance("a b", "room", "speaker", 0, 0, 1000, None, "yes --> no", "asr", speaker="S1")
    return [
        writer.start(),
        writer.final(said, joy),
        writer.final(replace(said, index=1, start_ms=1200, end_ms=2500, speaker="S2"), joy),
        writer.relabelled("room", "S2", "S1"),
        writer.final(replace(said, index=2, start_ms=3000, end_ms=4000, speaker="S3"), joy),
        writer.degraded("no model", replace(said, index=3, start_ms=5000, end_ms=5500, speaker="S2")),
        writer.relabelled("room", "S1", "S0"),
        writer.end("complete"),
    ]


MEETING = Call("a b", (Channel("room"),))


def test_who_speaks_is_shown_by_the_name_that_holds_in_the_end():
    events = of_speakers()
    assert [e.speaker for e in settled(events)] == ["S0", "S0", "S3"]
    assert "room S2" in line(events[2])
    out = Terminal()
    with EventView("table", out) as view:
        for event in events:
            view.add(event)
    assert "S1" not in out.getvalue().replace("S1 is S0", "").replace("S2 is S1", "")
    assert out.getvalue().count("S0 ") == 2


def test_rttm_and_srt_say_who_spoke_when():
    events = of_speakers()
    assert rttm(events).splitlines() == [
        "SPEAKER a_b 1 0.000 1.000 <NA> <NA> S0 <NA> <NA>",
        "SPEAKER a_b 1 1.200 1.300 <NA> <NA> S0 <NA> <NA>",
        "SPEAKER a_b 1 3.000 1.000 <NA> <NA> S3 <NA> <NA>",
        "SPEAKER a_b 1 5.000 0.500 <NA> <NA> S0 <NA> <NA>",
    ]
    cues = SSAFile.from_string(srt(events), "srt")
    assert [(cue.start, cue.end, cue.plaintext) for cue in cues][:2] == [
        (0, 1000, "[S0: joy 90%] yes -> no"),
        (1200, 2500, "[S0: joy 90%] yes -> no"),
    ]
    assert len(cues) == 4
    assert rttm([]) == srt([]) == ""
    sides = [replace(event, channel="line" if event.utterance == 2 else "room") for event in events]
    assert [row.split()[2::5] for row in rttm(sides).splitlines()][2] == ["2", "line_S3"]
