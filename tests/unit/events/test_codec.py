import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import (
    ADDED,
    REQUIRED,
    TYPES,
    decode,
    draft,
    encode,
    from_json,
    numbered,
    to_json,
    to_map,
)
from bcaf_stream.events.event import EVENT_TYPES, SINCE_1_0, Event, Number, Probability, Signed, Whole

GOLDEN = Path(__file__).with_name("golden") / "events_v1.json"

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
WHOLE = st.integers(0, 2**63 - 1)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Anything that a field of this kind may hold."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in (Whole, Probability, Signed, Number):
        return {
            Whole: WHOLE,
            Probability: st.floats(0, 1),
            Signed: st.floats(-1, 1),
            Number: st.floats(allow_nan=False, allow_infinity=False),
        }[kind]
    if origin in (Union, UnionType):
        return st.one_of([values_of(each) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(TEXT, values_of(arguments[1]), max_size=4)
    return {NoneType: st.none(), str: TEXT, bool: st.booleans()}[kind]


EVENTS = st.builds(Event, **{name: values_of(kind) for name, kind in TYPES.items()})
FINAL = Event(
    type="emotion.final",
    id="9f",
    call="call.7",
    channel="left",
    role="customer",
    utterance=3,
    offset=12,
    seq=4,
    start_ms=1500,
    end_ms=2750,
    speech_ended_at=1_700_000_000_000_000_000,
    emitted_at=1_700_000_000_250_000_000,
    text="that's fine, thänk you",
    text_source="asr",
    emotion="joy",
    confidence=0.75,
    probs={"joy": 0.75, "anger": 0.25},
    audio_probs={"joy": 0.5, "anger": 0.5},
    text_probs=None,
    modalities=("audio",),
    model="bcaf-demo",
    degraded=("no_text",),
)


def golden_event(type: str) -> Event:
    """What the golden bytes of a type hold; call-level types carry nothing of an utterance."""
    if type.startswith("emotion."):
        return replace(FINAL, type=type)
    bare = Event(type=type, id="9f", call="call.7", seq=4, emitted_at=1_700_000_000_250_000_000, model="bcaf-demo")
    if type == "audio.gap":
        return replace(bare, channel="left", role="customer", start_ms=10, end_ms=30, reason="lost")
    if type == "speaker.relabelled":
        return replace(bare, channel="left", role="speaker", relabelled={"S3": "S1"}, reason="S3 is S1")
    if type in ("degraded", "call.end"):
        return replace(bare, reason="closed")
    return replace(bare, call="") if type == "heartbeat" else bare


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_the_bytes_of_version_1_never_change(type: str):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(golden) == set(EVENT_TYPES)
    event = golden_event(type)
    assert encode(event).hex() == golden[type]["msgpack"]
    assert json.loads(to_json(event)) == golden[type]["json"]
    assert decode(bytes.fromhex(golden[type]["msgpack"])) == event
    assert from_json(json.dumps(golden[type]["json"])) == event


@given(EVENTS)
def test_round_trips(event: Event):
    assert decode(encode(event)) == event
    assert from_json(to_json(event)) == event
    assert "\n" not in to_json(event)
    assert msgpack.unpackb(encode(event)) == json.loads(to_json(event)) == to_map(event)


@given(st.binary(max_size=200))
def test_any_bytes_raise_event_errors_only(data: bytes):
    for read in (decode, from_json):
        with pytest.raises(EventError, match=r"^event"):
            read(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(list(asdict(FINAL))), JSON)
def test_any_value_in_any_field_is_taken_or_an_event_error(name: str, value: object):
    """A value that is taken survives writing it again, so that a reader can always pass on what it read."""
    try:
        event = from_json(json.dumps(to_map(FINAL) | {name: value}))
    except EventError:
        return
    assert decode(encode(event)) == event


@given(EVENTS, st.data())
def test_damaged_bytes_raise_event_errors_only(event: Event, data: st.DataObject):
    good = bytearray(encode(event))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(at, len(good)))
    with contextlib.suppress(EventError):
        decode(bytes(good[:cut]))


@pytest.mark.parametrize("name", [n for n in REQUIRED if n not in SINCE_1_0])
def test_a_missing_field_is_named(name: str):
    data = to_map(FINAL)
    del data[name]
    with pytest.raises(EventError, match=f"the field {name} is missing"):
        decode(msgpack.packb(data))


def test_fields_of_a_later_writer_are_ignored_and_added_ones_may_be_absent():
    data = to_map(FINAL) | {"of_a_later_writer": {"deep": [1]}, "zzz": math.nan}
    del data["reason"]
    assert decode(msgpack.packb(data)) == FINAL
    assert from_json(json.dumps(data)) == FINAL
    data["text_confidence"] = 0.5  # as many fields as there are, and not the same ones
    assert decode(msgpack.packb(data)) == replace(FINAL, text_confidence=0.5)


def test_the_confidence_in_the_words_is_written_where_it_is_known():
    sure = replace(FINAL, text_confidence=0.5)
    assert to_map(sure) == to_map(FINAL) | {"text_confidence": 0.5}
    assert decode(encode(sure)) == from_json(to_json(sure)) == sure
    assert "text_confidence" not in to_map(FINAL)
    for value in (1.5, "high", math.nan):
        with pytest.raises(EventError, match="text_confidence must be a probability"):
            decode(msgpack.packb(to_map(FINAL) | {"text_confidence": value}))


def test_valence_and_arousal_are_written_where_they_are_known_and_lie_between_minus_one_and_one():
    unpleasant = replace(FINAL, valence=-0.25, arousal=0.5)
    assert to_map(unpleasant) == to_map(FINAL) | {"valence": -0.25, "arousal": 0.5}
    added = b"\xa7valence\xcb\xbf\xd0" + bytes(6) + b"\xa7arousal\xcb\x3f\xe0" + bytes(6)
    assert encode(unpleasant)[3:] == encode(FINAL)[3:] + added  # after the number of fields
    assert decode(encode(unpleasant)) == from_json(to_json(unpleasant)) == unpleasant
    for name, value in (("valence", -1.01), ("arousal", "high"), ("arousal", math.nan)):
        with pytest.raises(EventError, match=f"{name} must be a number from -1 to 1"):
            decode(msgpack.packb(to_map(FINAL) | {name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", 2),
        ("v", True),
        ("v", 1.0),
        ("type", "emotion.guess"),
        ("type", ["alert"]),
        ("seq", -1),
        ("seq", True),
        ("seq", 2**63),
        ("seq", 1.5),
        ("seq", None),
        ("text", b"x"),
        ("role", "boss"),
        ("probs", None),
        ("probs", {"joy": math.nan}),
        ("probs", {"joy": math.inf}),
        ("probs", {"joy": 1.01}),
        ("probs", {"joy": 10**400}),
        ("confidence", -0.1),
        ("confidence", math.nan),
        ("audio_probs", [0.5]),
        ("modalities", ["smell"]),
        ("modalities", "audio"),
        ("degraded", "no_text"),
        ("text", "\ud800"),
    ],
)
def test_wrong_values_are_refused_in_both_directions(name: str, value: object):
    with pytest.raises(EventError, match=f"^event: {name} must be"):
        encode(replace(FINAL, **{name: value}))
    with pytest.raises(EventError, match=f"^event: {name} must be"):
        to_json(replace(FINAL, **{name: value}))
    if not isinstance(value, bytes):
        with pytest.raises(EventError, match=f"^event: {name} must be"):
            from_json(json.dumps(to_map(FINAL) | {name: value}))


def test_errors_hold_no_words_of_the_call():
    secret = "my card number is 1234"
    with pytest.raises(EventError) as caught:
        from_json(json.dumps(to_map(FINAL) | {"text": [secret], "emotion": secret}))
    assert "1234" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc1", b"[]", b"\x90"]
)
def test_hostile_nesting_and_lengths(data: bytes):
    for read in (decode, from_json):
        with pytest.raises(EventError):
            read(data)


@given(EVENTS, WHOLE)
def test_a_draft_with_its_number_is_the_event_with_its_offset(event: Event, offset: int):
    assert numbered(draft(event), offset) == encode(replace(event, offset=offset))


@pytest.mark.parametrize("name", ADDED)
def test_an_added_field_is_left_out_where_it_is_none(name: str):
    assert getattr(FINAL, name) is None
    assert name not in to_map(FINAL)
    assert decode(msgpack.packb(to_map(FINAL) | {name: None})) == FINAL


def test_numbers_of_numpy_are_numbers():
    event = replace(FINAL, confidence=np.float64(0.75), probs={"joy": np.float64(0.75), "anger": 1})
    assert encode(event) == encode(replace(FINAL, probs={"joy": 0.75, "anger": 1.0}))
