"""JSON of the large clouds: Amazon Transcribe and Call Analytics, Google, Azure Speech, IBM Watson."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.cues import Cue, TimedWord, is_number, milliseconds, seconds
from bcaf_stream.transcripts.json_values import (
    Json,
    channel_position,
    either,
    first,
    has,
    json_object,
    numbered,
    person,
    string,
    turns,
    with_marks,
    words_of,
)

ISO_DURATION = re.compile(r"PT(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?$")


def is_transcribe(data: Any) -> bool:
    results = data.get("results") if isinstance(data, dict) else None
    return isinstance(results, dict) and ("items" in results or "channel_labels" in results)


def read_transcribe(data: Any) -> Iterator[Cue]:
    """Amazon Transcribe: items in seconds, as strings; who speaks stands with them or in a table beside them."""
    results = data["results"]
    labels = results.get("channel_labels")
    streams: list[tuple[Any, Any]] = [(None, results.get("items") or ())]
    if isinstance(labels, dict) and isinstance(labels.get("channels"), list):
        streams = [
            (c.get("channel_label"), c.get("items") or ()) for c in labels["channels"] if isinstance(c, dict)
        ]
    speakers: dict[float, str] = {}
    table = results.get("speaker_labels")
    for part in (table.get("segments") or ()) if isinstance(table, dict) else ():
        for item in part.get("items") or ():
            if is_number(item.get("start_time", "")) and item.get("speaker_label"):
                speakers[float(item["start_time"])] = str(item["speaker_label"])
    for channel, items in streams:
        yield from turns(_transcribe_words(items, speakers, channel))


def _transcribe_words(
    items: Iterable[Any], speakers: Mapping[float, str], channel: Any
) -> Iterator[tuple[TimedWord, str | int | None]]:
    for where, item in numbered("item", items):
        best = first(item.get("alternatives"))
        content = string(where, best, "content")
        side = item.get("channel_label", channel)
        if item.get("type") == "punctuation":
            yield TimedWord(0, 0, content), None
            continue
        start, end = (seconds(where, key, item.get(key)) for key in ("start_time", "end_time"))
        speaker = item.get("speaker_label") or speakers.get(float(item["start_time"]))
        yield TimedWord(start, end, content, person(speaker)), channel_position(side)


def is_call_analytics(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("Transcript"), list)


def read_call_analytics(data: Any) -> Iterator[Cue]:
    """Amazon Transcribe Call Analytics and Contact Lens: turns in ms, by the role of the participant."""
    roles = {
        p.get("ParticipantId"): p.get("ParticipantRole")
        for p in data.get("Participants") or ()
        if isinstance(p, dict)
    }
    for where, turn in numbered("turn", data["Transcript"]):
        start, end = (milliseconds(where, key, turn.get(key)) for key in ("BeginOffsetMillis", "EndOffsetMillis"))
        who = turn.get("ParticipantId")
        role = turn.get("ParticipantRole") or roles.get(who) or who
        words = [
            TimedWord(i["BeginOffsetMillis"], i["EndOffsetMillis"], " " + str(i.get("Content", "")))
            if i.get("Type", "pronunciation") == "pronunciation" and has(i, "BeginOffsetMillis", "EndOffsetMillis")
            else TimedWord(0, 0, str(i.get("Content", "")))
            for i in turn.get("Items") or ()
            if isinstance(i, dict)
        ]
        text = string(where, turn, "Content")
        yield Cue(where, start, end, text, None, person(role), words=words_of(text, with_marks(words)))


def is_watson(data: Any) -> bool:
    results = data.get("results") if isinstance(data, dict) else None
    return isinstance(results, list) and any(has(first(r.get("alternatives")), "timestamps") for r in results)


def read_watson(data: Any) -> Iterator[Cue]:
    """IBM Watson Speech to Text: [word, start, end] in seconds, and a table of who spoke from which second on."""
    speakers = {float(label["from"]): label.get("speaker") for label in data.get("speaker_labels") or ()}
    for number, result in enumerate(data["results"], 1):
        where = f"result {number}"
        words = [
            TimedWord(
                seconds(where, "start", start), seconds(where, "end", end), str(word), person(speakers.get(start))
            )
            for word, start, end in first(result.get("alternatives")).get("timestamps") or ()
        ]
        yield from turns((word, None) for word in words)


def is_google(data: Any) -> bool:
    return bool(_google_results(data))


def _google_results(data: Any) -> list[Any]:
    """The results of recognize, of a finished long-running operation, or of a batch with one file."""
    if not isinstance(data, dict):
        return []
    if isinstance(data.get("response"), dict):
        return _google_results(data["response"])
    results = data.get("results")
    if isinstance(results, dict):
        inner = [r for r in results.values() if isinstance(r, dict)]
        found = [
            _google_results(r.get("transcript") or r.get("inlineResult", {}).get("transcript")) for r in inner
        ]
        return found[0] if len(found) == 1 else []
    known = isinstance(results, list) and any(
        isinstance(r, dict) and isinstance(r.get("alternatives"), list) for r in results
    )
    return list(results) if known and isinstance(results, list) else []


def read_google(data: Any) -> Iterator[Cue]:
    """Google Speech-to-Text v1, v2: `startTime: "1.200s"`; with speakers the last result has all words again."""
    results = [json_object(f"result {n}", r) for n, r in enumerate(_google_results(data), 1)]
    heard = [
        (number, r, first(r.get("alternatives"))) for number, r in enumerate(results, 1) if r.get("alternatives")
    ]
    tagged = [(n, r, a) for n, r, a in heard if any(_google_speaker(w) for w in a.get("words") or ())]
    if tagged and len(tagged) < len(heard) and tagged[-1][0] == heard[-1][0]:
        heard = tagged[-1:]
    last_ms: dict[Any, int] = {}
    for number, result, best in heard:
        where = f"result {number}"
        tag = either(result, "channelTag", "channel_tag")
        channel = int(tag) - 1 if tag else None
        words = [
            TimedWord(
                _google_ms(where, either(w, "startTime", "startOffset", "start_time", "start_offset")),
                _google_ms(where, either(w, "endTime", "endOffset", "end_time", "end_offset")),
                string(where, w, "word"),
                person(_google_speaker(w)),
            )
            for w in best.get("words") or ()
        ]
        text = str(best.get("transcript") or "")
        until = either(result, "resultEndTime", "resultEndOffset", "result_end_time", "result_end_offset")
        if words:
            yield from turns((word, channel) for word in words)
        elif text and until is None:
            raise TranscriptError(f"{where}: has no times; ask Google for enable_word_time_offsets")
        elif text:
            end = _google_ms(where, until)
            yield Cue(where, last_ms.get(tag, 0), end, text, channel)
        last_ms[tag] = _google_ms(where, until) if until else last_ms.get(tag, 0)


def _google_speaker(word: Json) -> Any:
    return either(word, "speakerLabel", "speaker_label", "speakerTag", "speaker_tag") or None


def _google_ms(where: str, raw: Any) -> int:
    """A duration as JSON writes it ("1.200s"), or as its two numbers; 0 is left out."""
    if raw is None:
        return 0
    if isinstance(raw, dict):
        return seconds(where, "seconds", raw.get("seconds", 0)) + round(int(raw.get("nanos") or 0) / 1e6)
    return seconds(where, "time", raw.removesuffix("s") if isinstance(raw, str) else raw)


def is_azure(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and has(data[0], "Offset", "Duration")
    return isinstance(data, dict) and (
        any(isinstance(data.get(key), list) for key in ("recognizedPhrases", "phrases", "conversations"))
        or has(data, "Offset", "Duration")
    )


def read_azure(data: Any) -> Iterator[Cue]:
    """Azure Speech: batch (`recognizedPhrases`), fast (`phrases`), conversations, and the results of the SDK."""
    if isinstance(data, dict) and isinstance(data.get("conversations"), list):
        for conversation in data["conversations"]:
            yield from _azure_items(json_object("conversation", conversation).get("conversationItems") or ())
        return
    whole = data if isinstance(data, dict) else {}
    phrases = whole.get("recognizedPhrases") or whole.get("phrases") or ([data] if whole else data)
    channels = {p.get("channel", p.get("Channel")) for p in phrases if isinstance(p, dict)}
    for number, raw in enumerate(phrases, 1):
        where = f"phrase {number}"
        phrase = {key[:1].lower() + key[1:]: value for key, value in json_object(where, raw).items()}
        if phrase.get("recognitionStatus") not in (None, 0, "Success", "Failure") or not _azure_has_time(phrase):
            continue  # silence and noise have a status of their own
        best = {k[:1].lower() + k[1:]: v for k, v in first(phrase.get("nBest"), phrase).items()}
        text = best.get("display") or best.get("displayText") or phrase.get("displayText") or best.get("text")
        text = text or best.get("lexical")
        if not isinstance(text, str):
            continue
        start, length = _azure_ms(where, phrase, "offset"), _azure_ms(where, phrase, "duration")
        channel = phrase.get("channel")
        words = best.get("displayWords") or best.get("words") or phrase.get("words") or ()
        yield Cue(
            where,
            start,
            start + length,
            text,
            channel if len(channels) > 1 and isinstance(channel, int) else None,
            person(phrase.get("speakerId") or phrase.get("speaker")),
            words=_azure_words(where, text, words),
        )


def _azure_items(items: Iterable[Any]) -> Iterator[Cue]:
    for where, item in numbered("item", items):
        timings = item.get("audioTimings") or item.get("wordLevelTimings") or ()
        words = [w for w in timings if has(w, "offset", "duration")]
        if not words:
            raise TranscriptError(f"{where}: has no times of words (audioTimings)")
        spans = [(_azure_ms(where, w, "offset"), _azure_ms(where, w, "duration")) for w in words]
        text = string(where, item, "text")
        start, end = spans[0][0], sum(spans[-1])
        who = person(item.get("participantId"))
        yield Cue(where, start, end, text, None, who, words=_azure_words(where, text, words))


def _azure_has_time(item: Json) -> bool:
    return any(key in item for key in ("offset", "offsetInTicks", "offsetMilliseconds"))


def _azure_ms(where: str, item: Json, key: str) -> int:
    """Ticks of 100 ns, milliseconds, or an ISO 8601 duration, by the name of the key and the kind of the value."""
    if f"{key}Milliseconds" in item:
        return milliseconds(where, f"{key}Milliseconds", item[f"{key}Milliseconds"])
    raw = item.get(f"{key}InTicks", item.get(key))
    if isinstance(raw, str) and (iso := ISO_DURATION.match(raw)):
        hours, minutes, secs = (float(part or 0) for part in iso.groups())
        return round(((hours * 60 + minutes) * 60 + secs) * 1000)
    return round(seconds(where, key, raw) / 10_000_000)


def _azure_words(where: str, text: str, words: Iterable[Any]) -> tuple[TimedWord, ...]:
    """The words of the text with their times; none where the text, with its numbers and marks, has others."""
    timed = []
    for raw in words:
        word = {key[:1].lower() + key[1:]: value for key, value in json_object(where, raw).items()}
        if not _azure_has_time(word):
            return ()
        start = _azure_ms(where, word, "offset")
        spoken = word.get("displayText") or word.get("word") or word.get("text") or ""
        timed.append(TimedWord(start, start + _azure_ms(where, word, "duration"), str(spoken)))
    tokens = text.split()
    if len(tokens) != len(timed):
        return ()
    return tuple(TimedWord(w.start_ms, w.end_ms, token) for w, token in zip(timed, tokens, strict=True))
