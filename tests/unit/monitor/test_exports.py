"""A call as a file: what holds in the end, and nothing in it that a spreadsheet, a player or a browser obeys."""

import csv
import io
import json

import pysubs2

from bcaf_stream.monitor.exports import COLUMNS, export
from bcaf_stream.monitor.store import as_json, event_of
from tests.monitor_calls import MadeCall, numbered

HOSTILE = "=cmd|' /C calc'!A0\n\n2\n00:00:00,000 --> 00:00:09,000\n<script>alert(1)</script>"


def events_of(name="a"):
    made = MadeCall(name)
    final = made.say("left", "he said yellow", mood="anger")
    interim = made.interim("right", 5000, 5500)
    revised = made.revise(final, "he said hello", "joy")
    return numbered([made.start(), final, interim, revised, made.say(words=HOSTILE)])


def call(name="a"):
    return [json.loads(as_json(event)) for event in events_of(name)]


def test_csv_has_the_last_word_and_no_formulas():
    rows = list(csv.DictReader(io.StringIO(export(call(), "csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["emotion"], rows[0]["text"]) == ("joy", "he said hello")
    assert rows[1]["text"].startswith("'=cmd")
    assert len(rows) == 2


def test_srt_is_read_by_others_and_words_make_no_cue():
    subtitles = pysubs2.SSAFile.from_string(export(call(), "srt"))
    assert len(subtitles) == 2
    assert subtitles[0].plaintext == "[customer: joy 70%] he said hello"
    assert subtitles[0].start == 200


def test_html_is_the_report_and_shows_markup_as_text():
    page = export(call('<b>"name"'), "html")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>" not in page
    assert "The model and its limits" in page


def test_what_the_page_has_of_an_event_is_all_of_it():
    events = events_of()
    assert [event_of(json.loads(as_json(event))) for event in events] == events


def test_json_has_every_event_with_numbers():
    events = json.loads(export(call(), "json"))
    assert len(events) == 5
    assert isinstance(events[0]["emitted_at"], int)
