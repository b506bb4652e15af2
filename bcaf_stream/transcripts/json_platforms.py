"""JSON of platforms for calls and meetings: Genesys Cloud, Twilio, Gladia, Retell AI, Recall.ai, Fireflies."""

from collections.abc import Iterator
from typing import Any

from bcaf_stream.transcripts.cues import Cue, TimedWord, milliseconds, seconds, timed_cue
from bcaf_stream.transcripts.json_values import (
    Json,
    any_has,
    first,
    has,
    json_object,
    numbered,
    person,
    spoken,
    string,
    timed_words,
    words_of,
)

GENESYS_ROLES = {"internal": "agent", "external": "customer"}
RETELL_ROLES = {"user": "customer"}


def is_genesys(data: Any) -> bool:
    return isinstance(data, dict) and any_has(data.get("transcripts"), "phrases")


def read_genesys(data: Any) -> Iterator[Cue]:
    """Genesys Cloud, transcript-url: phrases with unix times in ms; zero is the `startTime` of the whole."""
    phrases = [p for transcript in data["transcripts"] for p in transcript["phrases"]]
    zero = data.get("startTime")
    if zero is None:
        zero = min(phrase["startTimeMs"] for phrase in phrases)
    for where, phrase in numbered("phrase", phrases):
        words = [TimedWord(*_from(where, word, zero), f" {word['word']}") for word in phrase.get("words") or ()]
        purpose = phrase.get("participantPurpose")
        text = string(where, phrase, "text")
        who = GENESYS_ROLES.get(str(purpose), person(purpose))
        yield Cue(where, *_from(where, phrase, zero), text, None, who, words=words_of(text, words))


def _from(where: str, item: Json, zero: int) -> tuple[int, int]:
    start = milliseconds(where, "startTimeMs", item.get("startTimeMs")) - zero
    return start, start + milliseconds(where, "duration", json_object(where, item.get("duration"))["milliseconds"])


def is_twilio(data: Any) -> bool:
    return isinstance(data, dict) and any_has(data.get("sentences"), "media_channel", "transcript")


def read_twilio(data: Any) -> Iterator[Cue]:
    """Twilio Conversational Intelligence, Sentences: the channel counts from 1."""
    for where, sentence in numbered("sentence", data["sentences"]):
        start, end = (seconds(where, key, sentence.get(key)) for key in ("start_time", "end_time"))
        yield Cue(where, start, end, string(where, sentence, "transcript"), int(sentence["media_channel"]) - 1)


def is_gladia(data: Any) -> bool:
    return any_has(_gladia(data).get("utterances"), "text", "start", "end")


def read_gladia(data: Any) -> Iterator[Cue]:
    """Gladia: utterances in seconds; all have a channel, which is the side only where there are several."""
    utterances = _gladia(data)["utterances"]
    several = len({utterance.get("channel") for utterance in utterances}) > 1
    for where, utterance in numbered("utterance", utterances):
        side = utterance.get("channel") if several else None
        yield from spoken(where, utterance, "word", text_key="text", channel=side)


def _gladia(data: Any) -> Json:
    """The transcription of a whole answer, of its `result`, or by itself."""
    found = _within(data, "result", "transcription")
    return found if has(found, "full_transcript") else {}


def is_retell(data: Any) -> bool:
    return isinstance(data, dict) and any_has(data.get("transcript_object"), "role", "words")


def read_retell(data: Any) -> Iterator[Cue]:
    """Retell AI: turns of `agent` and `user`, whose times are those of their words."""
    for where, turn in numbered("turn", data["transcript_object"]):
        role = string(where, turn, "role")
        words = timed_words(where, turn["words"], "word")
        if words:
            yield timed_cue(where, words, None, RETELL_ROLES.get(role, role))


def is_recall(data: Any) -> bool:
    return isinstance(data, list) and has(first(data), "participant", "words")


def read_recall(data: Any) -> Iterator[Cue]:
    """Recall.ai: what each participant says in a row; its words have times relative to the recording."""
    for where, turn in numbered("turn", data):
        name = person(json_object(where, turn.get("participant")).get("name"))
        words = [
            TimedWord(
                _relative(where, word, "start_timestamp"),
                _relative(where, word, "end_timestamp"),
                f" {word['text']}",
            )
            for word in turn["words"]
        ]
        if words:
            yield timed_cue(where, words, None, name)


def _relative(where: str, word: Json, key: str) -> int:
    return seconds(where, key, json_object(where, word.get(key)).get("relative"))


def is_fireflies(data: Any) -> bool:
    return any_has(_fireflies(data).get("sentences"), "speaker_name", "start_time", "text")


def read_fireflies(data: Any) -> Iterator[Cue]:
    """Fireflies: sentences in seconds, each with its speaker's name."""
    for where, sentence in numbered("sentence", _fireflies(data)["sentences"]):
        start, end = (seconds(where, key, sentence.get(key)) for key in ("start_time", "end_time"))
        yield Cue(where, start, end, string(where, sentence, "text"), None, person(sentence["speaker_name"]))


def _fireflies(data: Any) -> Json:
    """The transcript by itself, or the answer to a query for it."""
    return _within(data, "data", "transcript")


def _within(data: Any, *keys: str) -> Json:
    """What lies in an answer under these keys, one in the other, as far as it has them."""
    for key in keys:
        data = data.get(key, data) if isinstance(data, dict) else {}
    return data if isinstance(data, dict) else {}
