"""Transcript files beside a recording (subtitles, CTM, STM, JSON lines, recognisers' JSON), read and checked.

A transcript that does not hold together is refused as a whole, with its file, line and way out: words at the
wrong time or on the wrong side would be taken for evidence. The words themselves never appear in a message.
"""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.channels import Attribution, called
from bcaf_stream.transcripts.cleanup import blank_marks, mend, mend_encoding
from bcaf_stream.transcripts.cues import Cue, TimedWord
from bcaf_stream.transcripts.formats import PARSERS, sniff
from bcaf_stream.transcripts.names import Names, Part
from bcaf_stream.types import Channel, Words

SUFFIXES = {".srt": "srt", ".vtt": "vtt", ".ctm": "ctm", ".stm": "stm", ".jsonl": "jsonl", ".ndjson": "jsonl"}
SUFFIXES |= {".sbv": "sbv", ".ass": "ass", ".ssa": "ass", ".ttml": "ttml", ".dfxp": "ttml", ".lrc": "turns"}
SUFFIXES |= {".textgrid": "textgrid", ".eaf": "eaf", ".exb": "exb"}
FORMATS = (
    "SRT, WebVTT, SBV, ASS, TTML, CTM, STM, JSON lines (start_ms, end_ms, channel, text), a recogniser's JSON,"
    " a TextGrid, EAF or EXB, or text with a clock at each turn"
)
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
ZIP = b"PK\x03\x04"  # DOCX, ODT, XLSX
OVERHANG_MS = 1000  # the last cue of a well-made file may stay on the screen a little longer than the sound
BREATH_MS, LONGEST_CUE_MS = 400, 10_000
MS_PER_CHAR = 80  # of speech whose end is not known
LEAST_MS_PER_CHAR, MANY_LETTERS = 5, 100  # the fastest speakers need 30 ms for a letter
NOTHING = Words(0, 0, "")  # a transcript in which nothing is said is still a transcript


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of a file in order of time, one entry per cue, turn or word.

    `lanes` are the speakers, where the call has one channel and the file tells them apart: the words have these
    for channels, and the sound is to be cut between them. `notes` are for the user, a line each.
    """

    words: list[Words]
    lanes: tuple[Channel, ...] = ()
    notes: tuple[str, ...] = ()


def read_transcript(
    path: Path | str,
    channels: Sequence[Channel] | None = None,
    speakers: Mapping[str, str] = MappingProxyType({}),
    recordings: Mapping[str, str | None] = MappingProxyType({}),
) -> Transcript:
    """Read a transcript; the suffix tells the format, and the content where the suffix does not.

    Args:
        path: the file, in UTF-8 (or UTF-16 with a byte order mark).
        channels: the call's channels in order. The file's labels and names are mapped onto them (see
            `Attribution`). None keeps them as they stand in the file.
        speakers: name in the file -> channel or role, as the user says.
        recordings: the names of the recording's files, each with the channel that it holds, or None for all: of a
            file with rows of several recordings only those of these are read.

    Raises:
        TranscriptError: the file is missing, empty, not text, in no known format or not parseable; it holds rows
            of other recordings alone; a time is negative, an end before its start; two transcripts lie over each
            other; a label names no channel of the call.
        UsageError: a speaker's target is neither a channel nor a role.
    """
    path = Path(path)
    text = _read(path)
    kind = SUFFIXES.get(path.suffix.lower()) or sniff(text) or ("json" if path.suffix.lower() == ".json" else None)
    if kind is None:
        raise TranscriptError(f"{path}: not a known transcript format: give {FORMATS}")
    try:
        cues = [_mended(cue) for cue in PARSERS[kind](text)]
        for cue in cues:
            _check_times(cue)
        cues, other = _of_recording(cues, recordings)
        _check_pace(cues)
        _check_one_clock(cues)
        cues = _ended(sorted(cues, key=lambda cue: cue.start_ms))
        known = [channel.name for channel in channels or ()]
        names = Names([_text_of(cue) for cue in cues if cue.speaker is None], [*known, *speakers])
        parts = [part for cue in cues for part in _by_name(cue, names)]
        attribution = None if channels is None else Attribution(channels, speakers, parts)
        words = list(_attributed(parts, attribution))
    except TranscriptError as error:
        raise TranscriptError(f"{path}, {error}") from None
    if not cues:
        raise TranscriptError(f"{path}: holds no words (read as {kind}): leave it out, or give {FORMATS}")
    notes = [f"{path}: read as the transcript of this recording, though it says {other!r}"] if other else []
    if not words:
        notes.append(
            f"{path}: holds no words, only marks such as [MUSIC]: what is said is judged by its sound alone"
        )
    if attribution is not None and attribution.note:
        notes.append(f"{path}: {attribution.note}")
    return Transcript(words or [NOTHING], attribution.lanes if attribution else (), tuple(notes))


def check_fits(words: Sequence[Words], duration_ms: int, name: str = "transcript") -> None:
    """Refuse words that lie past the end of a recording of `duration_ms`.

    Raises:
        TranscriptError: an entry starts at or after the end, or ends more than a second after it.
    """
    for number, entry in enumerate(words, 1):
        if entry.text and (entry.start_ms >= duration_ms or entry.end_ms > duration_ms + OVERHANG_MS):
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
    if data.startswith(ZIP):
        raise TranscriptError(f"{path}: is a packed document, not text: save it as plain text with its times")
    if "\0" in text:
        raise TranscriptError(f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: not text")
    return mend_encoding(text)  # before anything takes U+0085, which was three dots, for the end of a line


def _mended(cue: Cue) -> Cue:
    words = tuple(replace(word, text=mend(word.text)) for word in cue.words)
    speaker = mend(cue.speaker).strip() if cue.speaker else None
    return replace(cue, text=mend(cue.text), words=words, speaker=speaker or None)


def _check_times(cue: Cue) -> None:
    if cue.start_ms < 0:
        raise TranscriptError(f"{cue.where}: starts before 0; times count from the first sample of the recording")
    if cue.end_ms is not None and cue.end_ms < cue.start_ms:
        raise TranscriptError(
            f"{cue.where}: ends at {_clock(cue.end_ms)}, before its start {_clock(cue.start_ms)}"
        )


def _of_recording(cues: list[Cue], recordings: Mapping[str, str | None]) -> tuple[list[Cue], str | None]:
    """The cues of this recording; and whose they are said to be, where that is another name, but the only one."""
    there = dict.fromkeys(cue.recording for cue in cues if cue.recording is not None)
    known = {name.casefold(): channel for name, channel in recordings.items()}
    mine = [name for name in there if name.casefold() in known]
    if mine:
        own = {name: known[name.casefold()] for name in mine}
        kept = [cue for cue in cues if cue.recording is None or cue.recording in own]
        return [replace(c, channel=own.get(c.recording or "") or c.channel) for c in kept], None
    if len(there) > 1:
        listed = ", ".join(list(there)[:8]) + (" ..." if len(there) > 8 else "")
        raise TranscriptError(
            f"rows of {len(there)} recordings, none of them this one: {listed}; say which with --call NAME"
        )
    return cues, next(iter(there), None) if recordings else None


def _check_pace(cues: Sequence[Cue]) -> None:
    """Refuse seconds that were read as milliseconds: all words would lie in the first moment of the call."""
    ends = [cue.end_ms for cue in cues if cue.end_ms is not None]
    letters = sum(len(_text_of(cue)) for cue in cues)
    if len(ends) == len(cues) and letters > MANY_LETTERS and letters * LEAST_MS_PER_CHAR > max(ends):
        raise TranscriptError(
            f"{cues[0].where}: all {letters} letters lie before {_clock(max(ends))}; are its times in another unit"
            " than its format has?"
        )


def _check_one_clock(cues: Sequence[Cue]) -> None:
    """Refuse two transcripts in one file: where the times fall back, and lie over what was before."""
    latest: dict[tuple[object, object], list[Cue]] = {}
    for cue in cues:
        if cue.words and len(cue.words) == 1:
            continue  # a word of a table: several may be said at once
        before = latest.setdefault((cue.channel, cue.speaker), [])
        if before and cue.start_ms < before[-1].start_ms:
            over = sum(_covers(b, cue) for b in before)
            rest = [c for c in cues[cues.index(cue) :] if (c.channel, c.speaker) == (cue.channel, cue.speaker)]
            clashes = sum(any(_covers(b, c) for b in before) for c in rest[:8])
            if over and len(before) >= 2 and clashes >= 2 and 2 * clashes >= len(rest[:8]):
                raise TranscriptError(
                    f"{cue.where}: the times begin again at {_clock(cue.start_ms)}, over what stands before it: "
                    "are these two transcripts in one file? give one of them"
                )
        before.append(cue)


def _covers(one: Cue, other: Cue) -> bool:
    """Whether at least half of the shorter lies in the longer."""
    ends = [c.start_ms if c.end_ms is None else c.end_ms for c in (one, other)]
    common = min(ends) - max(one.start_ms, other.start_ms)
    return common > 0 and 2 * common >= min(ends[0] - one.start_ms, ends[1] - other.start_ms)


def _ended(cues: Sequence[Cue]) -> list[Cue]:
    """The same with an end for each: where the file has none, the next one's start, or what its letters last."""
    done = []
    for cue, following in pairwise([*cues, None]):
        assert cue is not None
        end_ms = cue.end_ms
        if end_ms is None:
            guess = cue.start_ms + MS_PER_CHAR * len(cue.text)
            end_ms = min(guess, following.start_ms) if following else guess
        done.append(replace(cue, end_ms=end_ms))
    return done


