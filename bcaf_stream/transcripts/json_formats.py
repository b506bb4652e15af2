"""JSON transcripts, one small reader per writer, after their documentation: what it is, and its cues.

Times are seconds unless a reader says otherwise. Where a file has times for words, a cue carries them.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.cues import Cue, TimedWord, is_number, joined, milliseconds, seconds, timed_cue

Json = Mapping[str, Any]
ISO_DURATION = re.compile(r"PT(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?$")
LETTERS_PER_S = 0.5  # nobody who is transcribed speaks more slowly: slower times are milliseconds


def parse_json(text: str) -> Iterator[Cue]:
    """Any of the known JSON results.

    Raises:
        TranscriptError: it is none of them, or not well-formed.
    """
    data = _loads("", text)
    for reader in READERS:
        if _knows(reader, data):
            try:
                yield from reader.read(data)
            except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
                raise TranscriptError(
                    f"taken for JSON of {reader.name}, but a part of it has another form"
                ) from None
            return
    raise TranscriptError(f"JSON of an unknown kind: known are {', '.join(r.name for r in READERS)}")


def parse_json_lines(text: str) -> Iterator[Cue]:
    """One object per line: `start_ms`, `end_ms`, `text`, and `channel` or null; `speaker` may name the person."""
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        item = _object(where, _loads(where, line))
        start, end = (milliseconds(where, key, item.get(key)) for key in ("start_ms", "end_ms"))
        channel = item.get("channel")
        if channel is not None and not isinstance(channel, str):
            raise TranscriptError(f"{where}: channel must be a name or null")
        yield Cue(where, start, end, _text(where, item, "text"), channel, _name(item.get("speaker")))


# --- Whisper and what follows its form: openai-whisper, faster-whisper, WhisperX, OpenAI verbose_json


def _is_whisper(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and _has(data[0], "start", "end", "text")
    return isinstance(data, dict) and isinstance(data.get("segments"), list) and not data.get("monologues")


def _whisper(data: Any) -> Iterator[Cue]:
    segments = data if isinstance(data, list) else data["segments"]
    in_ms = isinstance(data, list) and _looks_like_ms(segments)
    for number, raw in enumerate(segments, 1):
        where = f"segment {number}"
        segment = _object(where, raw)
        yield from _spoken(where, segment, "word", ms=in_ms, text_key="text")


def _is_openai_words(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("words"), list) and _any(data["words"], "word", "start")


def _openai_words(data: Any) -> Iterator[Cue]:
    """verbose_json with `timestamp_granularities=["word"]`: words without segments."""
    words = _words("the result", data["words"], "word")
    if words:
        yield timed_cue("the words", words)


def _is_whisper_cpp(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("transcription"), list)


def _whisper_cpp(data: Any) -> Iterator[Cue]:
    """whisper.cpp -oj and -ojf: `offsets` in ms; `speaker` is the louder channel of a stereo file (--diarize)."""
    for number, raw in enumerate(data["transcription"], 1):
        where = f"segment {number}"
        segment = _object(where, raw)
        offsets = _object(where, segment.get("offsets"))
        start, end = (milliseconds(where, f"offsets.{key}", offsets.get(key)) for key in ("from", "to"))
        side = str(segment.get("speaker", ""))
        tokens = [
            TimedWord(t["offsets"]["from"], t["offsets"]["to"], t["text"])
            for t in segment.get("tokens") or ()
            if _has(t, "offsets", "text") and not str(t["text"]).startswith("[_")
        ]
        yield Cue(
            where,
            start,
            end,
            _text(where, segment, "text"),
            int(side) if side in ("0", "1") else None,
            words=_kept(_text(where, segment, "text"), tokens),
        )


def _is_hugging_face(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("chunks"), list)


def _hugging_face(data: Any) -> Iterator[Cue]:
    """transformers' pipeline with return_timestamps, and insanely-fast-whisper, whose `speakers` have names."""
    chunks = data.get("speakers") or data["chunks"]
    for number, raw in enumerate(chunks, 1):
        where = f"chunk {number}"
        chunk = _object(where, raw)
        times = chunk.get("timestamp")
        if not isinstance(times, list) or len(times) != 2:
            raise TranscriptError(f"{where}: timestamp must be a list of start and end")
        start = seconds(where, "start", times[0])
        end = None if times[1] is None else seconds(where, "end", times[1])
        yield Cue(where, start, end, _text(where, chunk, "text"), None, _name(chunk.get("speaker")))


