import hashlib
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import EventError
from bcaf_stream.events.event import (
    EVENT_TYPES,
    Event,
    event_id,
    heartbeat,
    parse_topic,
    topic,
    topic_prefix,
)
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance

CALL = Call("call.7", (Channel("left", "customer"), Channel("right", "agent")))
NAMES = st.text(st.characters(codec="utf-8"), max_size=12)


def utterance(
    channel: str = "left", index: int = 0, call: str = "call.7", text: str | None = "hello"
) -> Utterance:
    return Utterance(
        call=call,
        channel=channel,
        role=CALL.role_of(channel),
        index=index,
        start_ms=100,
        end_ms=900,
        samples=None,
        text=text,
        text_source="given" if text else "none",
        speech_ended_at=5,
    )


def prediction(**changes: object) -> EmotionPrediction:
    fields = {
        "labels": ("joy", "anger", "neutral"),
        "probs": (0.12345678, 0.7, 0.17654322),
        "audio_probs": (0.2, 0.3, 0.5),
        "text_probs": None,
        "modalities": ("audio",),
    }
    return EmotionPrediction(**(fields | changes))


def writer() -> EventWriter:
    ticks = iter(range(1000, 2000))
    return EventWriter(CALL, "test-model", clock=lambda: next(ticks))


def test_a_final_event_carries_the_utterance_and_the_prediction():
    event = writer().final(replace(utterance(), degraded=("asr",)), prediction())
    assert event == Event(
        type="emotion.final",
        id=event_id("call.7", "left", 0, "emotion.final", 0),
        call="call.7",
        channel="left",
        role="customer",
        utterance=0,
        seq=0,
        start_ms=100,
        end_ms=900,
        speech_ended_at=5,
        emitted_at=1000,
        text="hello",
        text_source="given",
        emotion="anger",
        confidence=0.7,
        probs={"joy": 0.123457, "anger": 0.7, "neutral": 0.176543},
        audio_probs={"joy": 0.2, "anger": 0.3, "neutral": 0.5},
        text_probs=None,
        modalities=("audio",),
        model="test-model",
        degraded=("asr",),
    )


def test_what_replaces_an_utterance_says_so_and_has_an_id_of_its_own():
    w = writer()
    events = [
        w.interim(replace(utterance(text=None), revision=1), prediction()),
        w.final(utterance(text=None), prediction()),
        w.final(replace(utterance(), revision=1), prediction()),
    ]
    assert [(e.type, e.revision) for e in events] == [
        ("emotion.interim", 1),
        ("emotion.final", 0),
        ("emotion.revised", 1),
    ]
    assert len({e.id for e in events}) == 3
    assert {(e.channel, e.utterance, e.start_ms) for e in events} == {("left", 0, 100)}


def test_valence_and_arousal_are_in_the_event_where_the_model_gives_them():
    event = writer().final(utterance(), prediction(valence=-0.12345678, arousal=0.0))
    assert (event.valence, event.arousal) == (-0.123457, 0.0)
    assert (writer().final(utterance(), prediction()).valence) is None
    with pytest.raises(EventError, match="not finite"):
        writer().final(utterance(), prediction(valence=math.nan, arousal=0.0))


def test_the_policy_of_a_role_is_in_the_events():
    assert writer().start().reason is None
    policed = EventWriter(CALL, "m", policies={"left": "text_only", "right": "off"})
    assert policed.start().reason == "policy left: text_only, right: off"
    assert policed.final(utterance(), prediction()).reason == "policy text_only"


def test_seq_is_dense_and_the_clock_is_the_given_one():
    w = writer()
    events = [
        w.start(),
        w.final(utterance(), prediction()),
        w.gap("right", 10, 20, "lost"),
        w.degraded("slow"),
        w.end("closed"),
    ]
    assert [e.seq for e in events] == [0, 1, 2, 3, 4]
    assert [e.emitted_at for e in events] == [1000, 1001, 1002, 1003, 1004]
    assert [e.type for e in events] == ["call.start", "emotion.final", "audio.gap", "degraded", "call.end"]
    assert events[2].role == "agent"
    assert [e.reason for e in events] == [None, None, "lost", "slow", "closed"]
    assert all(e.channel == "" and e.utterance is None for e in (events[0], events[3], events[4]))


def test_processing_a_call_again_gives_the_same_ids_and_all_differ():
    w = writer()

    def ids() -> list[str]:
        w.reset()
        events = [w.start(), w.degraded("a"), w.degraded("a"), w.gap("left", 0, 1, "x"), w.gap("right", 0, 1, "x")]
        events += [w.gap("left", 0, 1, "x")]
        events += [w.final(utterance(c, i), prediction()) for c in ("left", "right") for i in range(3)]
        return [e.id for e in [*events, w.end("done")]]

    assert ids() == ids()
    assert len(set(ids())) == len(ids()) == 13


def test_the_id_is_pinned():
    key = b'["call.7","left",3,"emotion.final",0]'
    assert event_id("call.7", "left", 3, "emotion.final", 0) == hashlib.blake2b(key, digest_size=16).hexdigest()
    assert event_id("call.7", "left", 3, "emotion.final", 0) == "9b2074daa9d5203127ae5728ff1dd6e2"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_prediction_that_is_not_finite_is_refused(bad: float):
    with pytest.raises(EventError, match="not finite"):
        writer().final(utterance(), prediction(probs=(0.1, bad, 0.2)))


def test_an_utterance_of_another_call_is_refused():
    with pytest.raises(EventError, match="call '8'"):
        writer().final(utterance(call="8"), prediction())


def test_topic_percent_encodes_names():
    event = Event(type="alert", id="x", call="a.b c/é", channel="~l_-", seq=0, emitted_at=1)
    assert topic(event) == "emo.v1.a%2Eb%20c%2F%C3%A9.%7El_-.alert"
    assert topic(heartbeat(0, 1)) == "emo.v1...heartbeat"


@given(NAMES, NAMES, st.sampled_from(EVENT_TYPES))
def test_topic_round_trip_and_prefixes(call: str, channel: str, type: str):
    text = topic(Event(type=type, id="x", call=call, channel=channel, seq=0, emitted_at=1))
    assert parse_topic(text) == (call, channel, type)
    assert text.isascii()
    for prefix in (topic_prefix(), topic_prefix(call), topic_prefix(call, channel)):
        assert text.startswith(prefix)


@given(NAMES, NAMES, NAMES)
def test_a_prefix_matches_its_own_call_only(call: str, other: str, channel: str):
    text = topic(Event(type="alert", id="x", call=call, channel=channel, seq=0, emitted_at=1))
    assert text.startswith(topic_prefix(other)) == (call == other)


@given(st.text(max_size=40))
def test_parse_topic_raises_event_errors_only(text: str):
    try:
        parsed = parse_topic("emo.v1." + text)
    except EventError:
        return
    assert topic(Event(type=parsed.type, id="x", call=parsed.call, channel=parsed.channel, seq=0, emitted_at=1))


@pytest.mark.parametrize(
    "text", ["", "emo.v1.a.b", "emo.v2.a.b.alert", "emo.v1.a.b.nope", "emo.v1.%FF.b.alert", "emo.v1.%61.b.alert"]
)
def test_topics_that_are_none(text: str):
    with pytest.raises(EventError, match=r"^topic"):
        parse_topic(text)


def test_a_channel_prefix_needs_its_call():
    with pytest.raises(EventError, match="needs the call"):
        topic_prefix(channel="left")


def test_a_name_that_is_no_unicode_is_refused():
    with pytest.raises(EventError, match="not valid Unicode"):
        topic_prefix("\ud800")
