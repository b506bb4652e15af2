"""JSON transcripts: one small reader per writer, after its documentation, in a table; and our own JSON lines.

Times are seconds unless a reader says otherwise. Where a file has times for words, a cue carries them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts import json_clouds, json_engines, json_platforms, json_services
from bcaf_stream.transcripts.cues import Cue, milliseconds
from bcaf_stream.transcripts.json_values import json_object, loads, person, string


class Reader(NamedTuple):
    """`knows` tells by the keys whether a result is this writer's; `read` gives its cues."""

    name: str
    knows: Callable[[Any], bool]
    read: Callable[[Any], Iterator[Cue]]


READERS = (  # the first that knows it reads it
    Reader("Amazon Transcribe", json_clouds.is_transcribe, json_clouds.read_transcribe),
    Reader("Amazon Call Analytics", json_clouds.is_call_analytics, json_clouds.read_call_analytics),
    Reader("Deepgram", json_services.is_deepgram, json_services.read_deepgram),
    Reader("Speechmatics", json_services.is_speechmatics, json_services.read_speechmatics),
    Reader("IBM Watson", json_clouds.is_watson, json_clouds.read_watson),
    Reader("Google Speech-to-Text", json_clouds.is_google, json_clouds.read_google),
    Reader("Azure Speech", json_clouds.is_azure, json_clouds.read_azure),
    Reader("Genesys Cloud", json_platforms.is_genesys, json_platforms.read_genesys),
    Reader("Twilio", json_platforms.is_twilio, json_platforms.read_twilio),
    Reader("Gladia", json_platforms.is_gladia, json_platforms.read_gladia),
    Reader("Retell AI", json_platforms.is_retell, json_platforms.read_retell),
    Reader("Recall.ai", json_platforms.is_recall, json_platforms.read_recall),
    Reader("Fireflies", json_platforms.is_fireflies, json_platforms.read_fireflies),
    Reader("Rev AI", json_services.is_rev, json_services.read_rev),
    Reader("whisper.cpp", json_engines.is_whisper_cpp, json_engines.read_whisper_cpp),
    Reader("Hugging Face pipelines", json_engines.is_hugging_face, json_engines.read_hugging_face),
    Reader("NVIDIA NeMo (and SegLST)", json_engines.is_nemo, json_engines.read_nemo),
    Reader("ElevenLabs", json_services.is_eleven_labs, json_services.read_eleven_labs),
    Reader("AssemblyAI", json_services.is_assembly_ai, json_services.read_assembly_ai),
    Reader(
        "Whisper, WhisperX and OpenAI's verbose_json (a key `segments`)",
        json_engines.is_whisper,
        json_engines.read_whisper,
    ),
    Reader("Vosk", json_engines.is_vosk, json_engines.read_vosk),
    Reader("OpenAI's words", json_engines.is_openai_words, json_engines.read_openai_words),
)


def parse_json(text: str) -> Iterator[Cue]:
    """Any of the known JSON results.

    Raises:
        TranscriptError: it is none of them, or not well-formed.
    """
    data = loads("", text)
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
    """One object per line: `start_ms`, `end_ms`, `text`, and `channel` or null; `speaker` may name the person.

    A line with `audio_filepath` is one of a NeMo manifest.
    """
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        item = json_object(where, loads(where, line))
        if "audio_filepath" in item:
            yield json_engines.read_nemo_manifest(where, item)
            continue
        start, end = (milliseconds(where, key, item.get(key)) for key in ("start_ms", "end_ms"))
        channel = item.get("channel")
        if channel is not None and not isinstance(channel, str):
            raise TranscriptError(f"{where}: channel must be a name or null")
        yield Cue(where, start, end, string(where, item, "text"), channel, person(item.get("speaker")))


def _knows(reader: Reader, data: Any) -> bool:
    try:
        return reader.knows(data)
    except (AttributeError, TypeError, RecursionError):
        return False
