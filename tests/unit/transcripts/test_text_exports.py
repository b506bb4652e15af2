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


TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 20
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "Daniel"
        xmin = 0
        xmax = 20
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.4
            text = ""
        intervals [2]:
            xmin = 0.4
            xmax = 5
            text = "Thank ""you"", 24 times."
    item [2]:
        class = "IntervalTier"
        name = "Maria"
        xmin = 0
        xmax = 20
        intervals: size = 1
        intervals [1]:
            xmin = 5.6
            xmax = 10.2
            text = "Hi there."
    item [3]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 20
        points: size = 1
        points [1]:
            number = 3
            mark = "click"
"""
SHORT_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
20
<exists>
2
"IntervalTier"
"Daniel"
0
20
2
0
0.4
""
0.4
5
"Thank ""you"", 24 times."
"IntervalTier"
"Maria"
0
20
1
5.6
10.2
"Hi there."
"""
ALIGNER = """File type = "ooTextFile"
Object class = "TextGrid"
0 1 <exists> 2
"IntervalTier" "words" 0 1 3  0 0.3 "hi"  0.3 0.5 "sp"  0.5 1 "there"
"IntervalTier" "phones" 0 1 1  0 1 "HH"
"""
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT FORMAT="3.0"><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="400"/><TIME_SLOT TIME_SLOT_ID="t2" TIME_VALUE="5000"/>
<TIME_SLOT TIME_SLOT_ID="t3" TIME_VALUE="5600"/><TIME_SLOT TIME_SLOT_ID="t4" TIME_VALUE="10200"/></TIME_ORDER>
<TIER TIER_ID="A" PARTICIPANT="Daniel"><ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="t1"
TIME_SLOT_REF2="t2"><ANNOTATION_VALUE>Thank "you", 24 times.</ANNOTATION_VALUE>
</ALIGNABLE_ANNOTATION></ANNOTATION>
</TIER><TIER TIER_ID="A-translation"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1">
<ANNOTATION_VALUE>Danke.</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="Maria"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="t3" TIME_SLOT_REF2="t4">
<ANNOTATION_VALUE>Hi there.</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>
"""
EXB = """<?xml version="1.0" encoding="UTF-8"?><basic-transcription><head><speakertable>
<speaker id="S0"><abbreviation>Daniel</abbreviation></speaker>
<speaker id="S1"><abbreviation>Maria</abbreviation></speaker></speakertable></head>
<basic-body><common-timeline><tli id="T0" time="0.4"/><tli id="T1" time="5"/><tli id="T2" time="5.6"/>
<tli id="T3" time="10.2"/></common-timeline>
<tier id="X" speaker="S0" category="v" type="t"><event start="T0" end="T1">Thank "you", 24 times.</event></tier>
<tier id="Z" speaker="S0" category="en" type="a"><event start="T0" end="T1">a gloss</event></tier>
<tier id="Y" speaker="S1" category="v" type="t"><event start="T2" end="T3">Hi there.</event></tier>
</basic-body></basic-transcription>"""


@pytest.mark.parametrize("text", [TEXTGRID, SHORT_TEXTGRID, EAF, EXB])
def test_tiers_are_people(tmp_path, text):
    path = tmp_path / "call.txt"
    path.write_text(text)
    transcript = read_transcript(path, MONO)
    assert [(w.start_ms, w.end_ms, w.text, w.channel) for w in transcript.words] == [
        (400, 5000, 'Thank "you", 24 times.', "Daniel"),
        (5600, 10200, "Hi there.", "Maria"),
    ]


def test_the_words_of_an_aligner(tmp_path):
    path = tmp_path / "call.TextGrid"
    path.write_text(ALIGNER)
    assert [(w.start_ms, w.end_ms, w.text) for w in read_transcript(path, MONO).words] == [
        (0, 300, "hi"),
        (500, 1000, "there"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.TextGrid", TEXTGRID.encode()[:600], "a TextGrid, but it ends too early"),
        ("a.eaf", EAF.encode()[:300], "line 5: not valid XML"),
        ("a.eaf", EAF.replace(' TIME_VALUE="5000"', "").encode(), "tier A, annotation 1: has no times"),
        ("a.exb", b"<!DOCTYPE x []>" + EXB.encode(), "DOCTYPE"),
        ("a.docx", b"PK\x03\x04" + bytes(40), "is a packed document, not text"),
    ],
)
def test_annotations_that_cannot_be_read(tmp_path, name, data, said):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(TranscriptError, match=said) as caught:
        read_transcript(path, MONO)
    assert "\n" not in str(caught.value)
