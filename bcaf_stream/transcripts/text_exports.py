"""What meeting tools and players export as text with times: turns (.txt), YouTube's .sbv, tables, ASS and TTML.

Of the turns there are two layouts, and no standard. Otter, Teams and Rev write a line with a name and a clock, and
below it what was said; Descript, Trint, Whisper's own output and song texts (LRC) write the clock in brackets
before it. Most turns have no end: it is the next one's start. Lines above the first clock are a title.
"""

import re
from collections.abc import Iterator

from pysubs2 import SSAFile
from pysubs2.exceptions import Pysubs2Error

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.cues import Cue, lines_of, seconds

_CLOCK = r"(?:\d{1,2}:)?\d{1,3}:\d{2}(?:[.,]\d{1,3})?"
BOXED = re.compile(rf"\s*[\[(]({_CLOCK})(?:\s*(?:-->|-|\u2013)\s*({_CLOCK}))?[\])]\s*(.*)")
NAMED = re.compile(rf"\s*([^\W\d_][^\[\]<>{{}}|:]{{0,59}}?)\s+[\[(]?({_CLOCK})[\])]?\s*:?\s*$")
ALONE = re.compile(rf"\s*({_CLOCK})\s*$")
SBV_TIMES = re.compile(r"\s*(\d{1,2}:\d{2}:\d{2}\.\d{3}),(\d{1,2}:\d{2}:\d{2}\.\d{3})\s*$")
TRAILER = re.compile(
    r"\s*(?:transcribed by|transcript(?:ion)? (?:by|created)|recorded by)\b.*otter|\s*https?://\S+\s*$", re.I
)
TITLE_LINES = 20  # at most, above the first clock
TABLE_HEAD = ["start", "end", "text"]


def is_sbv(lines: list[str]) -> bool:
    first = next((line for line in lines if line.strip()), "")
    return SBV_TIMES.match(first) is not None


def is_turns(lines: list[str]) -> bool:
    heads = [number for number, line in enumerate(lines) if _head(line) is not None]
    return len(heads) >= 2 and heads[0] < TITLE_LINES


def is_table(lines: list[str]) -> bool:
    """Whether it is Whisper's TSV, or Audacity's labels: seconds, seconds, words."""
    rows = [line.split("\t") for line in lines if line.strip()]
    if not rows or any(len(row) < 3 for row in rows):
        return False
    return rows[0][:3] == TABLE_HEAD or all(re.fullmatch(r"\d+[.]\d+", cell) for cell in rows[0][:2])


def parse_sbv(text: str) -> Iterator[Cue]:
    """YouTube's .sbv: a line `0:00:01.000,0:00:02.000`, what is said below it, an empty line."""
    start_ms, end_ms, where, said = 0, 0, "", list[str]()
    for number, line in enumerate(lines_of(text), 1):
        times = SBV_TIMES.match(line)
        if times:
            if where:
                yield Cue(where, start_ms, end_ms, "\n".join(said))
            where, said = f"line {number}", []
            start_ms, end_ms = _ms(times[1]), _ms(times[2])
        elif where and line.strip():
            said.append(line.strip())
        elif line.strip():
            raise TranscriptError(f"line {number}: no time line such as 0:00:01.000,0:00:02.000 before it")
    if where:
        yield Cue(where, start_ms, end_ms, "\n".join(said))


def parse_turns(text: str) -> Iterator[Cue]:
    """Text with a clock, and mostly a name, at each turn."""
    turn: Cue | None = None
    said: list[str] = []
    for number, line in enumerate(lines_of(text), 1):
        head = _head(line)
        if head is None:
            if line.strip() and not TRAILER.match(line):
                said.append(line.strip())
            continue
        if turn is not None:
            yield Cue(turn.where, turn.start_ms, turn.end_ms, "\n".join(said), speaker=turn.speaker)
        name, start, end, rest = head
        turn = Cue(f"line {number}", _ms(start), _ms(end) if end else None, "", speaker=name)
        said = [rest.strip()] if rest.strip() else []
    if turn is not None:
        yield Cue(turn.where, turn.start_ms, turn.end_ms, "\n".join(said), speaker=turn.speaker)


def parse_table(text: str) -> Iterator[Cue]:
    rows = [(number, line.split("\t")) for number, line in enumerate(lines_of(text), 1) if line.strip()]
    in_ms = bool(rows) and rows[0][1][:3] == TABLE_HEAD
    for number, row in rows[in_ms:]:
        where = f"line {number}"
        if len(row) < 3:
            raise TranscriptError(f"{where}: needs start, end and text, with tabs between them")
        start_ms, end_ms = (seconds(where, name, cell) for name, cell in zip(TABLE_HEAD[:2], row[:2], strict=True))
        if in_ms:
            start_ms, end_ms = start_ms // 1000, end_ms // 1000
        yield Cue(where, start_ms, end_ms, " ".join(row[2:]))


def parse_ass(text: str) -> Iterator[Cue]:
    return _pysubs2(text, "ass")


def parse_ttml(text: str) -> Iterator[Cue]:
    return _pysubs2(text, "ttml")


def _pysubs2(text: str, kind: str) -> Iterator[Cue]:
    try:
        events = SSAFile.from_string(text, format_=kind).events
    except (Pysubs2Error, ValueError, SyntaxError) as error:
        raise TranscriptError(f"line 1: cannot be read as {kind.upper()}: {type(error).__name__}") from None
    for number, event in enumerate(events, 1):
        if not event.is_comment and not event.is_drawing:
            yield Cue(
                f"event {number}", event.start, event.end, event.plaintext, speaker=event.name.strip() or None
            )


def _head(line: str) -> tuple[str | None, str, str | None, str] | None:
    """Name, start, end and what is said on the line that begins a turn; None for any other line."""
    if (boxed := BOXED.match(line)) is not None:
        return None, boxed[1], boxed[2], boxed[3]
    if (named := NAMED.match(line)) is not None:
        return " ".join(named[1].split()), named[2], None, ""
    alone = ALONE.match(line)
    return (None, alone[1], None, "") if alone else None


def _ms(clock: str) -> int:
    """[H:]M:SS[.fff] in ms."""
    whole, _, part = clock.replace(",", ".").partition(".")
    total = 0
    for field in whole.split(":"):
        total = 60 * total + int(field)
    return 1000 * total + int(part.ljust(3, "0") or 0)
