"""Captions as real programs write them: meetings, recognisers, video sites; and what every subtitle file keeps."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.sources import Transcript, read_transcript
from bcaf_stream.types import Channel

MONO = (Channel("mono"),)
STEREO = (Channel("customer", "customer"), Channel("agent", "agent"))

ZOOM = """WEBVTT

1
00:00:00.600 --> 00:00:02.330
Daniel Reyes: Thank you for calling.

2
00:00:02.830 --> 00:00:05.000
maria's iPhone: Hi. Note: it is down.

3
00:00:05.100 --> 00:00:06.000
Daniel Reyes: I see.

4
00:00:06.100 --> 00:00:07.000
maria's iPhone: Good.
"""
TEAMS = """WEBVTT

3f0c2f6a-1/9-0
00:00:00.600 --> 00:00:02.330
<v Daniel Reyes>Thank you
for calling.</v>

3f0c2f6a-1/9-1
00:00:02.830 --> 00:00:05.000
<v maria&#39;s iPhone>Hi. Note: it is down.</v>

00:00:05.100 --> 00:00:06.000
<v Daniel Reyes>I see.</v>

00:00:06.100 --> 00:00:07.000
<v maria's iPhone>Good.</v>
"""
WEBEX = """WEBVTT

1 "Daniel Reyes" (3735218944)
00:00:00.600 --> 00:00:02.330
Thank you for calling.

2 "maria's iPhone" (1228)
00:00:02.830 --> 00:00:05.000
Hi. Note: it is down.

3 "Daniel Reyes" (3735218944)
00:00:05.100 --> 00:00:06.000
I see.

4 "maria's iPhone" (1228)
00:00:06.100 --> 00:00:07.000
Good.
"""
TALK = [
    (600, 2330, "Daniel Reyes", "Thank you for calling."),
    (2830, 5000, "maria's iPhone", "Hi. Note: it is down."),
    (5100, 6000, "Daniel Reyes", "I see."),
    (6100, 7000, "maria's iPhone", "Good."),
]
AWS_VTT = """WEBVTT

1
00:00:00.600 --> 00:00:02.330
spk_0: Thank you for calling.

2
00:00:02.830 --> 00:00:05.000
spk_1: Hi. Note: it is down.
"""
OTTER = """1
00:00:00,600 --> 00:00:02,330
Daniel Reyes: Thank you
for calling.

2
00:00:02,330 --> 00:00:02,830
I am Daniel.

3
00:00:02,830 --> 00:00:05,000
Maria Lopez: Hi.
"""
YOUTUBE = """WEBVTT
Kind: captions
Language: en
Style:
::cue(c.colorCCCCCC) { color: rgb(204,204,204);
 }
##

00:00:00.600 --> 00:00:02.950 align:start position:0%
\x20
&gt;&gt; Thank<00:00:01.000><c.colorCCCCCC> you.</c>

00:00:02.950 --> 00:00:02.960 align:start position:0%
&gt;&gt; Thank you.
\x20

00:00:02.960 --> 00:00:05.320 align:start position:0%
&gt;&gt; Thank you.
[Music] This<00:00:03.200><c> is</c><00:00:04.000><c> it</c>

00:00:05.320 --> 00:00:05.330 align:start position:0%
[Music] This is it
\x20
"""
STYLED = """WEBVTT - made by hand
X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000

NOTE one line

NOTE
several lines
and 00:01

STYLE
::cue(b) { color: red }

REGION
id:fred
width:40%

intro
00:01.000 --> 00:02.000 region:fred line:0 align:left vertical:rl
<b>Hello</b> <ruby>you<rt>YOU</rt></ruby> <lang en>there</lang> &lt;3 <i.loud>now</i>

