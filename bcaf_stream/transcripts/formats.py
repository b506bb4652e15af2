"""The formats of lines and columns as pure parsers: decoded text in, cues with their place in the file out.

pysubs2 reads the time stamps and the markup of SRT and WebVTT, one cue at a time: given a whole file it takes
WebVTT notes and cue names for speech, a last line of digits for the next cue's number, and a broken time line
for words, and it knows no line numbers. CTM (NIST: file, channel, start, duration, word) and STM (NIST: file,
channel, speaker, start, end, [<label>], text) are columns of seconds. JSON stands in `json_formats`.
"""

import html
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from pysubs2 import SSAFile

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.annotations import (
    is_eaf,
    is_exb,
    is_textgrid,
    parse_eaf,
    parse_exb,
    parse_textgrid,
)
from bcaf_stream.transcripts.cues import Cue, TimedWord, is_number, lines_of, seconds, timed_cue
from bcaf_stream.transcripts.json_formats import parse_json, parse_json_lines
from bcaf_stream.transcripts.rolling import Screen, unrolled
from bcaf_stream.transcripts.text_exports import (
    is_sbv,
    is_table,
    is_turns,
    parse_ass,
    parse_sbv,
    parse_table,
    parse_ttml,
    parse_turns,
)

ARROW = "-->"
CLOCK = re.compile(r"\s*(?:\d{1,2}:)?\d{1,2}:\d{2}[.,]\d{1,3}\s*-->\s*(?:\d{1,2}:)?\d{1,2}:\d{2}[.,]\d{1,3}(\s|$)")
VTT_BLOCK = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)(\s|$)")
VTT_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
VTT_CLOCK = re.compile(r"<(?:(\d+):)?(\d{1,2}):(\d{2})\.(\d{3})>")  # a time inside the payload
VTT_TAG = re.compile(r"</?(?:[cibuv]|ruby|rt|lang)(?:[.\s][^>]*)?>")
WEBEX_NAME = re.compile(
    r'\d+\s+"(?P<name>[^"]+)"(?:\s+\(\d+\))?\s*$'
)  # the name of a cue: 12 "Maria Lopez" (3400)
MARK = "\u2060"  # a word joiner: no sound, no width
CLOCKS_OF = {"srt": "00:00:00,000 --> 00:00:01,000", "vtt": "00:00:00.000 --> 00:00:01.000"}
STM_LABEL = re.compile(r"<[^>]*>$")
STM_ALTERNATIVES = re.compile(r"\{\s*([^/{}]*?)\s*/[^{}]*\}")  # { heard / or / @ }: the first one
STM_GAPS = {"inter_segment_gap", "ignore_time_segment_in_scoring"}
JSON_HEAD = re.compile(r"\{|\[\s*(?:[\[{\"\d\]]|$)")
JSON_LINE_KEYS = ("start_ms", "audio_filepath")
CTM_MARKS = re.compile(r"<[^>]+>$|%\w+$|\(%?\w+\)$")  # <unk>, <ALT>, %hesitation: no words


def parse_srt(text: str) -> Iterator[Cue]:
    return _subtitles(text, "srt")


def parse_vtt(text: str) -> Iterator[Cue]:
    """WebVTT; a voice tag `<v Name>` is the speaker, and a cue with several voices becomes several cues."""
    return _subtitles(text, "vtt")


def parse_ctm(text: str) -> Iterator[Cue]:
    for where, line in _columns(text):
        fields = line.split()
        if len(fields) < 5:
            raise TranscriptError(
                f"{where}: CTM needs file, channel, start, duration and word; {len(fields)} given"
            )
        start, duration = seconds(where, "start", fields[2]), seconds(where, "duration", fields[3])
        if duration < 0:
            raise TranscriptError(f"{where}: the duration is negative")
        word = "" if CTM_MARKS.match(fields[4]) else fields[4]
        yield timed_cue(where, [TimedWord(start, start + duration, word)], fields[1], recording=fields[0])


