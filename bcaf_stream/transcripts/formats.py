"""The transcript formats as pure parsers: decoded text in, cues with their place in the file out.

pysubs2 reads the time stamps and the markup of SRT and WebVTT, one cue at a time: given a whole file it takes
WebVTT notes and cue names for speech, a last line of digits for the next cue's number, and a broken time line
for words, and it knows no line numbers. CTM (NIST: file, channel, start, duration, word) and STM (NIST: file,
channel, speaker, start, end, [<label>], text) are columns of seconds.
"""

import html
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pysubs2 import SSAFile

from bcaf_stream.errors import TranscriptError

ARROW = "-->"
CLOCK = re.compile(r"\s*(?:\d{1,2}:)?\d{1,2}:\d{2}[.,]\d{1,3}\s*-->\s*(?:\d{1,2}:)?\d{1,2}:\d{2}[.,]\d{1,3}(\s|$)")
VTT_BLOCK = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)(\s|$)")
VTT_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
VTT_CLOCK = re.compile(r"<[\d:.]+>")  # a time inside the payload: pysubs2 would take two of them for a time line
STM_LABEL = re.compile(r"<[^>]*>$")
STM_GAPS = {"inter_segment_gap", "ignore_time_segment_in_scoring"}


@dataclass(frozen=True, slots=True)
class Cue:
    """Words of a transcript, not yet checked; `where` is for messages, `labels` name the channel, best first."""

    where: str
    start_ms: int
    end_ms: int
    text: str
    labels: tuple[str, ...] = ()


def parse_srt(text: str) -> Iterator[Cue]:
    return _subtitles(text, "srt")


def parse_vtt(text: str) -> Iterator[Cue]:
    """WebVTT; a voice tag `<v Name>` is the channel, and a cue with several voices becomes several cues."""
    return _subtitles(text, "vtt")


def parse_ctm(text: str) -> Iterator[Cue]:
    for where, line in _columns(text):
        fields = line.split()
        if len(fields) < 5:
            raise TranscriptError(
                f"{where}: CTM needs file, channel, start, duration and word; {len(fields)} given"
            )
        start, duration = _seconds(where, "start", fields[2]), _seconds(where, "duration", fields[3])
        if duration < 0:
            raise TranscriptError(f"{where}: the duration is negative")
        yield Cue(where, start, start + duration, fields[4], (fields[1],))


def parse_stm(text: str) -> Iterator[Cue]:
    for where, line in _columns(text):
        fields = line.split(maxsplit=5)
        if len(fields) < 5:
            raise TranscriptError(
                f"{where}: STM needs file, channel, speaker, start, end and text; {len(fields)} given"
            )
        start, end = _seconds(where, "start", fields[3]), _seconds(where, "end", fields[4])
        label, _, after = (fields[5] if len(fields) > 5 else "").partition(" ")
        words = after if STM_LABEL.match(label) else f"{label} {after}"
        if fields[2] not in STM_GAPS and words.strip().lower() not in STM_GAPS:
            yield Cue(where, start, end, words, (fields[2], fields[1]))


def parse_jsonl(text: str) -> Iterator[Cue]:
    """One object per line: `start_ms`, `end_ms`, `text`, and `channel` or null; other keys are left alone."""
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        item = _object(where, _loads(where, line))
        start, end = (_milliseconds(where, item, key) for key in ("start_ms", "end_ms"))
        channel = item.get("channel")
        if channel is not None and not isinstance(channel, str):
            raise TranscriptError(f"{where}: channel must be a name or null")
        yield Cue(where, start, end, _text(where, item, "text"), () if channel is None else (channel,))


def parse_whisper(text: str) -> Iterator[Cue]:
    """openai-whisper's result: its `segments` (or their bare list), word by word where every word has a time."""
    data = _loads("", text)
    segments = data.get("segments") if isinstance(data, dict) else data
    if not isinstance(segments, list):
        raise TranscriptError("no list of segments: Whisper's JSON result has a key `segments`")
    for number, raw in enumerate(segments, 1):
        where = f"segment {number}"
        segment = _object(where, raw)
        words = segment.get("words")
        timed = isinstance(words, list) and all(isinstance(w, dict) and "start" in w and "end" in w for w in words)
        for item, key in ((w, "word") for w in words) if words and timed else ((segment, "text"),):
            start, end = _seconds(where, "start", item.get("start")), _seconds(where, "end", item.get("end"))
            yield Cue(where, start, end, _text(where, item, key))


PARSERS: dict[str, Callable[[str], Iterator[Cue]]] = {
    "srt": parse_srt,
    "vtt": parse_vtt,
    "ctm": parse_ctm,
    "stm": parse_stm,
    "jsonl": parse_jsonl,
    "whisper": parse_whisper,
}