00:00:02.000 --> 00:00:03.000
4711
"""


def read(folder: Path, content: str, name: str, channels=MONO, **options) -> Transcript:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return read_transcript(path, channels, **options)


def rows(transcript: Transcript) -> list[tuple[int, int, str | None, str]]:
    return [(w.start_ms, w.end_ms, w.channel, w.text) for w in transcript.words]


@pytest.mark.parametrize("content", [ZOOM, TEAMS, WEBEX], ids=["zoom", "teams", "webex"])
def test_meetings(tmp_path, content):
    assert rows(read(tmp_path, content, "a.vtt")) == TALK
    assert rows(read(tmp_path, content.replace("\n", "\r\n"), "a.vtt")) == TALK
    mapped = read(
        tmp_path, content, "a.vtt", STEREO, speakers={"Daniel Reyes": "agent", "MARIA'S IPHONE": "customer"}
    )
    assert [w.channel for w in mapped.words] == ["agent", "customer", "agent", "customer"]


def test_recognisers_subtitles(tmp_path):
    assert rows(read(tmp_path, AWS_VTT, "a.vtt")) == [
        (600, 2330, "spk_0", "Thank you for calling."),
        (2830, 5000, "spk_1", "Hi. Note: it is down."),
    ]
    assert rows(read(tmp_path, OTTER, "a.srt")) == [
        (600, 2330, "Daniel Reyes", "Thank you for calling."),
        (2330, 2830, "Daniel Reyes", "I am Daniel."),
        (2830, 5000, "Maria Lopez", "Hi."),
    ]
    assert [w.channel for w in read(tmp_path, OTTER, "a.srt", STEREO).words] == [None, None, None]


def test_captions_of_a_video_site(tmp_path):
    assert rows(read(tmp_path, YOUTUBE, "a.vtt", STEREO)) == [
        (600, 1000, None, "Thank"),
        (1000, 2950, None, "you."),
        (2960, 3200, None, "This"),
        (3200, 4000, None, "is"),
        (4000, 5320, None, "it"),
    ]


def test_all_that_webvtt_may_hold(tmp_path):
    assert [(w.start_ms, w.text) for w in read(tmp_path, STYLED, "a.vtt", STEREO).words] == [
        (1000, "Hello youYOU there <3 now"),
        (2000, "4711"),
    ]
    tight = "WEBVTT\n00:01.000 --> 00:02.000\none\n00:02.000 --> 00:03.000\ntwo\n"
    assert [w.text for w in read(tmp_path, tight, "a.vtt", STEREO).words] == ["one", "two"]


CTM = "call20 1 0.5 0.3 hi\nother 1 0.6 0.3 bad\ncall20 2 1.0 0.3 <unk>\ncall20 2 1.5 0.3 yes\n"


def test_a_table_gives_the_rows_of_this_recording(tmp_path):
    mine = read(tmp_path, CTM, "a.ctm", STEREO, recordings={"CALL20": None})
    assert rows(mine) == [(500, 800, "customer", "hi"), (1500, 1800, "agent", "yes")]
    with pytest.raises(TranscriptError, match="2 recordings, none of them this one: call20, other"):
        read(tmp_path, CTM, "a.ctm", STEREO, recordings={"third": None})
    alone = "\n".join(row for row in CTM.split("\n") if "other" not in row)
    foreign = read(tmp_path, alone, "a.ctm", STEREO, recordings={"third": None})
    assert rows(foreign) == rows(mine)
    assert "though it says 'call20'" in foreign.notes[0]
    stm = "call20 1 Ann 0.5 0.8 hi\nother 1 Ann 0.5 0.8 bad\ncall20 2 Bob 1.5 1.8 <o,f0> { yes / yeah / @ } %uh\n"
    said = read(tmp_path, stm, "a.stm", STEREO, recordings={"call20": None})
    assert rows(said) == [(500, 800, "customer", "hi"), (1500, 1800, "agent", "yes %uh")]


def test_a_table_for_a_file_per_channel(tmp_path):
    rows_of = "left 1 0.5 0.3 hi\nright 1 1.0 0.3 yes\nthird 1 1.0 0.3 bad\n"
    both = read(tmp_path, rows_of, "a.ctm", STEREO, recordings={"left": "customer", "right": "agent"})
    assert rows(both) == [(500, 800, "customer", "hi"), (1000, 1300, "agent", "yes")]


@pytest.mark.parametrize(("one", "two"), [("0", "1"), ("1", "2"), ("A", "B"), ("a", "b"), ("ch_0", "ch_1")])
def test_the_channels_of_a_table_by_what_it_uses(tmp_path, one, two):
    table = f"c {one} 0.5 0.3 hi\nc {two} 1.0 0.3 yes\n"
    assert [w.channel for w in read(tmp_path, table, "a.ctm", STEREO).words] == ["customer", "agent"]
    swapped = f"c {two} 0.5 0.3 hi\nc {one} 1.0 0.3 yes\n"
    assert [w.channel for w in read(tmp_path, swapped, "a.ctm", STEREO).words] == ["agent", "customer"]


def test_a_table_of_a_mix_says_nothing_about_channels(tmp_path):
    """NeMo and Kaldi write channel 1 for every sound: it is not the customer's."""
    table = "c 1 0.5 0.3 hi\nc 1 1.0 0.3 yes\n"
    mix = read(tmp_path, table, "a.ctm", STEREO)
    assert [w.channel for w in mix.words] == [None, None]
    assert "all of it is channel '1': its words go where they are spoken" in mix.notes[0]
    said = read(tmp_path, table, "a.ctm", STEREO, speakers={"1": "agent"})
    assert ([w.channel for w in said.words], said.notes) == (["agent", "agent"], ())
    assert read(tmp_path, table, "a.ctm").lanes == ()


