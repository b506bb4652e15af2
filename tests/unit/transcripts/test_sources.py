"""Six formats read to the millisecond, and every broken one refused with its line and without its words."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import BcafError, TranscriptError
from bcaf_stream.transcripts.channels import resolve_channel
from bcaf_stream.transcripts.formats import PARSERS
from bcaf_stream.transcripts.sources import check_fits, read_transcript
from bcaf_stream.types import Channel, Words
from tests.components import needs

CALL = ("customer", "agent")
SIDES = (Channel("customer", "customer"), Channel("agent", "agent"))
SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"

SRT = """1
00:00:01,000 --> 00:00:02,500
Customer: <i>Hello</i> there

2
00:00:03,000 --> 00:00:04,000
Note: my number is
4711

3
00:00:04,000 --> 00:00:05,000
AGENT: yes
"""
VTT = """WEBVTT - a title

NOTE
not --> said

STYLE
::cue { color: red }

greeting
00:01.000 --> 00:02.500 align:start position:0%
<v.loud customer>Hello &amp; welcome</v>

00:03.000 --> 00:04.000
<v agent>Well, <00:03.200><c>it's</c> <00:03.500>me</v> <v customer>oh</v>

01:00:00.000 --> 01:00:01.000
no voice
"""
CTM = ";; a comment\ncall A 1.0 0.25 hello 0.9\ncall A 1.25 0.3 there\ncall 2 1.1 0.5 yes 1.0\n"
STM = """;; LABEL
call 1 customer 1.0 2.5 <o,f0,male> hello there
call 1 agent 2.0 3.0 yes
call 2 nobody 3.0 4.0 well
call 1 inter_segment_gap 4.0 5.0
"""
JSONL = (
    '{"start_ms": 1000, "end_ms": 2500, "channel": "customer", "text": "hello\u2028there", "mood": "joy"}\n\n'
    '{"start_ms": 0, "end_ms": 500.0, "channel": null, "text": "yes"}\n'
)
WHISPER = json.dumps(
    {
        "text": "hello there yes",
        "segments": [
            {
                "start": 1.0,
                "end": 2.5,
                "text": " hello there",
                "words": [
                    {"word": " hello", "start": 1.0, "end": 1.4, "probability": 0.9},
                    {"word": " there", "start": 1.4, "end": 2.5, "probability": 0.9},
                ],
            },
            {"start": 3.0, "end": 4.0, "text": " yes"},
        ],
        "language": "en",
    },
    indent=1,
)

EXPECTED = {
    "srt": (
        SRT,
        [
            Words(1000, 2500, "Hello there", "customer"),
            Words(3000, 4000, "Note: my number is 4711"),
            Words(4000, 5000, "yes", "agent"),
        ],
    ),
    "vtt": (
        VTT,
        [
            Words(1000, 2500, "Hello & welcome", "customer"),
            Words(3000, 3200, "Well,", "agent"),
            Words(3000, 4000, "oh", "customer"),
            Words(3200, 3500, "it's", "agent"),
            Words(3500, 4000, "me", "agent"),
            Words(3_600_000, 3_601_000, "no voice"),
        ],
    ),
    "ctm": (
        CTM,
        [
            Words(1000, 1250, "hello", "customer"),
            Words(1100, 1600, "yes", "agent"),
            Words(1250, 1550, "there", "customer"),
        ],
    ),
    "stm": (
        STM,
        [
            Words(1000, 2500, "hello there", "customer"),
            Words(2000, 3000, "yes", "agent"),
            Words(3000, 4000, "well", "agent"),
        ],
    ),
    "jsonl": (JSONL, [Words(0, 500, "yes"), Words(1000, 2500, "hello there", "customer")]),
    "json": (WHISPER, [Words(1000, 1400, "hello"), Words(1400, 2500, "there"), Words(3000, 4000, "yes")]),
}


def read(folder: Path, name: str, content: str | bytes, channels=SIDES) -> list[Words]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_transcript(path, channels).words


@pytest.mark.parametrize("suffix", EXPECTED)
def test_each_format_by_suffix_and_by_content(tmp_path, suffix):
    content, expected = EXPECTED[suffix]
    assert read(tmp_path, f"a.{suffix}", content) == expected
    assert read(tmp_path, f"a.{suffix.upper()}", content.replace("\n", "\r\n")) == expected
    assert read(tmp_path, "a.txt", content) == expected
    assert read(tmp_path, "transcript", content) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", EXPECTED)
def test_byte_order_marks(tmp_path, suffix, encoding):
    content, expected = EXPECTED[suffix]
    assert read(tmp_path, f"a.{suffix}", content.encode(encoding)) == expected


def test_without_channels_labels_stay_as_they_are(tmp_path):
    assert [w.channel for w in read(tmp_path, "a.ctm", CTM, None)] == ["A", "2", "A"]
    assert read(tmp_path, "a.srt", SRT, None)[0] == Words(1000, 2500, "Hello there", "Customer")


def test_json_lines_in_a_json_file_and_whisper_segments_alone(tmp_path):
    assert read(tmp_path, "a.json", JSONL) == EXPECTED["jsonl"][1]
    assert read(tmp_path, "a.json", JSONL.split("\n")[0]) == EXPECTED["jsonl"][1][1:]
    assert read(tmp_path, "a.json", json.dumps(json.loads(WHISPER)["segments"])) == EXPECTED["json"][1]


SECRET = "divorce"
BROKEN = {
    "missing empty line, no time": ("srt", f"1\n00:00:01,000 -> 00:00:02,000\n{SECRET}\n", "line 1: no time line"),
    "negative time": ("srt", f"1\n-00:00:01,000 --> 00:00:02,000\n{SECRET}\n", "line 2: no valid times"),
    "hours beyond": ("srt", f"1\n100:00:01,000 --> 100:00:02,000\n{SECRET}\n", "line 2: no valid times"),
    "vtt end before start": (
        "vtt",
        f"WEBVTT\n\n00:09.000 --> 00:02.000\n{SECRET}\n",
        "line 3: ends at 2.000 s, before",
    ),
    "ctm columns": ("ctm", f"call A 1.0 {SECRET}\n", "line 1: CTM needs"),
    "ctm seconds": ("ctm", f"call A one 1.0 {SECRET}\n", "line 1: start must be a number"),
    "ctm not finite": ("ctm", f"call A nan 1.0 {SECRET}\n", "line 1: start must be a number"),
    "ctm duration": ("ctm", f"call A 1.0 -1.0 {SECRET}\n", "line 1: the duration is negative"),
    "ctm negative": ("ctm", f"call A -1.0 1.0 {SECRET}\n", "line 1: starts before 0"),
    "ctm channel": (
        "ctm",
        f"c A 2 1 b\nc 3 1 1 {SECRET}\n",
        "line 2: channel '3' is not in this call: name one of",
    ),
    "stm columns": ("stm", "call 1 customer 1.0\n", "line 1: STM needs"),
    "stm end": ("stm", f"call 1 customer 1.0 {SECRET}x 2.0 a\n", "line 1: end must be a number"),
    "jsonl syntax": ("jsonl", '{"start_ms": 1, "text": "divorce"\n', "line 1: not valid JSON"),
    "jsonl no object": ("jsonl", '\n["divorce"]\n', "line 2: must be a JSON object"),
    "jsonl time": (
        "jsonl",
        '{"start_ms": "1", "end_ms": 2, "text": "divorce"}\n',
        "line 1: start_ms must be a number",
    ),
    "jsonl bool": ("jsonl", '{"start_ms": true, "end_ms": 2, "text": "divorce"}\n', "line 1: start_ms must be"),
    "jsonl text": ("jsonl", '{"start_ms": 1, "end_ms": 2, "words": "divorce"}\n', "line 1: text must be a string"),
    "jsonl channel": (
        "jsonl",
        '{"start_ms": 1, "end_ms": 2, "text": "divorce", "channel": 1}\n',
        "line 1: channel must",
    ),
    "whisper syntax": ("json", '{"segments": [\n{"text": "divorce"', "line 2: not valid JSON"),
    "whisper list": ("json", '{"text": "divorce"}', "JSON of an unknown kind: known are Amazon Transcribe"),
    "whisper time": (
        "json",
        '{"segments": [{"start": null, "end": 1, "text": "divorce"}]}',
        "segment 1: start must be",
    ),
    "empty": ("srt", " \n\n", "empty: give SRT"),
    "no words": ("vtt", "WEBVTT\n", "holds no words"),
    "binary": ("srt", b"RIFF\x00\x00 --> \x00", "not text"),
    "other encoding": (
        "srt",
        "1\n00:00:01,000 --> 00:00:02,000\ndivorce, tête\n".encode("cp1252"),
        "line 3: not UTF-8",
    ),
    "prose": ("txt", f"Dear all,\nthe {SECRET} is over.\n", "not a known transcript format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_in_one_line_without_words(tmp_path, name):
    suffix, content, message = BROKEN[name]
    with pytest.raises(TranscriptError, match=re.escape(message)) as caught:
        read(tmp_path, f"call.{suffix}", content)
    text = str(caught.value)
    assert str(tmp_path / f"call.{suffix}") in text
    assert SECRET not in text
    assert "\n" not in text


def test_what_looks_like_a_transcript_and_is_none(tmp_path):
    name, text = "turns.rttm", "SPEAKER call 1 0.6 4.7 <NA> <NA> Daniel <NA> <NA>\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(TranscriptError, match="not a known transcript format"):
        read_transcript(tmp_path / name, SIDES)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(TranscriptError, match="no such transcript"):
        read_transcript(tmp_path / "none.srt")
    with pytest.raises(TranscriptError, match="cannot be read"):
        read_transcript(tmp_path)


def test_words_past_the_end_of_the_sound():
    words = [Words(0, 1000, "a"), Words(4000, 5900, "b")]
    check_fits(words, 5000)
    with pytest.raises(
        TranscriptError, match=r"call.srt: entry 2 \(4.000 s to 5.900 s\) lies past the end.*4.800 s"
    ):
        check_fits(words, 4800, "call.srt")
    with pytest.raises(TranscriptError, match="entry 2"):
        check_fits([Words(0, 1, "a"), Words(5000, 5000, "b")], 5000)


@pytest.mark.parametrize(
    ("labels", "channels", "expected"),
    [
        ([], CALL, None),
        (["agent"], CALL, "agent"),
        (["AGENT"], CALL, "agent"),
        (["a"], CALL, "customer"),
        (["2"], CALL, "agent"),
        (["Sheila", "1"], CALL, "customer"),
        (["agent", "1"], CALL, "agent"),
        (["1"], ("2", "1"), "1"),
        (["1"], ("only",), "only"),
    ],
)
def test_labels_and_channels(labels, channels, expected):
    assert resolve_channel(labels, channels) == expected


@pytest.mark.parametrize("label", ["3", "C", "Bob", ""])
def test_a_label_that_fits_nothing_names_the_allowed_ones(label):
    with pytest.raises(TranscriptError, match="name one of customer, agent"):
        resolve_channel([label], CALL)
    with pytest.raises(TranscriptError, match=r"position, A or 1\)"):
        resolve_channel(["B"], ("only",))


@given(
    st.sampled_from(sorted(PARSERS)), st.text(alphabet='0123456789:.,-> <v>{}[]"\nabWEBVTT\u2028\t;', max_size=120)
)
def test_no_content_breaks_a_parser(kind, text):
    """Whatever stands in the file: cues or a TranscriptError, nothing else."""
    try:
        cues = list(PARSERS[kind](text))
    except BcafError:
        return
    assert all(isinstance(cue.start_ms, int) and isinstance(cue.text, str) for cue in cues)


MS = st.integers(0, 3_599_000)


@settings(deadline=None)  # files, on a busy machine
@given(st.lists(st.tuples(MS, st.integers(0, 10_000), st.sampled_from(CALL)), min_size=1, max_size=20))
def test_times_survive_every_format_with_channels(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("times")
    words = [Words(start, start + length, f"w{i} 9", c) for i, (start, length, c) in enumerate(sorted(rows))]

    def clock(ms: int, mark: str) -> str:
        return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"

    def cue(w: Words, mark: str) -> str:
        return f"{clock(w.start_ms, mark)} --> {clock(w.end_ms, mark)}"

    files = {
        "srt": "".join(f"{i}\n{cue(w, ',')}\n{w.channel}: {w.text}\n\n" for i, w in enumerate(words)),
        "vtt": "WEBVTT\n\n" + "".join(f"{cue(w, '.')}\n<v {w.channel}>{w.text}</v>\n\n" for w in words),
        "stm": "".join(f"f 1 {w.channel} {w.start_ms / 1000} {w.end_ms / 1000} {w.text}\n" for w in words),
        "jsonl": "".join(
            json.dumps({"start_ms": w.start_ms, "end_ms": w.end_ms, "channel": w.channel, "text": w.text}) + "\n"
            for w in words
        ),
    }
    for suffix, content in files.items():
        assert read(folder, f"a.{suffix}", content) == words


@needs("shared data")
def test_a_real_stm():
    words = read_transcript(SHARED / "diarized" / "sample.stm", [Channel("Sheila"), Channel("Diane")]).words
    assert (len(words), words[0].channel, words[0].start_ms) == (13, "Diane", 6680)
    check_fits(words, 30_000)
