"""JSON of transcription services: Deepgram, ElevenLabs, AssemblyAI, Rev AI, Speechmatics."""

from collections.abc import Iterator
from typing import Any

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.cues import Cue, TimedWord, seconds, timed_cue
from bcaf_stream.transcripts.json_values import (
    any_has,
    first,
    has,
    json_object,
    looks_like_ms,
    numbered,
    person,
    spoken,
    string,
    timed_words,
    turns,
)


def is_deepgram(data: Any) -> bool:
    results = data.get("results") if isinstance(data, dict) else None
    return isinstance(results, dict) and ("channels" in results or "utterances" in results)


def read_deepgram(data: Any) -> Iterator[Cue]:
    """Deepgram: words by channel where there are several channels, by `speaker` where it was asked to diarize."""
    results = data["results"]
    channels = results.get("channels") or ()
    if not channels:
        for where, utterance in numbered("utterance", results["utterances"]):
            channel = utterance.get("channel")
            yield from spoken(where, utterance, "punctuated_word", text_key="transcript", channel=channel)
        return
    for position, raw in enumerate(channels):
        where = f"channel {position}"
        best = first(json_object(where, raw).get("alternatives"))
        words = timed_words(where, best.get("words") or (), "punctuated_word", "word")
        if best.get("transcript") and not words:
            raise TranscriptError(f"{where}: has no words with times")
        yield from turns((word, position if len(channels) > 1 else None) for word in words)


def is_eleven_labs(data: Any) -> bool:
    if not isinstance(data, dict):
        return False
    results = data["transcripts"] if isinstance(data.get("transcripts"), list) else [data]
    return any(any_has(result.get("words"), "text", "type") for result in results)


def read_eleven_labs(data: Any) -> Iterator[Cue]:
    """ElevenLabs: words, blanks and sounds in one list, with `speaker_id`; a list for each of several channels."""
    for position, raw in enumerate(data.get("transcripts") or [data]):
        where = f"transcript {position + 1}"
        result = json_object(where, raw)
        items = [
            dict(w, speaker=w.get("speaker_id")) for w in result.get("words") or () if w.get("type") == "word"
        ]
        channel = result.get("channel_index", position) if "transcripts" in data else None
        yield from turns((word, channel) for word in timed_words(where, items, "text"))


def is_assembly_ai(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and has(data[0], "start", "end", "text") and "confidence" in data[0]
    if not isinstance(data, dict):
        return False
    lists = [data.get(key) for key in ("utterances", "sentences", "paragraphs", "words")]
    # Its times are whole ms; where they have fractions, they are seconds of a service that is not known here.
    return any(
        isinstance(items, list)
        and any_has(items, "text", "start", "end")
        and not any(isinstance(item.get("start"), float) for item in items)
        for items in lists
    )


def read_assembly_ai(data: Any) -> Iterator[Cue]:
    """AssemblyAI: ms; the whole result, or its utterances, sentences or paragraphs alone."""
    items = data if isinstance(data, list) else None
    for key in ("utterances", "sentences", "paragraphs"):
        items = items or data.get(key)
    if not items:
        words = timed_words("the result", data["words"], "text", ms=True)
        yield from turns((word, None) for word in words)
        return
    in_ms = looks_like_ms(items)
    for where, item in numbered("utterance", items):
        channel = item.get("channel")
        side = int(channel) - 1 if isinstance(channel, str | int) and str(channel).isdigit() else None
        yield from spoken(where, item, "text", ms=in_ms, text_key="text", channel=side)


def is_rev(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("monologues"), list)


def read_rev(data: Any) -> Iterator[Cue]:
    """Rev AI: monologues of elements; punctuation and the blanks between words are elements of their own."""
    names = {
        str(s.get("id")): s.get("display_name") or s.get("name")
        for s in data.get("speakers") or ()
        if isinstance(s, dict)
    }
    for where, monologue in numbered("monologue", data["monologues"]):
        words: list[TimedWord] = []
        for element in monologue.get("elements") or ():
            value = string(where, json_object(where, element), "value")
            if element.get("type") == "text":
                start, end = (seconds(where, key, element.get(key)) for key in ("ts", "end_ts"))
                words.append(TimedWord(start, end, value))
            elif element.get("type") == "punct" and words and value.strip():
                last = words[-1]
                words[-1] = TimedWord(last.start_ms, last.end_ms, last.text + value.strip())
        info = monologue.get("speaker_info") or {}
        who = monologue.get("speaker", monologue.get("speaker_id"))
        name = person(info.get("display_name") or names.get(str(who)) or who)
        if words:
            yield timed_cue(where, [TimedWord(w.start_ms, w.end_ms, f" {w.text}") for w in words], None, name)


def is_speechmatics(data: Any) -> bool:
    results = data.get("results") if isinstance(data, dict) else None
    return isinstance(results, list) and any_has(results, "start_time", "end_time", "alternatives")


def read_speechmatics(data: Any) -> Iterator[Cue]:
    """Speechmatics json-v2: words and marks in one list, with the speaker in the alternative."""
    found: dict[str | None, list[tuple[TimedWord, str | int | None]]] = {}
    for where, item in numbered("result", data["results"]):
        best = first(item.get("alternatives"))
        stream = found.setdefault(item.get("channel"), [])
        if item.get("type") == "punctuation":
            stream.append((TimedWord(0, 0, string(where, best, "content")), None))
        elif item.get("type") == "word":
            start, end = (seconds(where, key, item.get(key)) for key in ("start_time", "end_time"))
            speaker = best.get("speaker")
            word = TimedWord(
                start, end, string(where, best, "content"), None if speaker == "UU" else person(speaker)
            )
            stream.append((word, item.get("channel")))
    for stream in found.values():
        yield from turns(stream)