def parse_stm(text: str) -> Iterator[Cue]:
    for where, line in _columns(text):
        fields = line.split(maxsplit=5)
        if len(fields) < 5:
            raise TranscriptError(
                f"{where}: STM needs file, channel, speaker, start, end and text; {len(fields)} given"
            )
        start, end = seconds(where, "start", fields[3]), seconds(where, "end", fields[4])
        label, _, after = (fields[5] if len(fields) > 5 else "").partition(" ")
        words = after if STM_LABEL.match(label) else f"{label} {after}"
        words = STM_ALTERNATIVES.sub(r"\1", words)
        if fields[2] not in STM_GAPS and words.strip().lower() not in STM_GAPS:
            yield Cue(where, start, end, words.strip(), fields[1], fields[2], fields[0])


PARSERS: dict[str, Callable[[str], Iterator[Cue]]] = {
    "srt": parse_srt,
    "vtt": parse_vtt,
    "ctm": parse_ctm,
    "stm": parse_stm,
    "jsonl": parse_json_lines,
    "json": parse_json,
    "sbv": parse_sbv,
    "turns": parse_turns,
    "table": parse_table,
    "ass": parse_ass,
    "ttml": parse_ttml,
    "textgrid": parse_textgrid,
    "eaf": parse_eaf,
    "exb": parse_exb,
}
XML_KINDS = {"ttml": lambda head: "<tt" in head[:1000], "eaf": is_eaf, "exb": is_exb}


def sniff(text: str) -> str | None:
    """Tell a format by its content; None if it looks like none of them."""
    head = text.lstrip()
    if head.startswith("WEBVTT"):
        return "vtt"
    lines = lines_of(text)
    if is_turns(lines):  # before JSON, which may begin with a bracket and a number as well
        return "turns"
    if JSON_HEAD.match(head):
        return _sniff_json(head)
    if is_sbv(lines):
        return "sbv"
    if head.startswith("[Script Info]"):
        return "ass"
    if head.startswith("<"):
        return next((kind for kind, is_one in XML_KINDS.items() if is_one(head)), None)
    if is_textgrid(head):
        return "textgrid"
    if is_table(lines):
        return "table"
    if ARROW in text:
        return "srt"
    first = next((line.split() for _, line in _columns(text)), [])
    if len(first) >= 5 and all(map(is_number, first[3:5])) and not is_number(first[2]):
        return "stm"
    if len(first) >= 5 and all(map(is_number, first[2:4])) and "<NA>" not in first:  # as RTTM has, without words
        return "ctm"
    return None


def _sniff_json(text: str) -> str:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        first = lines_of(text)[0]
        return "jsonl" if any(f'"{key}"' in first for key in JSON_LINE_KEYS) else "json"
    return "jsonl" if isinstance(data, dict) and any(key in data for key in JSON_LINE_KEYS) else "json"


def _subtitles(text: str, kind: str) -> Iterator[Cue]:
    screens = [screen for number, lines in _blocks(text, kind) for screen in _screens(number, lines, kind)]
    for screen in unrolled(screens):
        if kind == "srt":
            yield Cue(screen.where, screen.start_ms, screen.end_ms, _plain(screen.lines), speaker=screen.name)
            continue
        for voice, lines in _voices([raw for raw, _ in screen.lines]):
            read = "\n".join(filter(None, (_read_line(line, kind) for line in lines)))
            words = _inline(lines, screen.start_ms, screen.end_ms)
            yield Cue(screen.where, screen.start_ms, screen.end_ms, read, None, voice or screen.name, None, words)


