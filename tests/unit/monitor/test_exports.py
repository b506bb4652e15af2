"""A call as a file: what holds in the end, and nothing in it that a spreadsheet, a player or a browser obeys."""

import csv
import io
import json

import pysubs2

from bcaf_stream.monitor.exports import COLUMNS, export
from bcaf_stream.monitor.store import as_json
from tests.monitor_calls import MadeCall, numbered

HOSTILE = "=cmd|' /C calc'!A0\n\n2\n00:00:00,000 --> 00:00:09,000\n<script>alert(1)</script>"


def fields_of(*events):
    return [json.loads(as_json(event)) for event in numbered(list(events))]


def call():
    made = MadeCall("a")
    final = made.say("left", "he said yellow", mood="anger")
    interim = made.interim("right", 5000, 5500)
    return fields_of(
        made.start(), final, interim, made.revise(final, "he said hello", "joy"), made.say(words=HOSTILE)
    )


def test_csv_has_the_last_word_and_no_formulas():
    rows = list(csv.DictReader(io.StringIO(export("a", call(), "csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["emotion"], rows[0]["text"]) == ("joy", "he said hello")
    assert rows[1]["text"].startswith("'=cmd")
    assert len(rows) == 2


def test_srt_is_read_by_others_and_words_make_no_cue():
    subtitles = pysubs2.SSAFile.from_string(export("a", call(), "srt"))
    assert len(subtitles) == 2
    assert subtitles[0].plaintext == "[customer: joy 70%] he said hello"
    assert subtitles[0].start == 200


def test_html_shows_markup_as_text():
    page = export('<b>"name"', call(), "html")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>" not in page


def test_json_has_every_event_with_numbers():
    events = json.loads(export("a", call(), "json"))
    assert len(events) == 5
    assert isinstance(events[0]["emitted_at"], int)
