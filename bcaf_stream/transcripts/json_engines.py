"""JSON of engines that run anywhere: Whisper and what follows its form, whisper.cpp, Hugging Face, NVIDIA NeMo."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.cues import Cue, TimedWord, milliseconds, seconds, timed_cue
from bcaf_stream.transcripts.json_values import (
    Json,
    any_has,
    has,
    json_object,
    looks_like_ms,
    numbered,
    person,
    spoken,
    string,
    timed_words,
    turns,
    words_of,
)


def is_whisper(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and has(data[0], "start", "end", "text")
    return isinstance(data, dict) and isinstance(data.get("segments"), list) and not data.get("monologues")


def read_whisper(data: Any) -> Iterator[Cue]:
    segments = data if isinstance(data, list) else data["segments"]
    in_ms = isinstance(data, list) and looks_like_ms(segments)
    for where, segment in numbered("segment", segments):
        yield from spoken(where, segment, "word", ms=in_ms, text_key="text")


def is_openai_words(data: Any) -> bool:
    return (
        isinstance(data, dict) and isinstance(data.get("words"), list) and any_has(data["words"], "word", "start")
    )


def read_openai_words(data: Any) -> Iterator[Cue]:
    """verbose_json with `timestamp_granularities=["word"]`: words without segments."""
    words = timed_words("the result", data["words"], "word")
    if words:
        yield timed_cue("the words", words)


def is_vosk(data: Any) -> bool:
    return isinstance(data, dict) and any_has(data.get("result"), "word", "start", "end")


def read_vosk(data: Any) -> Iterator[Cue]:
    """Vosk and Kaldi's servers: one utterance, with the words in seconds."""
    yield from turns((word, None) for word in timed_words("the result", data["result"], "word"))


def is_whisper_cpp(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("transcription"), list)


def read_whisper_cpp(data: Any) -> Iterator[Cue]:
    """whisper.cpp -oj and -ojf: `offsets` in ms; `speaker` is the louder channel of a stereo file (--diarize)."""
    for where, segment in numbered("segment", data["transcription"]):
        offsets = json_object(where, segment.get("offsets"))
        start, end = (milliseconds(where, f"offsets.{key}", offsets.get(key)) for key in ("from", "to"))
        side = str(segment.get("speaker", ""))
        tokens = [
            TimedWord(t["offsets"]["from"], t["offsets"]["to"], t["text"])
            for t in segment.get("tokens") or ()
            if has(t, "offsets", "text") and not str(t["text"]).startswith("[_")
        ]
        yield Cue(
            where,
            start,
            end,
            string(where, segment, "text"),
            int(side) if side in ("0", "1") else None,
            words=words_of(string(where, segment, "text"), tokens),
        )


def is_hugging_face(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("chunks"), list)


def read_hugging_face(data: Any) -> Iterator[Cue]:
    """transformers' pipeline with return_timestamps, and insanely-fast-whisper, whose `speakers` have names."""
    chunks = data.get("speakers") or data["chunks"]
    for where, chunk in numbered("chunk", chunks):
        times = chunk.get("timestamp")
        if not isinstance(times, list) or len(times) != 2:
            raise TranscriptError(f"{where}: timestamp must be a list of start and end")
        start = seconds(where, "start", times[0])
        end = None if times[1] is None else seconds(where, "end", times[1])
        yield Cue(where, start, end, string(where, chunk, "text"), None, person(chunk.get("speaker")))


def is_nemo(data: Any) -> bool:
    if isinstance(data, list):
        first = data[0] if data else None
        return has(first, "start_time", "end_time") or (isinstance(first, dict) and is_nemo(first))
    if not isinstance(data, dict):
        return False
    stamps = data.get("timestamp") or data.get("timestep")
    diarized = any(any_has(data.get(key), "start_time", "end_time") for key in ("words", "sentences"))
    return diarized or (isinstance(stamps, dict) and any_has(stamps.get("word"), "start"))


def read_nemo_manifest(where: str, item: Json) -> Cue:
    """One line of a NeMo manifest: a part of a file, from `offset` on; what was recognised before its text."""
    start, length = (seconds(where, key, item.get(key, 0)) for key in ("offset", "duration"))
    text = string(where, item, "pred_text" if item.get("pred_text") is not None else "text")
    recording = PurePath(string(where, item, "audio_filepath")).stem
    return Cue(where, start, start + length, text, None, person(item.get("speaker")), recording)


def read_nemo(data: Any) -> Iterator[Cue]:
    """NeMo: diarization with words (`start_time`, `speaker`), hypotheses with `timestamp`, and SegLST lists."""
    if isinstance(data, list) and has(data[0], "start_time", "end_time"):
        for where, item in numbered("segment", data):
            start, end = (seconds(where, key, item.get(key)) for key in ("start_time", "end_time"))
            key = next((k for k in ("words", "sentence", "text", "word") if item.get(k) is not None), "words")
            text = string(where, item, key)
            yield Cue(where, start, end, text, None, person(item.get("speaker")), person(item.get("session_id")))
        return
    for item in data if isinstance(data, list) else [data]:
        stamps = item.get("timestamp") or item.get("timestep")
        raw_words = stamps.get("word") if isinstance(stamps, dict) else item.get("words")
        if raw_words:
            yield from turns((word, None) for word in timed_words("the result", raw_words, "word", "text"))
        else:
            yield from read_nemo(item.get("sentences") or ())