def _text_of(cue: Cue) -> str:
    return " ".join(word.text.strip() for word in cue.words) if cue.words else cue.text


def _by_name(cue: Cue, names: Names) -> Iterator[Cue]:
    """A cue as one or more cues of one speaker each, with spaces where a name or a mark stood."""
    text = _text_of(cue)
    parts = names.split(text) if cue.speaker is None else [Part(cue.speaker, 0, len(text))]
    blanked = blank_marks(text)
    start_ms, end_ms = cue.start_ms, cue.start_ms if cue.end_ms is None else cue.end_ms
    letters = [sum(map(len, blanked[part.start : part.end].split())) for part in parts]
    spans = [0, *(sum(letters[: i + 1]) for i in range(len(letters)))]
    length = (end_ms - start_ms) / max(1, spans[-1])
    for part, (before, after) in zip(parts, pairwise(spans), strict=True):
        speaker = cue.speaker or part.speaker
        if cue.words:
            words = tuple(_cut_out(cue.words, blanked, part))
            if words:
                yield replace(cue, start_ms=words[0].start_ms, text="", speaker=speaker, words=words)
            continue
        said = blanked[part.start : part.end]
        a, b = (start_ms + round(length * n) for n in (before, after))
        if len(parts) == 1:
            a, b = start_ms, end_ms
        if _holds_words(said) or part.speaker:
            yield replace(cue, start_ms=a, end_ms=b, text=" ".join(said.split()), speaker=speaker)


