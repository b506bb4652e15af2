"""Text with times as meeting tools and players export it: words, names and times, and what is none of them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.formats import PARSERS, sniff
from bcaf_stream.transcripts.sources import read_transcript
from bcaf_stream.types import Channel

MONO = (Channel("mono"),)
OTTER = """Support call
Sat, Nov 28, 2026

Maria Lopez  0:05
My internet has been down
since Monday.

Daniel Reyes  1:00:10
I can look into that.

Transcribed by https://otter.ai
"""
DESCRIPT = "[00:00:05] Maria: Hi there.\n\n[00:00:08] Daniel: I can look into that.\n\n[00:00:11] Maria: Thanks.\n"
REV = "Speaker 1 (00:05):\nHi there.\n\nSpeaker 2 (00:08):\nI can look into that.\n"
WHISPER = "[00:00:00.400 --> 00:00:05.000]   Thank you.\n[00:00:05.600 --> 00:00:10.200]   Hi there.\n"
YOUTUBE = "0:05\nHi there.\n0:08\nI can look into that.\n"
LRC = "[ar:Nobody]\n[00:05.60]Hi there.\n[00:08.00]I can look into that.\n"
SBV = "0:00:00.400,0:00:05.000\nThank you\nfor calling.\n\n0:00:05.600,0:00:10.200\nHi there.\n"
TSV = "start\tend\ttext\n400\t5000\tThank you.\n5600\t10200\tHi there.\n"
AUDACITY = "0.400000\t5.000000\tThank you.\n5.600000\t10.200000\tHi there.\n"
ASS = (
    "[Script Info]\nScriptType: v4.00+\n\n[Events]\n"
    "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    "Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,a note of the editor\n"
    "Dialogue: 0,0:00:00.40,0:00:05.00,Default,Daniel,0,0,0,,Thank {\\i1}you{\\i0}.\n"
    "Dialogue: 0,0:00:05.60,0:00:10.20,Default,Maria,0,0,0,,Hi\\Nthere.\n"
)
TTML = (
    '<?xml version="1.0"?>\n<tt xmlns="http://www.w3.org/ns/ttml"><body><div>'
    '<p begin="00:00:00.400" end="00:00:05.000">Thank you.</p>'
    '<p begin="00:00:05.600" end="00:00:10.200">Hi there.</p></div></body></tt>'
)
TWO_LINES = [(400, 5000, None, "Thank you."), (5600, 10_200, None, "Hi there.")]
CASES = {
    "otter.txt": (
        OTTER,
        [
            (5000, 8120, "Maria Lopez", "My internet has been down since Monday."),
            (3_610_000, 3_611_680, "Daniel Reyes", "I can look into that."),
        ],
    ),
    "descript.txt": (
        DESCRIPT,
        [
            (5000, 6280, "Maria", "Hi there."),
            (8000, 10_320, "Daniel", "I can look into that."),
            (11_000, 12_120, "Maria", "Thanks."),
        ],
    ),
    "rev.txt": (
        REV,
        [(5000, 5720, "Speaker 1", "Hi there."), (8000, 9680, "Speaker 2", "I can look into that.")],
    ),
    "whisper.txt": (WHISPER, TWO_LINES),
    "copied.txt": (YOUTUBE, [(5000, 5720, None, "Hi there."), (8000, 9680, None, "I can look into that.")]),
    "song.lrc": (LRC, [(5600, 6320, None, "Hi there."), (8000, 9680, None, "I can look into that.")]),
    "captions.sbv": (SBV, [(400, 5000, None, "Thank you for calling."), (5600, 10_200, None, "Hi there.")]),
    "whisper.tsv": (TSV, TWO_LINES),
    "labels.txt": (AUDACITY, TWO_LINES),
    "call.ass": (ASS, [(400, 5000, "Daniel", "Thank you."), (5600, 10_200, "Maria", "Hi there.")]),
    "call.ttml": (TTML, TWO_LINES),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_words_names_and_times_are_read(tmp_path, name, ends):
    text, expected = CASES[name]
    path = tmp_path / name
    path.write_bytes(text.replace("\n", ends).encode())
    found = read_transcript(path, MONO).words
    assert [(w.start_ms, w.end_ms, w.channel, w.text) for w in found] == expected


@pytest.mark.parametrize(
    "text", ["Hi there.\nI can look into that.\n", "a,b,c\n1,2,3\n", "See you at 5:30\nor so.\n"]
)
def test_text_without_times_is_refused_and_the_ways_out_are_named(tmp_path, text):
    path = tmp_path / "plain.txt"
    path.write_text(text)
    with pytest.raises(TranscriptError, match=r"not a known transcript format: give SRT, .* a clock at each turn"):
        read_transcript(path, MONO)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.sbv", "Hi\n0:00:00.400,0:00:05.000\n", "line 1: no time line"),
        ("a.sbv", "0:00:05.000,0:00:00.400\nHi\n", "line 1: ends at 0.400 s, before its start"),
        ("a.tsv", "start\tend\ttext\n400\tHi\n", "not a known transcript format"),
        ("a.tsv", "start\tend\ttext\n400\tsoon\tHi\n", "line 2: end must be a number"),
        ("a.ttml", "<tt><p begin='0s'", "cannot be read as TTML"),
    ],
)
def test_what_is_broken_is_refused_with_its_place(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TranscriptError, match=says):
        read_transcript(path, MONO)


@given(
    st.text("0123456789:.,[]()- \n\tabAB<>", max_size=120),
    st.sampled_from(["sbv", "turns", "table", "ass", "ttml"]),
)
def test_any_text_gives_cues_or_a_transcript_error(text, kind):
    sniff(text)
    with suppress(TranscriptError):
        assert all(cue.start_ms >= 0 for cue in PARSERS[kind](text))
