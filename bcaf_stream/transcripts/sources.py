"""Transcript files beside a recording: SRT, WebVTT, CTM, STM, JSON lines and Whisper's JSON, read and checked.

A transcript that does not hold together is refused as a whole, with its file, line and way out: words at the
wrong time or on the wrong side would be taken for evidence. The words themselves never appear in a message.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.channels import resolve_channel
from bcaf_stream.transcripts.formats import PARSERS, Cue, sniff
from bcaf_stream.types import Words

SUFFIXES = {".srt": "srt", ".vtt": "vtt", ".ctm": "ctm", ".stm": "stm", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FORMATS = "SRT, WebVTT, CTM, STM, JSON lines (start_ms, end_ms, channel, text) or Whisper JSON"
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
OVERHANG_MS = 1000  # the last cue of a well-made file may stay on the screen a little longer than the sound


def read_transcript(path: Path | str, channels: Sequence[str] | None = None) -> list[Words]:
    """Read a transcript; the suffix tells the format, and the content where the suffix does not.

    Args:
        path: the file, in UTF-8 (or UTF-16 with a byte order mark).
        channels: the call's channel names in order. Labels are then mapped onto them (see `resolve_channel`),
            and a cue of SRT or WebVTT that begins with "name: " belongs to that channel. None keeps the
            labels as they stand in the file.

    Returns:
        The words in the order of the file, one entry per cue, turn or word; a cue without words is left out.

    Raises:
        TranscriptError: the file is missing, empty, not text, in no known format or not parseable; a time is
            negative, an end before its start, a start before the previous start of its channel; a label names no
            channel of the call.
    """
    path = Path(path)
    text = _read(path)
    kind = SUFFIXES.get(path.suffix.lower()) or sniff(text)
    if kind is None:
        raise TranscriptError(f"{path}: not a known transcript format: give {FORMATS}")
    try:
        words = list(_checked(PARSERS[kind](text), kind, channels))
    except TranscriptError as error:
        raise TranscriptError(f"{path}, {error}") from None
    if not words:
        raise TranscriptError(f"{path}: holds no words (read as {kind}): leave it out, or give {FORMATS}")
    return words


def check_fits(words: Sequence[Words], duration_ms: int, name: str = "transcript") -> None:
    """Refuse words that lie past the end of a recording of `duration_ms`.

    Raises:
        TranscriptError: an entry starts at or after the end, or ends more than a second after it.
    """
    for number, entry in enumerate(words, 1):
        if entry.start_ms >= duration_ms or entry.end_ms > duration_ms + OVERHANG_MS:
            raise TranscriptError(
                f"{name}: entry {number} ({_clock(entry.start_ms)} to {_clock(entry.end_ms)}) lies past the end "
                f"of the sound ({_clock(duration_ms)}): is it the transcript of another recording?"
            )


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TranscriptError(f"{path}: no such transcript: check the path, or leave the transcript out") from None
    except OSError as error:
        raise TranscriptError(f"{path}: cannot be read: {error.strerror}") from None
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TranscriptError(
            f"{path}, line {line}: not {encoding.upper()} text: convert it, as with iconv -f WINDOWS-1252 -t UTF-8"
        ) from None
    if not text.strip():
        raise TranscriptError(f"{path}: empty: give {FORMATS}")
    if "\0" in text:
        raise TranscriptError(f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: not text")
    return text


def _checked(cues: Iterator[Cue], kind: str, channels: Sequence[str] | None) -> Iterator[Words]:
    latest: dict[str | None, int] = {}
    for cue in cues:
        try:
            channel, text = _attribute(cue, kind, channels)
        except TranscriptError as error:
            raise TranscriptError(f"{cue.where}: {error}") from None
        if cue.start_ms < 0:
            raise TranscriptError(
                f"{cue.where}: starts before 0; times count from the first sample of the recording"
            )
        if cue.end_ms < cue.start_ms:
            raise TranscriptError(
                f"{cue.where}: ends at {_clock(cue.end_ms)}, before its start {_clock(cue.start_ms)}"
            )
        if cue.start_ms < latest.get(channel, 0):
            raise TranscriptError(
                f"{cue.where}: starts at {_clock(cue.start_ms)}, before the one above it on the same channel "
                f"({_clock(latest[channel])}): sort the file by time"
            )
        latest[channel] = cue.start_ms
        if text:
            yield Words(cue.start_ms, cue.end_ms, text, channel)


def _attribute(cue: Cue, kind: str, channels: Sequence[str] | None) -> tuple[str | None, str]:
    text = " ".join(cue.text.split())
    if channels is None:
        return (cue.labels[-1] if cue.labels else None), text
    if not cue.labels and kind in ("srt", "vtt"):
        # Only the call's own names: "Note: ..." is speech, and must stay.
        prefix = (
            re.match(rf"({'|'.join(map(re.escape, channels))})\s*:\s*", text, re.IGNORECASE) if channels else None
        )
        if prefix:
            return resolve_channel([prefix.group(1)], channels), text[prefix.end() :]
    return resolve_channel(cue.labels, channels), text


def _clock(ms: int) -> str:
    return f"{ms / 1000:.3f} s"
