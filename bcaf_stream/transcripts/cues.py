"""What every parser gives: cues with their place in the file, and the checks that parsers share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bcaf_stream.errors import TranscriptError


@dataclass(frozen=True, slots=True)
class TimedWord:
    """One word of a cue, as the file writes it; `speaker` where the file names one for the word itself."""

    start_ms: int
    end_ms: int
    text: str
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Cue:
    """Words of a transcript, not yet checked or cleaned.

    `where` is for messages. `text` keeps the file's lines. `words` has the same words with their own times, where
    the file has them. `channel` is the label of a channel, or its position from 0; `speaker` a person's name;
    `recording` the name of the recording where one file may hold several. An `end_ms` of None: until the next cue.
    """

    where: str
    start_ms: int
    end_ms: int | None
    text: str
    channel: str | int | None = None
    speaker: str | None = None
    recording: str | None = None
    words: tuple[TimedWord, ...] = ()


def timed_cue(
    where: str,
    words: Sequence[TimedWord],
    channel: str | int | None = None,
    speaker: str | None = None,
    recording: str | None = None,
) -> Cue:
    """A cue of words that all have times, of which there is at least one."""
    pieces = joined(words)
    text = " ".join(word.text.strip() for word in pieces)
    start, end = min(word.start_ms for word in words), max(word.end_ms for word in words)
    return Cue(where, start, end, text, channel, speaker, recording, pieces)


def joined(words: Sequence[TimedWord]) -> tuple[TimedWord, ...]:
    """Whole words from tokens: where some begin with a space, one that does not belongs to the word before it."""
    if not any(word.text[:1].isspace() for word in words):
        return tuple(words)
    whole: list[TimedWord] = []
    for word in words:
        if whole and word.text[:1] and not word.text[:1].isspace():
            last = whole[-1]
            end_ms = max(last.end_ms, word.end_ms)
            whole[-1] = TimedWord(last.start_ms, end_ms, last.text + word.text, last.speaker)
        else:
            whole.append(word)
    return tuple(whole)


def seconds(where: str, name: str, raw: Any) -> int:
    """A number of seconds, also written as a string, in ms."""
    if isinstance(raw, bool) or not isinstance(raw, str | int | float) or not is_number(raw):
        raise TranscriptError(f"{where}: {name} must be a number of seconds")
    return round(float(raw) * 1000)


def milliseconds(where: str, name: str, raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not is_number(raw):
        raise TranscriptError(f"{where}: {name} must be a number of milliseconds")
    return round(raw)


def is_number(raw: str | int | float) -> bool:
    try:
        return math.isfinite(float(raw))
    except (ValueError, OverflowError):
        return False


def lines_of(text: str) -> list[str]:
    # Not splitlines(): it also cuts at U+2028 and form feeds, which JSON strings and cues may hold.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