# --- Amazon


def _is_transcribe(data: Any) -> bool:
    results = data.get("results") if isinstance(data, dict) else None
    return isinstance(results, dict) and ("items" in results or "channel_labels" in results)


def _transcribe(data: Any) -> Iterator[Cue]:
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
        yield from _turns(_transcribe_words(items, speakers, channel))


def _transcribe_words(
    items: Iterable[Any], speakers: Mapping[float, str], channel: Any
) -> Iterator[tuple[TimedWord, str | int | None]]:
    for number, raw in enumerate(items, 1):
        where = f"item {number}"
        item = _object(where, raw)
        best = _first(item.get("alternatives"))
        content = _text(where, best, "content")
        side = item.get("channel_label", channel)
        if item.get("type") == "punctuation":
            yield TimedWord(0, 0, content), None
            continue
        start, end = (seconds(where, key, item.get(key)) for key in ("start_time", "end_time"))
        speaker = item.get("speaker_label") or speakers.get(float(item["start_time"]))
        yield TimedWord(start, end, content, _name(speaker)), _channel_number(side)


def _is_call_analytics(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("Transcript"), list)


def _call_analytics(data: Any) -> Iterator[Cue]:
    """Amazon Transcribe Call Analytics and Contact Lens: turns in ms, by the role of the participant."""
    roles = {
        p.get("ParticipantId"): p.get("ParticipantRole")
        for p in data.get("Participants") or ()
        if isinstance(p, dict)
    }
    for number, raw in enumerate(data["Transcript"], 1):
        where = f"turn {number}"
        turn = _object(where, raw)
        start, end = (milliseconds(where, key, turn.get(key)) for key in ("BeginOffsetMillis", "EndOffsetMillis"))
        who = turn.get("ParticipantId")
        role = turn.get("ParticipantRole") or roles.get(who) or who
        words = [
            TimedWord(i["BeginOffsetMillis"], i["EndOffsetMillis"], " " + str(i.get("Content", "")))
            if i.get("Type", "pronunciation") == "pronunciation"
            and _has(i, "BeginOffsetMillis", "EndOffsetMillis")
            else TimedWord(0, 0, str(i.get("Content", "")))
            for i in turn.get("Items") or ()
            if isinstance(i, dict)
        ]
        text = _text(where, turn, "Content")
        yield Cue(where, start, end, text, None, _name(role), words=_kept(text, _with_marks(words)))


# --- Deepgram, AssemblyAI, Rev AI


def _is_deepgram(data: Any) -> bool:
    results = data.get("results") if isinstance(data, dict) else None
    return isinstance(results, dict) and ("channels" in results or "utterances" in results)


def _deepgram(data: Any) -> Iterator[Cue]:
    """Deepgram: words by channel where there are several channels, by `speaker` where it was asked to diarize."""
    results = data["results"]
    channels = results.get("channels") or ()
    if not channels:
        for number, raw in enumerate(results["utterances"], 1):
            utterance = _object(f"utterance {number}", raw)
            channel = utterance.get("channel")
            yield from _spoken(
                f"utterance {number}", utterance, "punctuated_word", text_key="transcript", channel=channel
            )
        return
    for position, raw in enumerate(channels):
        where = f"channel {position}"
        best = _first(_object(where, raw).get("alternatives"))
        words = _words(where, best.get("words") or (), "punctuated_word", "word")
        if best.get("transcript") and not words:
            raise TranscriptError(f"{where}: has no words with times")
        yield from _turns((word, position if len(channels) > 1 else None) for word in words)


