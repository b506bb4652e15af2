"""No event has what must not be stored, whatever its type; the model reads it all the same."""

import numpy as np
import pytest

from bcaf_stream.alerts.rules import AlertRules
from bcaf_stream.audio.turns import AudioConfig
from bcaf_stream.context import Predict
from bcaf_stream.conversation import Conversation, Step
from bcaf_stream.events.codec import from_json, to_json
from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import progress_of
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.ingest.media import CallEnd, TextUpdate
from bcaf_stream.redaction import Redactor
from bcaf_stream.resumption import Resumption
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.types import Call, Channel, EmotionPrediction, SpeechSegment, Utterance, Words

CALL = Call("c1", (Channel("customer", "customer"), Channel("agent", "agent")))
CARD = "my card is 4111 1111 1111 1111"
PREDICTED = EmotionPrediction(("anger", "joy"), (0.9, 0.1), None, None, ("text",))
RULES = {
    "emotions": ["anger", "joy"],
    "rules": [{"alert": "Words", "value": {"words": ["4111", "card"], "over": "30s"}, "fire": 1}],
}


def conversation(redact: list, resumption: Resumption | None = None) -> Conversation:
    config = TextConfig(redact=redact, wait_ms=0)
    return Conversation(
        CALL,
        AudioConfig(),
        config,
        "m",
        ("audio", "text"),
        words=(),
        resumption=resumption,
        alerts=AlertRules.model_validate(RULES),
        clock=lambda: 1,
    )


def segment(index: int, start_ms: int) -> SpeechSegment:
    return SpeechSegment("customer", index, start_ms, start_ms + 900, start_ms + 1300, np.zeros(16, np.int16))


def words(text: str, start_ms: int, id: str) -> TextUpdate:
    return TextUpdate((Words(start_ms, start_ms + 900, text, "customer", id),))


def play(call: Conversation) -> tuple[list[Event], list[str | None]]:
    events, read = call.begin(), list[str | None]()

    def take(step: Step) -> None:
        events.extend(step.events)
        for work in step.work:
            assert isinstance(work, Predict)
            read.append(work.utterance.text)
            take(call.done(work, (PREDICTED, None)))

    take(call.push(words("please send it to jo", 0, "a")))
    take(call.take([segment(0, 0)]))
    take(call.push(words("please send it to jo@example.com", 0, "a")))  # corrected: a revision
    take(call.push(words(CARD, 2000, "b")))
    take(call.take([segment(1, 2000)]))
    take(call.take([segment(2, 8000)]))
    take(call.push(CallEnd()))
    return events, read


def test_what_is_said_is_redacted_in_every_event_and_read_by_the_model():
    events, read = play(conversation(["card", "email"]))
    text = "\n".join(map(to_json, events))
    assert "4111" not in text
    assert "jo@example.com" not in text
    assert read == ["please send it to jo", "please send it to jo@example.com", CARD, None]
    said = [(event.type, event.text, event.redacted) for event in events if event.utterance is not None]
    assert said == [
        ("emotion.final", "please send it to jo", 0),
        ("emotion.revised", "please send it to {email}", 1),
        ("emotion.final", "my card is {card}", 1),
        ("emotion.final", None, None),
    ]
    assert "firing" in {event.state for event in events}  # by "card", not by what is not there any more
    assert all(from_json(to_json(event)) == event for event in events)


def test_where_nothing_is_asked_for_nobody_looks():
    events, _ = play(conversation([]))
    assert "4111" in "".join(map(to_json, events))
    assert {event.redacted for event in events} == {None}


def test_a_resumed_call_tells_no_revision_of_what_is_the_same_but_for_the_redaction():
    events, _ = play(conversation(["card", "email"]))
    journal = events[: next(n for n, event in enumerate(events) if event.text == "my card is {card}") + 1]
    rest, _ = play(conversation(["card", "email"], Resumption(progress_of(journal), 0, 16_000, resent=True)))
    assert [event.utterance for event in rest if event.utterance is not None] == [2]
    assert "4111" not in "".join(map(to_json, rest))


@pytest.mark.parametrize("write", ["final", "interim"])
def test_interim_and_final_events_are_redacted_alike(write: str):
    writer = EventWriter(CALL, "m", lambda: 1, redaction=Redactor(["card"]))
    said = Utterance("c1", "customer", "customer", 0, 0, 900, None, CARD, "asr")
    event = getattr(writer, write)(said, PREDICTED)
    assert (event.text, event.redacted) == ("my card is {card}", 1)
    assert writer.degraded("the model failed", said).text == "my card is {card}"