def test_a_channel_by_number_is_the_users_to_name(tmp_path):
    words = [{"word": "hi", "start": 0.5, "end": 0.8}], [{"word": "yes", "start": 1.0, "end": 1.3}]
    channels = [{"alternatives": [{"transcript": "x", "words": w}]} for w in words]
    data = json.dumps({"results": {"channels": channels}})
    swapped = {"channel 0": "agent", "channel 1": "customer"}
    assert [w.channel for w in read(tmp_path, data, "a.json", STEREO).words] == ["customer", "agent"]
    assert [w.channel for w in read(tmp_path, data, "a.json", STEREO, speakers=swapped).words] == [
        "agent",
        "customer",
    ]


WORD = st.text(alphabet="abcdefghijklmnopqrstuvwxyzäöüßéñ'ж0123456789", min_size=1, max_size=8).filter(
    lambda w: any(c.isalnum() for c in w)
)
SENTENCE = st.lists(WORD, min_size=1, max_size=6).map(" ".join)


@settings(deadline=None, max_examples=60)  # files, on a busy machine
@given(st.lists(st.tuples(st.integers(300, 3000), SENTENCE), min_size=1, max_size=12), st.data())
def test_no_word_is_invented_or_lost(tmp_path_factory, said, data):
    """Words written as SRT, WebVTT, CTM, STM, JSON lines and Whisper's JSON come back, all of them, in order."""
    folder = tmp_path_factory.mktemp("words")
    at, cues = 0, []
    for length, text in said:
        cues.append((at, at + length, text))
        at += length + data.draw(st.integers(0, 500))

    def clock(ms: int, mark: str) -> str:
        return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"

    def timed(mark: str, name: str = "") -> str:
        return "".join(
            f"{i}\n{clock(s, mark)} --> {clock(e, mark)}\n{name}{t}\n\n" for i, (s, e, t) in enumerate(cues)
        )

    segments = [{"start": s / 1000, "end": e / 1000, "text": f" {t}"} for s, e, t in cues]
    files = {
        "a.srt": timed(","),
        "named.srt": timed(",", "Speaker 1: "),
        "a.vtt": "WEBVTT\n\n" + timed("."),
        "named.vtt": "WEBVTT\n\n" + timed(".", "<v Ann Lee>"),
        "a.stm": "".join(f"f 1 x {s / 1000} {e / 1000} {t}\n" for s, e, t in cues),
        "a.ctm": "".join(f"f 1 {s / 1000} {(e - s) / 1000} {w}\n" for s, e, t in cues for w in t.split()),
        "a.jsonl": "".join(json.dumps({"start_ms": s, "end_ms": e, "text": t}) + "\n" for s, e, t in cues),
        "a.json": json.dumps({"segments": segments}),
    }
    expected = [word for _, _, text in cues for word in text.split()]
    for name, content in files.items():
        found = read(folder, content, name)
        assert [word for w in found.words for word in w.text.split()] == expected, name
        assert all(w.start_ms <= w.end_ms for w in found.words)


@settings(deadline=None, max_examples=60)  # files, on a busy machine
@given(st.sampled_from(["a.srt", "a.vtt", "a.ctm", "a.stm", "a.jsonl", "a.json", "a.txt"]), st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, name, text):
    path = tmp_path_factory.mktemp("any") / name
    clock = {"a.srt": "1\n00:00:01,000 --> 00:00:02,000\n", "a.vtt": "WEBVTT\n\n00:01.000 --> 00:02.000\n"}
    path.write_bytes((clock.get(name, "") + text).encode("utf-8", "surrogatepass"))
    try:
        read_transcript(path, STEREO)
    except TranscriptError as error:
        message = str(error)
        assert "\n" not in message.replace(str(path), "")


def test_a_time_before_a_name_is_no_word(tmp_path):
    (tmp_path / "call.srt").write_text(
        "1\n00:00:00,600 --> 00:00:02,000\n[00:00] Daniel Reyes: Hello.\n\n"
        "2\n00:00:02,500 --> 00:00:04,000\n[00:00:02] Maria Lopez: Hi there.\n"
    )
    found = read_transcript(tmp_path / "call.srt", MONO)
    assert [(w.channel, w.text) for w in found.words] == [("Daniel Reyes", "Hello."), ("Maria Lopez", "Hi there.")]


def test_speakers_have_the_role_that_their_channel_was_given(tmp_path):
    """A policy for that role must not be got round by a transcript."""
    (tmp_path / "call.vtt").write_text(TEAMS)
    lanes = read_transcript(tmp_path / "call.vtt", (Channel("mono", "agent"),)).lanes
    assert {lane.role for lane in lanes} == {"agent"}
