"""The JSON of each recogniser, in the shape that its documentation gives, is read to the millisecond."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.formats import PARSERS
from bcaf_stream.transcripts.json_formats import READERS
from bcaf_stream.transcripts.sources import read_transcript
from bcaf_stream.types import Channel, Words

STEREO = (Channel("customer", "customer"), Channel("agent", "agent"))
MONO = (Channel("mono"),)

# Who says it (0 is the customer's channel), with times in ms.
SAID = [
    (1, "Thank", 600, 1000),
    (1, "you.", 1000, 1500),
    (0, "Hi,", 2000, 2400),
    (0, "Ann.", 2400, 3000),
    (1, "Yes?", 3250, 3700),
]
TURNS = [(1, "Thank you.", 600, 1500), (0, "Hi, Ann.", 2000, 3000), (1, "Yes?", 3250, 3700)]


def bare(text: str) -> str:
    return text.strip(".,?").lower()


def split_mark(text: str) -> tuple[str, str]:
    return text.rstrip(".,?"), text[len(text.rstrip(".,?")) :]


def words_in(turn: tuple[int, str, int, int]) -> list[tuple[int, str, int, int]]:
    return [w for w in SAID if w[0] == turn[0] and turn[2] <= w[2] < turn[3]]


def aws_items(words: list[tuple[int, str, int, int]], **labels: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for _, text, start, end in words:
        word, mark = split_mark(text)
        times = {"start_time": f"{start / 1000}", "end_time": f"{end / 1000}"}
        items.append(
            {"type": "pronunciation", **times, "alternatives": [{"confidence": "0.9", "content": word}], **labels}
        )
        if mark:
            items.append(
                {"type": "punctuation", "alternatives": [{"confidence": "0.0", "content": mark}], **labels}
            )
    return items


def transcribe_speakers() -> dict[str, Any]:
    segments = [
        {
            "start_time": f"{turn[2] / 1000}",
            "end_time": f"{turn[3] / 1000}",
            "speaker_label": f"spk_{1 - turn[0]}",
            "items": [
                {"start_time": f"{w[2] / 1000}", "end_time": f"{w[3] / 1000}", "speaker_label": f"spk_{1 - w[0]}"}
                for w in words_in(turn)
            ],
        }
        for turn in TURNS
    ]
    results = {"transcripts": [{"transcript": "x"}], "speaker_labels": {"speakers": 2, "segments": segments}}
    return {"jobName": "j", "status": "COMPLETED", "results": {**results, "items": aws_items(SAID)}}


def transcribe_channels() -> dict[str, Any]:
    channels = [
        {"channel_label": f"ch_{n}", "items": aws_items([w for w in SAID if w[0] == n], channel_label=f"ch_{n}")}
        for n in (0, 1)
    ]
    labels = {"channels": channels, "number_of_channels": 2}
    return {"jobName": "j", "results": {"transcripts": [], "channel_labels": labels, "items": aws_items(SAID)}}


def call_analytics(items: bool = False) -> dict[str, Any]:
    turns = []
    for turn in TURNS:
        role = ("CUSTOMER", "AGENT")[turn[0]]
        said = {
            "ParticipantRole": role,
            "BeginOffsetMillis": turn[2],
            "EndOffsetMillis": turn[3],
            "Content": turn[1],
        }
        said |= {"Sentiment": "NEUTRAL", "LoudnessScores": [60.1]}
        if items:
            said["Items"] = [
                part
                for w in words_in(turn)
                for part in (
                    {"BeginOffsetMillis": w[2], "EndOffsetMillis": w[3], "Content": split_mark(w[1])[0]}
                    | {"Type": "pronunciation", "Confidence": "1.0"},
                    {"Content": split_mark(w[1])[1], "Type": "punctuation", "Confidence": "0.0"},
                )
                if part["Content"]
            ]
        turns.append(said)
    return {"JobStatus": "COMPLETED", "LanguageCode": "en-US", "Transcript": turns, "Channel": "VOICE"}


def deepgram(multichannel: bool, utterances: bool = True) -> dict[str, Any]:
    def words(said: list[tuple[int, str, int, int]]) -> list[dict[str, Any]]:
        return [
            {"word": bare(t), "start": s / 1000, "end": e / 1000, "confidence": 0.9, "punctuated_word": t}
            | ({} if multichannel else {"speaker": 1 - c, "speaker_confidence": 0.5})
            for c, t, s, e in said
        ]

    sides = [[w for w in SAID if w[0] == n] for n in (0, 1)] if multichannel else [SAID]
    channels = [
        {"alternatives": [{"transcript": " ".join(w[1] for w in said), "confidence": 0.9, "words": words(said)}]}
        for said in sides
    ]
    results: dict[str, Any] = {"channels": channels}
    if utterances:
        results["utterances"] = [
            {"start": t[2] / 1000, "end": t[3] / 1000, "channel": t[0] if multichannel else 0, "transcript": t[1]}
            | {"words": words(words_in(t)), "id": "u", "confidence": 0.9}
            for t in TURNS
        ]
    return {"metadata": {"request_id": "r", "duration": 4.0, "channels": len(sides)}, "results": results}


def assembly_ai(**extra: Any) -> dict[str, Any]:
    def word(w: tuple[int, str, int, int]) -> dict[str, Any]:
        return {"text": w[1], "start": w[2], "end": w[3], "confidence": 0.9, "speaker": "BA"[w[0]]}

    utterances = [
        {"speaker": "BA"[t[0]], "text": t[1], "start": t[2], "end": t[3], "confidence": 0.9}
        | {"words": [word(w) for w in words_in(t)]}
        for t in TURNS
    ]
    words = [word(w) for w in SAID]
    return {"id": "i", "status": "completed", "text": "x", "utterances": utterances, "words": words, **extra}


def assembly_ai_channels() -> dict[str, Any]:
    data = assembly_ai(multichannel=True, audio_channels=2)
    for utterance, turn in zip(data["utterances"], TURNS, strict=True):
        utterance |= {"channel": str(turn[0] + 1), "speaker": str(turn[0] + 1)}
        for word in utterance["words"]:
            word |= {"channel": utterance["channel"], "speaker": utterance["speaker"]}
    return data


def google(key: str = "Time", tag: str | None = "speakerTag") -> dict[str, Any]:
    def word(w: tuple[int, str, int, int], tagged: bool) -> dict[str, Any]:
        found: dict[str, Any] = {f"start{key}": f"{w[2] / 1000:.3f}s", f"end{key}": f"{w[3] / 1000:.3f}s"}
        return found | {"word": w[1]} | ({tag: 2 - w[0]} if tag and tagged else {})

    results = [
        {
            "alternatives": [
                {"transcript": t[1], "confidence": 0.9, "words": [word(w, False) for w in words_in(t)]}
            ],
            f"resultEnd{key}": f"{t[3] / 1000}s",
            "languageCode": "en-us",
        }
        for t in TURNS
    ]
    if tag:
        results.append({"alternatives": [{"words": [word(w, True) for w in SAID]}]})
    return {"results": results, "totalBilledTime": "15s"}


def google_channels() -> dict[str, Any]:
    data = google(tag=None)
    for result, turn in zip(data["results"], TURNS, strict=True):
        result["channelTag"] = turn[0] + 1
    return {"name": "1", "done": True, "response": {"@type": "x.LongRunningRecognizeResponse", **data}}


def google_v2_batch() -> dict[str, Any]:
    data = google("Offset", None)
    for result, turn in zip(data["results"], TURNS, strict=True):
        for word in result["alternatives"][0]["words"]:
            word["speakerLabel"] = str(2 - turn[0])
    return {"results": {"gs://bucket/call.wav": {"transcript": data, "inlineResult": {"transcript": data}}}}


def azure(channels: bool, display_words: bool = True) -> dict[str, Any]:
    def times(start: int, end: int) -> dict[str, Any]:
        return {
            "offset": f"PT{start / 1000}S",
            "duration": f"PT{(end - start) / 1000}S",
            "offsetInTicks": start * 10_000.0,
            "durationInTicks": (end - start) * 10_000.0,
        }

    phrases = [
        {"recognitionStatus": "Success", "channel": t[0] if channels else 0, **times(t[2], t[3])}
        | ({} if channels else {"speaker": 2 - t[0]})
        | {
            "nBest": [
                {"confidence": 0.9, "lexical": bare(t[1]), "itn": bare(t[1]), "display": t[1]}
                | {"words": [{"word": bare(w[1]), **times(w[2], w[3])} for w in words_in(t)]}
                | (
                    {"displayWords": [{"displayText": w[1], **times(w[2], w[3])} for w in words_in(t)]}
                    if display_words
                    else {}
                )
            ]
        }
        for t in (sorted(TURNS) if channels else TURNS)
    ]
    return {"source": "https://x", "durationInTicks": 4e7, "recognizedPhrases": phrases, "duration": "PT4S"}


def azure_fast() -> dict[str, Any]:
    def times(start: int, end: int) -> dict[str, Any]:
        return {"offsetMilliseconds": start, "durationMilliseconds": end - start}

    phrases = [
        {"speaker": 2 - t[0], **times(t[2], t[3]), "text": t[1], "locale": "en-US", "confidence": 0.9}
        | {"words": [{"text": w[1], **times(w[2], w[3])} for w in words_in(t)]}
        for t in TURNS
    ]
    return {"durationMilliseconds": 4000, "combinedPhrases": [{"text": "x"}], "phrases": phrases}


def azure_sdk() -> list[dict[str, Any]]:
    return [
        {"Id": "a", "RecognitionStatus": "Success", "Offset": t[2] * 10_000, "Duration": (t[3] - t[2]) * 10_000}
        | {
            "Channel": 0,
            "Type": "ConversationTranscription",
            "SpeakerId": f"Guest-{2 - t[0]}",
            "DisplayText": t[1],
        }
        | {"NBest": [{"Confidence": 0.9, "Lexical": bare(t[1]), "Display": t[1]}]}
        for t in TURNS
    ]


def azure_conversation() -> dict[str, Any]:
    items = [
        {"id": str(n), "participantId": ("customer", "agent")[t[0]], "text": t[1], "lexical": bare(t[1])}
        | {
            "audioTimings": [
                {"word": bare(w[1]), "offset": w[2] * 10_000, "duration": (w[3] - w[2]) * 10_000}
                for w in words_in(t)
            ]
        }
        for n, t in enumerate(TURNS)
    ]
    return {"conversations": [{"conversationItems": items, "modality": "transcript", "language": "en"}]}


def nemo() -> dict[str, Any]:
    def row(key: str, turn: tuple[int, str, int, int]) -> dict[str, Any]:
        times = {"start_time": turn[2] / 1000, "end_time": turn[3] / 1000}
        return {key: turn[1], **times, "speaker": f"speaker_{1 - turn[0]}"}

    words, sentences = [row("word", w) for w in SAID], [row("sentence", t) for t in TURNS]
    return {"status": "Success", "session_id": "call", "words": words, "sentences": sentences, "speaker_count": 2}


def nemo_timestamps() -> list[dict[str, Any]]:
    words = [
        {"word": w[1], "start_offset": 1, "end_offset": 2, "start": w[2] / 1e3, "end": w[3] / 1e3} for w in SAID
    ]
    return [{"text": "x", "timestamp": {"word": words, "segment": [], "char": []}}]


def seglst() -> list[dict[str, Any]]:
    return [
        {"session_id": "call", "speaker": f"speaker_{1 - t[0]}", "words": t[1]}
        | {"start_time": str(t[2] / 1000), "end_time": str(t[3] / 1000)}
        for t in TURNS
    ]


def rev() -> dict[str, Any]:
    monologues = []
    for turn in TURNS:
        elements: list[dict[str, Any]] = []
        for _, text, start, end in words_in(turn):
            word, mark = split_mark(text)
            if elements:
                elements.append({"type": "punct", "value": " "})
            elements.append({"type": "text", "value": word, "ts": start / 1000, "end_ts": end / 1000})
            if mark:
                elements.append({"type": "punct", "value": mark})
        elements.append({"type": "unknown", "value": "<laugh>"})
        monologues.append({"speaker": 1 - turn[0], "elements": elements})
    return {"monologues": monologues}


def rev_names() -> dict[str, Any]:
    return {"speakers": [{"id": 0, "name": "Daniel Reyes"}, {"id": 1, "name": "Maria Lopez"}], **rev()}


def eleven_labs(side: int | None = None) -> dict[str, Any]:
    words: list[dict[str, Any]] = [{"text": "(laughs)", "start": 0.1, "end": 0.2, "type": "audio_event"}]
    for c, text, start, end in SAID:
        if side in (None, c):
            times = {"start": start / 1000, "end": end / 1000}
            words.append(
                {"text": text, **times, "type": "word", "speaker_id": f"speaker_{1 - c}", "logprob": -0.1}
            )
            words.append({"text": " ", "start": end / 1000, "end": end / 1000, "type": "spacing"})
    return {"language_code": "eng", "language_probability": 0.98, "text": "x", "words": words}


def eleven_labs_channels() -> dict[str, Any]:
    return {"transcripts": [{**eleven_labs(side), "channel_index": side} for side in (0, 1)]}


def speechmatics() -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for c, text, start, end in SAID:
        word, mark = split_mark(text)
        one = {"content": word, "confidence": 1.0, "language": "en", "speaker": f"S{2 - c}"}
        results.append({"type": "word", "start_time": start / 1000, "end_time": end / 1000, "alternatives": [one]})
        if mark:
            results.append(
                {"type": "punctuation", "start_time": end / 1000, "end_time": end / 1000, "is_eos": True}
                | {"alternatives": [{**one, "content": mark}], "attaches_to": "previous"}
            )
    return {"format": "2.9", "metadata": {}, "results": results}


def whisper_cpp(speakers: bool = False) -> dict[str, Any]:
    rows = [
        {"timestamps": {"from": "00:00:00,600", "to": "00:00:01,500"}, "offsets": {"from": t[2], "to": t[3]}}
        | {"text": f" {t[1]}"}
        | ({"speaker": str(t[0])} if speakers else {"speaker_turn_next": False})
        for t in TURNS
    ]
    return {"systeminfo": "x", "model": {}, "params": {}, "result": {"language": "en"}, "transcription": rows}


def whisper_cpp_full() -> dict[str, Any]:
    data = whisper_cpp()
    for row, turn in zip(data["transcription"], TURNS, strict=True):
        tokens = [{"text": "[_BEG_]", "offsets": {"from": turn[2], "to": turn[2]}, "id": 50363, "p": 0.9}]
        for _, text, start, end in words_in(turn):
            word, mark = split_mark(text)
            tokens.append({"text": f" {word}", "offsets": {"from": start, "to": end}, "id": 1, "p": 0.9})
            tokens += [{"text": mark, "offsets": {"from": end, "to": end}, "id": 2, "p": 0.9}] if mark else []
        row["tokens"] = tokens
    return data


def hugging_face(words: bool) -> dict[str, Any]:
    rows = SAID if words else TURNS
    return {"text": "x", "chunks": [{"text": f" {r[1]}", "timestamp": [r[2] / 1000, r[3] / 1000]} for r in rows]}


def insanely_fast() -> dict[str, Any]:
    rows = [
        {"speaker": f"SPEAKER_0{1 - t[0]}", "text": t[1], "timestamp": [t[2] / 1000, t[3] / 1000]} for t in TURNS
    ]
    return {"speakers": rows, "chunks": hugging_face(False)["chunks"], "text": "x"}


def whisperx(missing: bool = False) -> dict[str, Any]:
    segments = []
    for turn in TURNS:
        who = {"speaker": f"SPEAKER_0{1 - turn[0]}"}
        words = [
            {"word": w[1], "start": w[2] / 1000, "end": w[3] / 1000, "score": 0.9, **who} for w in words_in(turn)
        ]
        if missing and len(words) > 1:
            words[1] = {"word": words[1]["word"]}  # WhisperX aligns no digits
        segments.append(
            {"start": turn[2] / 1000, "end": turn[3] / 1000, "text": f" {turn[1]}", "words": words, **who}
        )
    return {"segments": segments, "word_segments": [], "language": "en"}


def verbose(words: bool) -> dict[str, Any]:
    segments = [
        {"id": n, "seek": 0, "start": t[2] / 1000, "end": t[3] / 1000, "text": f" {t[1]}", "tokens": [1]}
        for n, t in enumerate(TURNS)
    ]
    timed = [{"word": w[1], "start": w[2] / 1000, "end": w[3] / 1000} for w in SAID]
    whole = {"task": "transcribe", "language": "english", "duration": 4.0, "text": "x"}
    return {**whole, "words": timed} if words else {**whole, "segments": segments}


BY_CHANNEL: dict[str, tuple[Any, bool]] = {  # the result, and whether its words have times
    "Transcribe, channels": (transcribe_channels(), True),
    "Call Analytics": (call_analytics(), False),
    "Call Analytics, items": (call_analytics(items=True), True),
    "Deepgram, multichannel": (deepgram(True), True),
    "AssemblyAI, multichannel": (assembly_ai_channels(), True),
    "Google, channels": (google_channels(), True),
    "Azure batch, channels": (azure(channels=True), True),
    "Azure conversation": (azure_conversation(), True),
    "whisper.cpp, stereo": (whisper_cpp(speakers=True), False),
    "ElevenLabs, channels": (eleven_labs_channels(), True),
}
BY_SPEAKER: dict[str, tuple[Any, bool, str]] = {  # and the name of who is the agent
    "Transcribe, speakers": (transcribe_speakers(), True, "spk_0"),
    "Deepgram": (deepgram(False), True, "speaker 0"),
    "Deepgram, no utterances": (deepgram(False, utterances=False), True, "speaker 0"),
    "AssemblyAI": (assembly_ai(), True, "A"),
    "AssemblyAI, utterances": (assembly_ai()["utterances"], True, "A"),
    "AssemblyAI, words": ({**assembly_ai(), "utterances": None}, True, "A"),
    "Google, speakers": (google(), True, "speaker 1"),
    "Google v2, batch": (google_v2_batch(), True, "speaker 1"),
    "Azure batch, speakers": (azure(channels=False), True, "speaker 1"),
    "Azure batch, lexical words": (azure(channels=False, display_words=False), True, "speaker 1"),
    "Azure fast": (azure_fast(), True, "speaker 1"),
    "Azure SDK": (azure_sdk(), False, "Guest-1"),
    "NeMo": (nemo(), True, "speaker_0"),
    "SegLST": (seglst(), False, "speaker_0"),
    "Rev AI": (rev(), True, "speaker 0"),
    "Rev, names": (rev_names(), True, "Daniel Reyes"),
    "ElevenLabs": (eleven_labs(), True, "speaker_0"),
    "Speechmatics": (speechmatics(), True, "S1"),
    "insanely-fast-whisper": (insanely_fast(), False, "SPEAKER_00"),
    "WhisperX": (whisperx(), True, "SPEAKER_00"),
}
BY_NOBODY: dict[str, tuple[Any, bool]] = {
    "whisper.cpp": (whisper_cpp(), False),
    "whisper.cpp, full": (whisper_cpp_full(), True),
    "Hugging Face": (hugging_face(words=False), False),
    "Hugging Face, words": (hugging_face(words=True), True),
    "OpenAI": (verbose(words=False), False),
    "OpenAI, words": (verbose(words=True), True),
    "NeMo, timestamps": (nemo_timestamps(), True),
}


def watson(speakers: bool) -> dict[str, Any]:
    results = [
        {
            "final": True,
            "alternatives": [
                {
                    "transcript": turn[1],
                    "timestamps": [[w[1], w[2] / 1000, w[3] / 1000] for w in words_in(turn)],
                }
            ],
        }
        for turn in TURNS
    ]
    labels = [{"from": w[2] / 1000, "to": w[3] / 1000, "speaker": 1 - w[0], "confidence": 0.5} for w in SAID]
    return {"result_index": 0, "results": results, **({"speaker_labels": labels} if speakers else {})}


def vosk() -> dict[str, Any]:
    words = [{"conf": 1.0, "start": w[2] / 1000, "end": w[3] / 1000, "word": w[1]} for w in SAID]
    return {"result": words, "text": " ".join(w[1] for w in SAID)}


BY_SPEAKER["IBM Watson"] = (watson(speakers=True), True, "speaker 0")
BY_NOBODY["IBM Watson"] = (watson(speakers=False), True)
BY_NOBODY["Vosk"] = (vosk(), True)


BEGAN_AT = 1_700_000_000_000  # unix ms


def genesys() -> dict[str, Any]:
    def times(start: int, end: int) -> dict[str, Any]:
        return {"startTimeMs": BEGAN_AT + start, "duration": {"milliseconds": end - start}}

    phrases = [
        {"text": t[1], "participantPurpose": ("external", "internal")[t[0]], **times(t[2], t[3])}
        | {"words": [{"word": w[1], "confidence": 0.9, **times(w[2], w[3])} for w in words_in(t)]}
        for t in TURNS
    ]
    return {
        "conversationId": "c",
        "startTime": BEGAN_AT,
        "transcripts": [{"transcriptId": "t", "phrases": phrases}],
    }


def twilio() -> dict[str, Any]:
    return {
        "meta": {"page": 0},
        "sentences": [
            {"media_channel": 1 + t[0], "sentence_index": n, "transcript": t[1], "words": None}
            | {"start_time": str(t[2] / 1000), "end_time": str(t[3] / 1000)}
            for n, t in enumerate(TURNS)
        ],
    }


def gladia(channels: bool) -> dict[str, Any]:
    utterances = [
        {"text": t[1], "start": t[2] / 1000, "end": t[3] / 1000, "channel": t[0] if channels else 0}
        | ({} if channels else {"speaker": 1 - t[0]})
        | {"words": [{"word": f" {w[1]}", "start": w[2] / 1000, "end": w[3] / 1000} for w in words_in(t)]}
        for t in TURNS
    ]
    return {"status": "done", "result": {"transcription": {"full_transcript": "x", "utterances": utterances}}}


def retell() -> dict[str, Any]:
    turns = [
        {"role": ("user", "agent")[t[0]], "content": t[1]}
        | {"words": [{"word": w[1], "start": w[2] / 1000, "end": w[3] / 1000} for w in words_in(t)]}
        for t in TURNS
    ]
    return {"call_id": "c", "transcript": "x", "transcript_object": turns}


def recall() -> list[dict[str, Any]]:
    def at(ms: int) -> dict[str, Any]:
        return {"relative": ms / 1000, "absolute": "2026-01-01T00:00:00Z"}

    return [
        {"participant": {"id": 1, "name": ("Maria Lopez", "Daniel Reyes")[t[0]]}}
        | {"words": [{"text": w[1], "start_timestamp": at(w[2]), "end_timestamp": at(w[3])} for w in words_in(t)]}
        for t in TURNS
    ]


def fireflies() -> dict[str, Any]:
    sentences = [
        {"index": n, "speaker_name": ("Maria Lopez", "Daniel Reyes")[t[0]], "speaker_id": t[0], "text": t[1]}
        | {"start_time": t[2] / 1000, "end_time": t[3] / 1000}
        for n, t in enumerate(TURNS)
    ]
    return {"data": {"transcript": {"title": "x", "sentences": sentences}}}


BY_CHANNEL |= {
    "Genesys Cloud": (genesys(), True),
    "Twilio": (twilio(), False),
    "Gladia, channels": (gladia(True), True),
    "Retell AI": (retell(), True),
}
BY_SPEAKER |= {
    "Gladia": (gladia(False), True, "speaker 0"),
    "Recall.ai": (recall(), True, "Daniel Reyes"),
    "Fireflies": (fireflies(), False, "Daniel Reyes"),
    "Fireflies, bare": (fireflies()["data"]["transcript"], False, "Daniel Reyes"),
}


def read(folder: Path, data: Any, channels=STEREO, speakers=()) -> list[Words]:
    path = folder / "call.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return read_transcript(path, channels, dict(speakers)).words


def expected(timed: bool, names: tuple[str | None, str | None]) -> list[Words]:
    return [Words(start, end, text, names[side]) for side, text, start, end in (SAID if timed else TURNS)]


@pytest.mark.parametrize("name", BY_CHANNEL)
def test_results_with_channels(tmp_path, name):
    data, timed = BY_CHANNEL[name]
    assert read(tmp_path, data) == expected(timed, ("customer", "agent"))


@pytest.mark.parametrize("name", BY_SPEAKER)
def test_results_with_speakers(tmp_path, name):
    data, timed, agent = BY_SPEAKER[name]
    lanes = read_transcript(write(tmp_path, data), MONO).lanes
    assert lanes[0].name == agent
    assert read(tmp_path, data, MONO) == expected(timed, (lanes[1].name, agent))
    assert read(tmp_path, data) == expected(False, (None, None))  # what one person says stays together
    mapped = read(tmp_path, data, speakers={agent.removeprefix("speaker "): "agent", lanes[1].name: "customer"})
    assert mapped == expected(timed, ("customer", "agent"))


@pytest.mark.parametrize("name", BY_NOBODY)
def test_results_without_either(tmp_path, name):
    data, timed = BY_NOBODY[name]
    assert read(tmp_path, data) == expected(timed, (None, None))


def write(folder: Path, data: Any) -> Path:
    path = folder / "call.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["manifest.json", "manifest.jsonl"])
def test_the_lines_of_a_nemo_manifest(tmp_path, name):
    path = tmp_path / name
    rows = [
        {"audio_filepath": "/data/call.wav", "offset": t[2] / 1000, "duration": (t[3] - t[2]) / 1000, "text": t[1]}
        for t in TURNS
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert read_transcript(path, STEREO).words == expected(False, (None, None))


def test_seconds_are_never_read_as_milliseconds(tmp_path):
    unknown = {"text": "x", "words": [{"text": w[1], "start": w[2] / 1000, "end": w[3] / 1000} for w in SAID]}
    with pytest.raises(TranscriptError, match="unknown kind"):
        read(tmp_path, unknown)
    rows = [{"start_ms": t[2] / 1000, "end_ms": t[3] / 1000, "text": t[1] * 9, "channel": None} for t in TURNS]
    path = tmp_path / "call.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with pytest.raises(TranscriptError, match="another unit"):
        read_transcript(path, STEREO)


def test_a_word_without_a_time_takes_the_time_between_its_neighbours(tmp_path):
    words = read(tmp_path, whisperx(missing=True), MONO)
    assert [w.text for w in words] == [w[1] for w in SAID]
    assert (words[1].start_ms, words[1].channel) == (1000, "SPEAKER_00")


def test_google_without_times_is_refused(tmp_path):
    with pytest.raises(TranscriptError, match="result 1: has no times"):
        read(tmp_path, {"results": [{"alternatives": [{"transcript": "hello there", "confidence": 0.9}]}]})


def test_an_open_end_is_closed(tmp_path):
    data = {
        "text": "x",
        "chunks": [{"timestamp": [0.5, None], "text": " Hi there."}, {"timestamp": [0.9, None], "text": " Yes."}],
    }
    assert read(tmp_path, data) == [Words(500, 900, "Hi there."), Words(900, 1300, "Yes.")]


@pytest.mark.parametrize(
    "data", [{"foo": 1}, [], [1, 2], {"results": []}, {"segments": {}}, {"words": []}, "x", 3]
)
def test_unknown_json_says_which_is_known(tmp_path, data):
    path = write(tmp_path, data)
    with pytest.raises(TranscriptError) as caught:
        read_transcript(path, STEREO)
    assert all(reader.name in str(caught.value) for reader in READERS) or "holds no words" in str(caught.value)


SAMPLES = [entry[0] for entry in [*BY_CHANNEL.values(), *BY_SPEAKER.values(), *BY_NOBODY.values()]]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


@st.composite
def spoilt(draw) -> Any:
    """A result with one value somewhere in it that is not what it should be."""
    data = json.loads(json.dumps(draw(st.sampled_from(SAMPLES))))
    at: Any = data
    for _ in range(draw(st.integers(1, 8))):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return data
        key = draw(st.sampled_from(keys))
        if draw(st.booleans()) or not isinstance(at[key], dict | list):
            at[key] = draw(JUNK)
            return data
        at = at[key]
    return data


@settings(deadline=None)
@given(spoilt())
def test_a_spoilt_result_is_read_or_refused(data):
    try:
        cues = list(PARSERS["json"](json.dumps(data)))
    except TranscriptError:
        return
    assert all(isinstance(cue.start_ms, int) and isinstance(cue.text, str) for cue in cues)