def _is_assembly_ai(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and _has(data[0], "start", "end", "text") and "confidence" in data[0]
    if not isinstance(data, dict):
        return False
    lists = [data.get(key) for key in ("utterances", "sentences", "paragraphs", "words")]
    return any(isinstance(items, list) and _any(items, "text", "start", "end") for items in lists)


def _assembly_ai(data: Any) -> Iterator[Cue]:
    """AssemblyAI: ms; the whole result, or its utterances, sentences or paragraphs alone."""
    items = data if isinstance(data, list) else None
    for key in ("utterances", "sentences", "paragraphs"):
        items = items or data.get(key)
    if not items:
        words = _words("the result", data["words"], "text", ms=True)
        yield from _turns((word, None) for word in words)
        return
    in_ms = _looks_like_ms(items)
    for number, raw in enumerate(items, 1):
        item = _object(f"utterance {number}", raw)
        channel = item.get("channel")
        side = int(channel) - 1 if isinstance(channel, str | int) and str(channel).isdigit() else None
        yield from _spoken(f"utterance {number}", item, "text", ms=in_ms, text_key="text", channel=side)


def _is_rev(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("monologues"), list)


def _rev(data: Any) -> Iterator[Cue]:
    """Rev AI: monologues of elements; punctuation and the blanks between words are elements of their own."""
    names = {str(s.get("id")): s.get("display_name") for s in data.get("speakers") or () if isinstance(s, dict)}
    for number, raw in enumerate(data["monologues"], 1):
        where = f"monologue {number}"
        monologue = _object(where, raw)
        words: list[TimedWord] = []
        for element in monologue.get("elements") or ():
            value = _text(where, _object(where, element), "value")
            if element.get("type") == "text":
                start, end = (seconds(where, key, element.get(key)) for key in ("ts", "end_ts"))
                words.append(TimedWord(start, end, value))
            elif element.get("type") == "punct" and words and value.strip():
                last = words[-1]
                words[-1] = TimedWord(last.start_ms, last.end_ms, last.text + value.strip())
        info = monologue.get("speaker_info") or {}
        who = monologue.get("speaker", monologue.get("speaker_id"))
        name = _name(info.get("display_name") or names.get(str(who)) or who)
        if words:
            yield timed_cue(where, [TimedWord(w.start_ms, w.end_ms, f" {w.text}") for w in words], None, name)


# --- Google, Azure


def _is_google(data: Any) -> bool:
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
    return list(results) if known and isinstance(results, list) and not _is_speechmatics(data) else []


def _google(data: Any) -> Iterator[Cue]:
    """Google Speech-to-Text v1, v2: `startTime: "1.200s"`; with speakers the last result has all words again."""
    results = [_object(f"result {n}", r) for n, r in enumerate(_google_results(data), 1)]
    heard = [
        (number, r, _first(r.get("alternatives"))) for number, r in enumerate(results, 1) if r.get("alternatives")
    ]
    tagged = [(n, r, a) for n, r, a in heard if any(_google_speaker(w) for w in a.get("words") or ())]
    if tagged and len(tagged) < len(heard) and tagged[-1][0] == heard[-1][0]:
        heard = tagged[-1:]
    last_ms: dict[Any, int] = {}
    for number, result, best in heard:
        where = f"result {number}"
        tag = _either(result, "channelTag", "channel_tag")
        channel = int(tag) - 1 if tag else None
        words = [
            TimedWord(
                _google_ms(where, _either(w, "startTime", "startOffset", "start_time", "start_offset")),
                _google_ms(where, _either(w, "endTime", "endOffset", "end_time", "end_offset")),
                _text(where, w, "word"),
                _name(_google_speaker(w)),
            )
            for w in best.get("words") or ()
        ]
        text = str(best.get("transcript") or "")
        until = _either(result, "resultEndTime", "resultEndOffset", "result_end_time", "result_end_offset")
        if words:
            yield from _turns((word, channel) for word in words)
        elif text:
            end = _google_ms(where, until)
            yield Cue(where, last_ms.get(tag, 0), end, text, channel)
        last_ms[tag] = _google_ms(where, until) if until else last_ms.get(tag, 0)


def _google_speaker(word: Json) -> Any:
    return _either(word, "speakerLabel", "speaker_label", "speakerTag", "speaker_tag") or None


def _google_ms(where: str, raw: Any) -> int:
    """A duration as JSON writes it ("1.200s"), or as its two numbers; 0 is left out."""
    if raw is None:
        return 0
    if isinstance(raw, dict):
        return seconds(where, "seconds", raw.get("seconds", 0)) + round(int(raw.get("nanos") or 0) / 1e6)
    return seconds(where, "time", raw.removesuffix("s") if isinstance(raw, str) else raw)


def _is_azure(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and _has(data[0], "Offset", "Duration")
    return isinstance(data, dict) and (
        any(isinstance(data.get(key), list) for key in ("recognizedPhrases", "phrases", "conversations"))
        or _has(data, "Offset", "Duration")
    )


def _azure(data: Any) -> Iterator[Cue]:
    """Azure Speech: batch (`recognizedPhrases`), fast (`phrases`), conversations, and the results of the SDK."""
    if isinstance(data, dict) and isinstance(data.get("conversations"), list):
        for conversation in data["conversations"]:
            yield from _azure_items(_object("conversation", conversation).get("conversationItems") or ())
        return
    whole = data if isinstance(data, dict) else {}
    phrases = whole.get("recognizedPhrases") or whole.get("phrases") or ([data] if whole else data)
    channels = {p.get("channel", p.get("Channel")) for p in phrases if isinstance(p, dict)}
    for number, raw in enumerate(phrases, 1):
        where = f"phrase {number}"
        phrase = {key[:1].lower() + key[1:]: value for key, value in _object(where, raw).items()}
        if phrase.get("recognitionStatus") not in (None, 0, "Success", "Failure") or not _azure_has_time(phrase):
            continue  # silence and noise have a status of their own
        best = {k[:1].lower() + k[1:]: v for k, v in _first(phrase.get("nBest"), phrase).items()}
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
            _name(phrase.get("speakerId") or phrase.get("speaker")),
            words=_azure_words(where, text, words),
        )


def _azure_items(items: Iterable[Any]) -> Iterator[Cue]:
    for number, raw in enumerate(items, 1):
        where = f"item {number}"
        item = _object(where, raw)
        timings = item.get("audioTimings") or item.get("wordLevelTimings") or ()
        words = [w for w in timings if _has(w, "offset", "duration")]
        if not words:
            raise TranscriptError(f"{where}: has no times of words (audioTimings)")
        spans = [(_azure_ms(where, w, "offset"), _azure_ms(where, w, "duration")) for w in words]
        text = _text(where, item, "text")
        start, end = spans[0][0], sum(spans[-1])
        who = _name(item.get("participantId"))
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
        word = {key[:1].lower() + key[1:]: value for key, value in _object(where, raw).items()}
        if not _azure_has_time(word):
            return ()
        start = _azure_ms(where, word, "offset")
        spoken = word.get("displayText") or word.get("word") or word.get("text") or ""
        timed.append(TimedWord(start, start + _azure_ms(where, word, "duration"), str(spoken)))
    tokens = text.split()
    if len(tokens) != len(timed):
        return ()
    return tuple(TimedWord(w.start_ms, w.end_ms, token) for w, token in zip(timed, tokens, strict=True))


# --- NVIDIA NeMo, SegLST, Speechmatics


def _is_nemo(data: Any) -> bool:
    if isinstance(data, list):
        return (
            bool(data)
            and isinstance(data[0], dict)
            and (_has(data[0], "start_time", "end_time") or _is_nemo(data[0]))
        )
    return isinstance(data, dict) and (
        any(
            isinstance(data.get(k), list) and _any(data[k], "start_time", "end_time")
            for k in ("words", "sentences")
        )
        or any(
            isinstance(data.get(k), dict) and _any(data[k].get("word"), "start") for k in ("timestamp", "timestep")
        )
    )


def _nemo(data: Any) -> Iterator[Cue]:
    """NeMo: diarization with words (`start_time`, `speaker`), hypotheses with `timestamp`, and SegLST lists."""
    if isinstance(data, list) and _has(data[0], "start_time", "end_time"):
        for number, raw in enumerate(data, 1):
            where = f"segment {number}"
            item = _object(where, raw)
            start, end = (seconds(where, key, item.get(key)) for key in ("start_time", "end_time"))
            text = next((str(item[k]) for k in ("words", "sentence", "text", "word") if item.get(k)), "")
            yield Cue(where, start, end, text, None, _name(item.get("speaker")), _name(item.get("session_id")))
        return
    for item in data if isinstance(data, list) else [data]:
        stamps = item.get("timestamp") or item.get("timestep")
        raw_words = stamps.get("word") if isinstance(stamps, dict) else item.get("words")
        if raw_words:
            yield from _turns((word, None) for word in _words("the result", raw_words, "word", "text"))
        else:
            yield from _nemo(item.get("sentences") or ())


def _is_speechmatics(data: Any) -> bool:
    results = data.get("results") if isinstance(data, dict) else None
    return isinstance(results, list) and _any(results, "start_time", "end_time", "alternatives")


def _speechmatics(data: Any) -> Iterator[Cue]:
    """Speechmatics json-v2: words and marks in one list, with the speaker in the alternative."""
    found: dict[str | None, list[tuple[TimedWord, str | int | None]]] = {}
    for number, raw in enumerate(data["results"], 1):
        where = f"result {number}"
        item = _object(where, raw)
        best = _first(item.get("alternatives"))
        stream = found.setdefault(item.get("channel"), [])
        if item.get("type") == "punctuation":
            stream.append((TimedWord(0, 0, _text(where, best, "content")), None))
        elif item.get("type") == "word":
            start, end = (seconds(where, key, item.get(key)) for key in ("start_time", "end_time"))
            speaker = best.get("speaker")
            word = TimedWord(
                start, end, _text(where, best, "content"), None if speaker == "UU" else _name(speaker)
            )
            stream.append((word, item.get("channel")))
    for stream in found.values():
        yield from _turns(stream)


class Reader(NamedTuple):
    name: str
    knows: Callable[[Any], bool]
    read: Callable[[Any], Iterator[Cue]]


READERS = (  # the first that knows it reads it
    Reader("Amazon Transcribe", _is_transcribe, _transcribe),
    Reader("Amazon Call Analytics", _is_call_analytics, _call_analytics),
    Reader("Deepgram", _is_deepgram, _deepgram),
    Reader("Speechmatics", _is_speechmatics, _speechmatics),
    Reader("Google Speech-to-Text", _is_google, _google),
    Reader("Azure Speech", _is_azure, _azure),
    Reader("Rev AI", _is_rev, _rev),
    Reader("whisper.cpp", _is_whisper_cpp, _whisper_cpp),
    Reader("Hugging Face pipelines", _is_hugging_face, _hugging_face),
    Reader("NVIDIA NeMo (and SegLST)", _is_nemo, _nemo),
    Reader("AssemblyAI", _is_assembly_ai, _assembly_ai),
    Reader("Whisper, WhisperX and OpenAI's verbose_json (a key `segments`)", _is_whisper, _whisper),
    Reader("OpenAI's words", _is_openai_words, _openai_words),
)


def _knows(reader: Reader, data: Any) -> bool:
    try:
        return reader.knows(data)
    except (AttributeError, TypeError, RecursionError):
        return False


# --- what the readers share


def _spoken(
    where: str,
    item: Json,
    *word_keys: str,
    text_key: str,
    ms: bool = False,
    channel: str | int | None = None,
) -> Iterator[Cue]:
    """What has start, end, text and perhaps words and a speaker; cut where the speaker of its words changes."""
    read = milliseconds if ms else seconds
    speaker = _name(item.get("speaker"))
    words = _words(where, item.get("words") or (), *word_keys, "word", "text", ms=ms)
    if len({word.speaker for word in words}) > 1:
        yield from _turns((TimedWord(w.start_ms, w.end_ms, w.text, w.speaker or speaker), channel) for w in words)
        return
    text = _text(where, item, text_key) if text_key in item or not words else timed_cue(where, words).text
    start, end = read(where, "start", item.get("start")), read(where, "end", item.get("end"))
    speaker = speaker or (words[0].speaker if words else None)
    yield Cue(where, start, end, text, channel, speaker, words=_kept(text, words))


def _words(where: str, items: Any, *keys: str, ms: bool = False) -> list[TimedWord]:
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
        words.append(TimedWord(span[0], max(span), text, _name(item.get("speaker"))))
    return words


def _turns(words: Iterable[tuple[TimedWord, str | int | None]]) -> Iterator[Cue]:
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


def _with_marks(words: Iterable[TimedWord]) -> list[TimedWord]:
    """The same with punctuation, which begins without a space and has no time, at the word before it."""
    kept: list[TimedWord] = []
    for word in words:
        if kept and not word.text.startswith(" "):
            kept[-1] = TimedWord(kept[-1].start_ms, kept[-1].end_ms, kept[-1].text + word.text)
        else:
            kept.append(word)
    return kept


def _kept(text: str, words: list[TimedWord]) -> tuple[TimedWord, ...]:
    """The timed words of a text, if they are all of it: what they leave out would be lost."""
    whole = joined(words)
    same = "".join("".join(w.text.split()) for w in whole) == "".join(text.split())
    return whole if whole and same else ()


def _looks_like_ms(items: Iterable[Any]) -> bool:
    spans = [
        (item["end"] - item["start"], len(str(item.get("text", ""))))
        for item in items
        if isinstance(item, dict) and all(isinstance(item.get(k), int) for k in ("start", "end"))
    ]
    length = sum(span for span, _ in spans)
    return bool(spans) and sum(letters for _, letters in spans) < LETTERS_PER_S * length


def _channel_number(label: Any) -> str | int | None:
    """The position in ch_0, ch_1; other labels as they are."""
    if isinstance(label, str) and (found := re.match(r"ch_(\d+)$", label)):
        return int(found[1])
    return label if isinstance(label, str | int) else None


def _name(raw: Any) -> str | None:
    """A speaker's name; a bare number is `speaker 0`."""
    if raw is None or isinstance(raw, dict | list | bool) or not str(raw).strip():
        return None
    return f"speaker {raw}" if str(raw).isdigit() else " ".join(str(raw).split())


def _first(items: Any, default: Json | None = None) -> Json:
    found = items[0] if isinstance(items, list) and items else default
    return found if isinstance(found, dict) else {}


def _either(item: Json, *keys: str) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _has(item: Any, *keys: str) -> bool:
    return isinstance(item, dict) and all(key in item for key in keys)


def _any(items: Any, *keys: str) -> bool:
    return isinstance(items, list) and any(_has(item, *keys) for item in items)


def _text(where: str, item: Json, key: str) -> str:
    if not isinstance(item.get(key), str):
        raise TranscriptError(f"{where}: {key} must be a string")
    return str(item[key])


def _loads(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TranscriptError(f"{where or f'line {error.lineno}'}: not valid JSON: {error.msg}") from None
    except (RecursionError, ValueError):
        raise TranscriptError(
            f"{where or 'line 1'}: not valid JSON: nested too deep, or a number too long"
        ) from None


def _object(where: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise TranscriptError(f"{where}: must be a JSON object")
    return item
