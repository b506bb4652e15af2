"""What the readers of JSON transcripts share: values with their checks, and words put together to cues."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.cues import Cue, TimedWord, joined, milliseconds, seconds, timed_cue

Json = Mapping[str, Any]
LETTERS_PER_S = 0.5  # nobody who is transcribed speaks more slowly: slower times are milliseconds


def spoken(
    where: str,
    item: Json,
    *word_keys: str,
    text_key: str,
    ms: bool = False,
    channel: str | int | None = None,
) -> Iterator[Cue]:
    """What has start, end, text and perhaps words and a speaker; cut where the speaker of its words changes."""
    read = milliseconds if ms else seconds
    speaker = person(item.get("speaker"))
    words = timed_words(where, item.get("words") or (), *word_keys, "word", "text", ms=ms)
    if len({word.speaker for word in words}) > 1:
        yield from turns((TimedWord(w.start_ms, w.end_ms, w.text, w.speaker or speaker), channel) for w in words)
        return
    text = string(where, item, text_key) if text_key in item or not words else timed_cue(where, words).text
    start, end = read(where, "start", item.get("start")), read(where, "end", item.get("end"))
    speaker = speaker or (words[0].speaker if words else None)
    yield Cue(where, start, end, text, channel, speaker, words=words_of(text, words))


def timed_words(where: str, items: Any, *keys: str, ms: bool = False) -> list[TimedWord]:
    """Words with their times; one without (WhisperX gives numbers none) takes the time between its neighbours."""
    times = [
        (("start", "end") if "start" in w else ("start_time", "end_time")) for w in items if isinstance(w, dict)
    ]
    if len(times) != len(items):
        raise TranscriptError(f"{where}: words must be JSON objects")
    read = milliseconds if ms else seconds
    known: list[tuple[int, int] | None] = []
    for item, (start, end) in zip(items, times, strict=True):
        have = item.get(start) is not None and item.get(end) is not None
        known.append((read(where, start, item[start]), read(where, end, item[end])) if have else None)
    if not any(known):
        return []
    words = []
    for place, item in enumerate(items):
        span = known[place]
        if span is None:
            before = next((k[1] for k in reversed(known[:place]) if k), None)
            after = next((k[0] for k in known[place:] if k), before)
            span = (before if before is not None else after or 0, after or 0)
        text = next((item[key] for key in keys if isinstance(item.get(key), str)), None)
        if text is None:
            raise TranscriptError(f"{where}: {keys[-1]} must be a string")
        words.append(TimedWord(span[0], max(span), text, person(item.get("speaker"))))
    return words


def turns(words: Iterable[tuple[TimedWord, str | int | None]]) -> Iterator[Cue]:
    """Cues of words, cut where the speaker or channel changes; a mark without a time joins the word before."""
    turn: list[TimedWord] = []
    side: str | int | None = None
    number = 1
    for word, channel in words:
        mark = word.start_ms == word.end_ms == 0 and channel is None and word.speaker is None and bool(turn)
        if mark and not any(c.isalnum() for c in word.text):
            last = turn[-1]
            turn[-1] = TimedWord(last.start_ms, last.end_ms, last.text + word.text, last.speaker)
            continue
        if turn and (channel != side or word.speaker != turn[-1].speaker):
            yield timed_cue(f"turn {number}", turn, side, turn[-1].speaker)
            turn, number = [], number + 1
        side = channel
        turn.append(TimedWord(word.start_ms, word.end_ms, " " + word.text.strip(), word.speaker))
    if turn:
        yield timed_cue(f"turn {number}", turn, side, turn[-1].speaker)


def with_marks(words: Iterable[TimedWord]) -> list[TimedWord]:
    """The same with punctuation, which begins without a space and has no time, at the word before it."""
    kept: list[TimedWord] = []
    for word in words:
        if kept and not word.text.startswith(" "):
            kept[-1] = TimedWord(kept[-1].start_ms, kept[-1].end_ms, kept[-1].text + word.text)
        else:
            kept.append(word)
    return kept


def words_of(text: str, words: list[TimedWord]) -> tuple[TimedWord, ...]:
    """The timed words of a text, if they are all of it: what they leave out would be lost."""
    whole = joined(words)
    same = "".join("".join(w.text.split()) for w in whole) == "".join(text.split())
    return whole if whole and same else ()


def looks_like_ms(items: Iterable[Any]) -> bool:
    spans = [
        (item["end"] - item["start"], len(str(item.get("text", ""))))
        for item in items
        if isinstance(item, dict) and all(isinstance(item.get(k), int) for k in ("start", "end"))
    ]
    length = sum(span for span, _ in spans)
    return bool(spans) and sum(letters for _, letters in spans) < LETTERS_PER_S * length


def channel_position(label: Any) -> str | int | None:
    """The position in ch_0, ch_1; other labels as they are."""
    if isinstance(label, str) and (found := re.match(r"ch_(\d+)$", label)):
        return int(found[1])
    return label if isinstance(label, str | int) else None


def person(raw: Any) -> str | None:
    """A speaker's name; a bare number is `speaker 0`."""
    if raw is None or isinstance(raw, dict | list | bool) or not str(raw).strip():
        return None
    return f"speaker {raw}" if str(raw).isdigit() else " ".join(str(raw).split())


def first(items: Any, default: Json | None = None) -> Json:
    found = items[0] if isinstance(items, list) and items else default
    return found if isinstance(found, dict) else {}


def either(item: Json, *keys: str) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def has(item: Any, *keys: str) -> bool:
    return isinstance(item, dict) and all(key in item for key in keys)


def any_has(items: Any, *keys: str) -> bool:
    return isinstance(items, list) and any(has(item, *keys) for item in items)


def string(where: str, item: Json, key: str) -> str:
    if not isinstance(item.get(key), str):
        raise TranscriptError(f"{where}: {key} must be a string")
    return str(item[key])


def loads(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TranscriptError(f"{where or f'line {error.lineno}'}: not valid JSON: {error.msg}") from None
    except (RecursionError, ValueError):
        raise TranscriptError(
            f"{where or 'line 1'}: not valid JSON: nested too deep, or a number too long"
        ) from None


def json_object(where: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise TranscriptError(f"{where}: must be a JSON object")
    return item


def numbered(what: str, items: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a list, and what messages call it: `what` and its number from 1. Raises TranscriptError."""
    for number, item in enumerate(items, 1):
        where = f"{what} {number}"
        yield where, json_object(where, item)