def sniff(text: str) -> str | None:
    """Tell a format by its content; None if it looks like none of them."""
    head = text.lstrip()
    if head.startswith("WEBVTT"):
        return "vtt"
    if head.startswith(("{", "[")):
        return _sniff_json(head)
    if ARROW in text:
        return "srt"
    first = next((line.split() for _, line in _columns(text)), [])
    if len(first) >= 5 and all(map(_is_number, first[3:5])) and not _is_number(first[2]):
        return "stm"
    return "ctm" if len(first) >= 5 and all(map(_is_number, first[2:4])) else None


def _sniff_json(text: str) -> str:
    try:
        data = json.loads(text)
    except ValueError:
        first = _lines(text)[0]
        return "jsonl" if '"start_ms"' in first else "whisper"
    return "jsonl" if isinstance(data, dict) and "start_ms" in data else "whisper"


def _subtitles(text: str, kind: str) -> Iterator[Cue]:
    for number, lines in _blocks(text):
        if kind == "vtt" and VTT_BLOCK.match(lines[0]):
            continue
        # A cue may have a name or number above its time line; any more is not a cue.
        at = next((i for i, line in enumerate(lines[:2]) if ARROW in line), None)
        if at is None:
            raise TranscriptError(
                f"line {number}: no time line such as 00:00:01{_mark(kind)}000 --> 00:00:02{_mark(kind)}000"
            )
        tops = [i for i, line in enumerate(lines) if ARROW in line] + [len(lines)]
        for top, end in pairwise(tops):  # some writers leave out the empty line between cues
            body = lines[top + 1 : end]
            if end < len(lines) and body and body[-1].strip().isdigit():
                body = body[:-1]
            yield from _cue(f"line {number + top}", lines[top], " ".join(body), kind)


def _cue(where: str, clock: str, payload: str, kind: str) -> Iterator[Cue]:
    # One line of payload: pysubs2 drops a last line of digits, which may be the customer's number.
    for voice, part in _voices(payload) if kind == "vtt" else [(None, payload)]:
        # pysubs2 searches for two times, and would find them inside "-00:00:01,000" and "100:00:01,000".
        events = SSAFile.from_string(f"{clock}\n{part}\n", format_=kind).events if CLOCK.match(clock) else []
        if len(events) != 1:
            raise TranscriptError(
                f"{where}: no valid times: write HH:MM:SS{_mark(kind)}mmm --> HH:MM:SS{_mark(kind)}mmm"
            )
        words = events[0].plaintext
        yield Cue(
            where,
            events[0].start,
            events[0].end,
            html.unescape(words) if kind == "vtt" else words,
            () if voice is None else (voice,),
        )


def _mark(kind: str) -> str:
    return "." if kind == "vtt" else ","


def _voices(payload: str) -> list[tuple[str | None, str]]:
    """Split a WebVTT payload at its voice tags; what stands before the first has no voice."""
    before, *rest = VTT_VOICE.split(VTT_CLOCK.sub("", payload))
    parts: list[tuple[str | None, str]] = [
        (html.unescape(n).strip(), t) for n, t in zip(rest[::2], rest[1::2], strict=True)
    ]
    return [(None, before), *parts] if before.strip() or not parts else parts


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines between empty lines, each with the number of its first line."""
    block: list[str] = []
    for number, line in enumerate([*_lines(text), ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _lines(text: str) -> list[str]:
    # Not splitlines(): it also cuts at U+2028 and form feeds, which JSON strings and cues may hold.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _columns(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_lines(text), 1):
        if line.strip() and not line.lstrip().startswith(";;"):
            yield f"line {number}", line.strip()


def _is_number(raw: str) -> bool:
    try:
        return math.isfinite(float(raw))
    except ValueError:
        return False


def _seconds(where: str, name: str, raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float) or not _is_number(str(raw)):
        raise TranscriptError(f"{where}: {name} must be a number of seconds")
    return round(float(raw) * 1000)


def _milliseconds(where: str, item: dict[str, Any], key: str) -> int:
    raw = item.get(key)
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise TranscriptError(f"{where}: {key} must be a number of milliseconds")
    return round(raw)


def _text(where: str, item: dict[str, Any], key: str) -> str:
    if not isinstance(item.get(key), str):
        raise TranscriptError(f"{where}: {key} must be a string")
    return str(item[key])


def _loads(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TranscriptError(f"{where or f'line {error.lineno}'}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise TranscriptError(f"{where or 'line 1'}: not valid JSON: nested too deep") from None


def _object(where: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise TranscriptError(f"{where}: must be a JSON object")
    return item