def _cut_out(words: Sequence[TimedWord], blanked: str, part: Part) -> Iterator[TimedWord]:
    """The words of the joined text that lie in the part, as they are left in it."""
    at = 0
    for word in words:
        end = at + len(word.text.strip())
        left = " ".join(blanked[max(at, part.start) : min(end, part.end)].split())
        if _holds_words(left):
            yield replace(word, text=left)
        at = end + 1


def _holds_words(text: str) -> bool:
    return any(letter.isalnum() for letter in text)


def _attributed(cues: Sequence[Cue], attribution: Attribution | None) -> Iterator[Words]:
    before: str | None = None
    found = []
    for cue in cues:
        try:
            channel = called(cue) if attribution is None else attribution.channel(cue)
        except TranscriptError as error:
            raise TranscriptError(f"{cue.where}: {error}") from None
        if attribution is not None and attribution.lanes:
            channel = before = channel or before  # captions name a speaker where the speaker changes
        if cue.words and channel is None and cue.speaker:
            found += _breaths(cue.words)
        elif cue.words:
            found += [Words(w.start_ms, w.end_ms, w.text, channel) for w in cue.words]
        elif _holds_words(cue.text):
            assert cue.end_ms is not None
            found.append(Words(cue.start_ms, cue.end_ms, cue.text, channel))
    yield from sorted(found, key=lambda words: words.start_ms)


def _breaths(words: Sequence[TimedWord]) -> list[Words]:
    """What a speaker of an unknown channel says without a pause, as cues that stay whole."""
    runs: list[list[TimedWord]] = []
    for word in words:
        run = runs[-1] if runs else None
        if run and word.start_ms - run[-1].end_ms <= BREATH_MS and word.end_ms - run[0].start_ms <= LONGEST_CUE_MS:
            run.append(word)
        else:
            runs.append([word])
    return [
        Words(run[0].start_ms, max(w.end_ms for w in run), " ".join(w.text for w in run), None) for run in runs
    ]


def _clock(ms: int) -> str:
    return f"{ms / 1000:.3f} s"