def _screens(number: int, lines: list[str], kind: str) -> Iterator[Screen]:
    """The cues of one block, which begins at that line."""
    if kind == "vtt" and VTT_BLOCK.match(lines[0]):
        cue = next((i for i, line in enumerate(lines) if CLOCK.match(line)), 0)
        if not (cue and lines[0].startswith("WEBVTT")):
            return
        number, lines = number + cue, lines[cue:]  # the empty line after the header is missing
    # A cue may have a name or number above its time line; any more is not a cue.
    at = next((i for i, line in enumerate(lines[:2]) if ARROW in line), None)
    if at is None:
        raise TranscriptError(
            f"line {number}: no time line such as 00:00:01{_mark(kind)}000 --> 00:00:02{_mark(kind)}000"
        )
    tops = [i for i, line in enumerate(lines) if ARROW in line] + [len(lines)]
    for top, end in pairwise(tops):  # some writers leave out the empty line between cues
        where = f"line {number + top}"
        body = lines[top + 1 : end]
        # The number or name of the next cue: digits, or what stands after a line of blanks.
        if end < len(lines) and body and (body[-1].strip().isdigit() or (body[1:] and not body[-2].strip())):
            body = body[:-1]
        # pysubs2 searches for two times, and would find them inside "-00:00:01,000" and "100:00:01,000".
        events = SSAFile.from_string(f"{lines[top]}\nx\n", format_=kind).events if CLOCK.match(lines[top]) else []
        if len(events) != 1:
            raise TranscriptError(
                f"{where}: no valid times: write HH:MM:SS{_mark(kind)}mmm --> HH:MM:SS{_mark(kind)}mmm"
            )
        named = WEBEX_NAME.match(lines[0]) if top == at == 1 else None
        payload = [(line, _read_line(line, kind)) for line in body if line.strip()]
        yield Screen(where, events[0].start, events[0].end, payload, named["name"] if named else None)


def _plain(lines: list[tuple[str, str]]) -> str:
    return "\n".join(read for _, read in lines if read)


def _read_line(line: str, kind: str) -> str:
    """A line without markup, as pysubs2 reads it."""
    if kind == "vtt":
        line = VTT_TAG.sub("", VTT_CLOCK.sub("", line))
    if not any(mark in line for mark in "<{\\"):
        return line.strip()
    clock = CLOCKS_OF[kind]
    # With a mark before it: pysubs2 drops a last line of digits, which may be the customer's number.
    events = SSAFile.from_string(f"{clock}\n{MARK}{line}\n", format_=kind).events
    return " ".join(" ".join(event.plaintext for event in events).replace(MARK, "").split())


def _inline(lines: list[str], start_ms: int, end_ms: int) -> tuple[TimedWord, ...]:
    """The words of a payload with times inside: `Hi.<00:00:05.830><c> My</c>`; none where there are no times."""
    first, *rest = VTT_CLOCK.split("\n".join(lines))
    if not rest:
        return ()
    times = [
        min(max(int(h or 0) * 3_600_000 + int(m) * 60_000 + int(s) * 1000 + int(f), start_ms), end_ms)
        for h, m, s, f in zip(*(rest[i::5] for i in range(4)), strict=True)
    ]
    pieces = [" ".join(_read_line(line, "vtt") for line in piece.split("\n")) for piece in [first, *rest[4::5]]]
    spans = zip([start_ms, *times], [*times, end_ms], pieces, strict=True)
    return tuple(TimedWord(at, max(at, to), f" {piece.strip()}") for at, to, piece in spans if piece.strip())


def _mark(kind: str) -> str:
    return "." if kind == "vtt" else ","


def _voices(body: list[str]) -> list[tuple[str | None, list[str]]]:
    """Split a WebVTT payload at its voice tags; what stands before the first has no voice."""
    before, *rest = VTT_VOICE.split("\n".join(body))
    parts: list[tuple[str | None, list[str]]] = [
        (" ".join(html.unescape(n).split()) or None, t.split("\n"))
        for n, t in zip(rest[::2], rest[1::2], strict=True)
    ]
    return [(None, before.split("\n")), *parts] if before.strip() or not parts else parts


def _blocks(text: str, kind: str) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines between empty lines, each with the number of its first line.

    In WebVTT a line of blanks is no empty line: it may stand in a payload.
    """
    block: list[str] = []
    for number, line in enumerate([*lines_of(text), ""], 1):
        if line.strip() or (kind == "vtt" and line and block):
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _columns(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines_of(text), 1):
        if line.strip() and not line.lstrip().startswith(";;"):
            yield f"line {number}", line.strip()
