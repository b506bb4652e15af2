import contextlib
from dataclasses import fields, is_dataclass

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import MAX_INT, MissingSound, TextUpdate
from bcaf_stream.ingest.protocols.link import (
    LATEST,
    Accepted,
    Audio,
    Close,
    Closed,
    Credit,
    Open,
    Refused,
    pack,
    parse_client,
    parse_server,
)
from bcaf_stream.types import Channel, Words

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
WHOLE = st.integers(0, MAX_INT - 1)
ROLES = st.sampled_from(["customer", "agent", "speaker"])
OPEN = st.builds(
    lambda run, **fields: Open(**fields, sender=run and run[0], resume=run and run[1]),
    run=st.none() | st.tuples(NAME, st.none() | WHOLE),
    call=NAME,
    channels=st.lists(st.builds(Channel, NAME, ROLES), min_size=1, max_size=4, unique_by=lambda c: c.name).map(
        tuple
    ),
    rate=st.integers(8000, 192_000),
    text=st.sampled_from(["asr", "given", "none"]),
)
ITEM = st.builds(
    lambda start, length, *rest: Words(start, start + length, *rest),
    st.integers(0, 10**9),
    st.integers(0, 10**6),
    TEXT,
    st.none() | NAME,
    st.none() | NAME,
    st.booleans(),
)
WORDS = st.builds(TextUpdate, st.lists(ITEM, max_size=4).map(tuple), st.booleans(), st.none() | NAME)
CLIENT = OPEN | WORDS | st.just(Close())
SERVER = (
    st.builds(Accepted, NAME, WHOLE, st.none() | WHOLE)
    | st.builds(Credit, WHOLE, WHOLE)
    | st.builds(Closed, WHOLE, TEXT)
    | st.builds(Refused, TEXT)
)
PCM = hnp.arrays(np.int16, st.tuples(st.integers(1, 20), st.integers(1, 4)))

GOOD_OPEN = {"t": "open", "v": 1, "call": "7", "rate": 8000, "channels": [["left", "customer"]], "text": "asr"}
GOOD_AUDIO = {"t": "audio", "seq": 0, "start": 0, "pcm": b"\x01\x02\x03\x04"}
GOOD_WORDS = {"t": "words", "items": [[None, 0, 10, "hi"]]}


@given(CLIENT)
def test_client_messages_round_trip(message: object):
    assert parse_client(pack(message), channels=2) == message


@given(SERVER)
def test_server_messages_round_trip(message: object):
    assert parse_server(pack(message)) == message


@given(WHOLE, st.integers(0, LATEST // 2), PCM, st.none() | st.tuples(NAME, st.integers(1, 10**9), NAME))
def test_audio_round_trips(seq: int, start: int, samples_NC: np.ndarray, lack: tuple[str, int, str] | None):
    missing = (MissingSound(lack[0], start, start + lack[1], lack[2]),) if lack else ()
    parsed = parse_client(pack(Audio(seq, start, samples_NC, missing=missing)), channels=samples_NC.shape[1])
    assert isinstance(parsed, Audio)
    assert parsed.missing == missing
    assert (parsed.seq, parsed.start, parsed.received_at) == (seq, start, 0)
    assert parsed.samples_NC.dtype == np.int16
    np.testing.assert_array_equal(parsed.samples_NC, samples_NC)


def test_the_bytes_of_version_1_never_change():
    """What other people's senders are written against."""
    opening = Open("7", (Channel("left", "customer"),), 8000, "asr")
    audio = Audio(0, 0, np.array([[0x0201, 0x0403]], np.int16))
    words = TextUpdate((Words(0, 10, "hi"),))
    assert [msgpack.unpackb(pack(m)) for m in (opening, audio, words, Close())] == [
        GOOD_OPEN,
        GOOD_AUDIO,
        GOOD_WORDS,
        {"t": "close"},
    ]
    assert msgpack.unpackb(pack(TextUpdate((), last=True))) == {"t": "words", "items": [], "last": True}
    assert [msgpack.unpackb(pack(m)) for m in (Accepted("7", 5), Credit(6), Closed(2, "end"), Refused("no"))] == [
        {"t": "accepted", "call": "7", "window_ms": 5},
        {"t": "credit", "upto_ms": 6},
        {"t": "closed", "utterances": 2, "reason": "end"},
        {"t": "refused", "message": "no"},
    ]
    again = Open("7", (Channel("left", "customer"),), 8000, "asr", "run 1", 80)
    assert [msgpack.unpackb(pack(m)) for m in (again, Accepted("7", 5, 40), Credit(6, 3))] == [
        GOOD_OPEN | {"sender": "run 1", "resume": 80},
        {"t": "accepted", "call": "7", "window_ms": 5, "from": 40},
        {"t": "credit", "upto_ms": 6, "settled_ms": 3},
    ]
    silent = Audio(0, 0, np.array([[0x0201, 0x0403]], np.int16), missing=(MissingSound("left", 0, 9, "lost"),))
    assert msgpack.unpackb(pack(silent)) == GOOD_AUDIO | {"missing": [["left", 0, 9, "lost"]]}
    assert pack(audio).hex() == "84a174a5617564696fa373657100a5737461727400a370636dc40401020304"


@given(st.binary(max_size=100), st.none() | st.integers(1, 3))
def test_any_bytes_raise_link_errors_only(data: bytes, channels: int | None):
    for parse in (lambda: parse_client(data, channels), lambda: parse_server(data)):
        with pytest.raises(LinkError):
            parse()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from([GOOD_OPEN, GOOD_AUDIO, GOOD_WORDS]).flatmap(
        lambda good: st.tuples(st.just(good), st.sampled_from(sorted(good)), ANYTHING)
    )
)
def test_any_value_in_any_field_is_taken_or_a_link_error(case: tuple[dict, str, object]):
    good, name, value = case
    with contextlib.suppress(LinkError):
        message = parse_client(msgpack.packb(good | {name: value}), channels=2)
        assert is_dataclass(message)
        again = parse_client(pack(message), channels=2)
        assert [f.name for f in fields(again)] == [f.name for f in fields(message)]


@pytest.mark.parametrize(
    ("good", "change", "says"),
    [
        (GOOD_OPEN, {"v": 2}, "version 1 and not 2"),
        (GOOD_OPEN, {"v": None}, "v must be"),
        (GOOD_OPEN, {"rate": 7999}, "rate must be from 8000"),
        (GOOD_OPEN, {"rate": True}, "rate must be"),
        (GOOD_OPEN, {"channels": []}, "channels must be 1 to 16"),
        (GOOD_OPEN, {"channels": [["a", "agent"], ["a", "customer"]]}, "its own name"),
        (GOOD_OPEN, {"channels": [[str(n), "agent"] for n in range(17)]}, "1 to 16"),
        (GOOD_OPEN, {"channels": [["a", "boss"]]}, "role must be one of customer, agent, speaker"),
        (GOOD_OPEN, {"channels": ["ab"]}, "must be \\[name, role\\]"),
        (GOOD_OPEN, {"text": "guess"}, "text must be one of given, asr, none"),
        (GOOD_OPEN, {"call": ""}, "1 to 200 characters"),
        (GOOD_OPEN, {"call": "x" * 201}, "1 to 200 characters"),
        (GOOD_OPEN, {"t": "accepted"}, "t must be one of open"),
        (GOOD_AUDIO, {"pcm": b""}, "whole samples"),
        (GOOD_AUDIO, {"pcm": b"\0" * 6}, "each of 2 channels"),
        (GOOD_AUDIO, {"pcm": "text"}, "pcm must be given as bytes"),
        (GOOD_AUDIO, {"start": -1}, "start must be"),
        (GOOD_AUDIO, {"seq": 2**53}, "seq must be"),
        (GOOD_AUDIO, {"missing": [["a", 0, 9]]}, "must be \\[channel, start, end, reason\\]"),
        (GOOD_AUDIO, {"missing": [["a", 0, 0, "lost"]]}, "a first and a last sample"),
        (GOOD_AUDIO, {"missing": [["a", 0, 2**50, "lost"]]}, "a first and a last sample"),
        (GOOD_AUDIO, {"missing": [["a", 1, 9, "lost"]]}, "begin in the samples"),
        (GOOD_AUDIO, {"missing": [["a", 0, 9, "lost"]] * 101}, "at most 100"),
        (GOOD_WORDS, {"items": [[None, 10, 0, "hi"]]}, "in order"),
        (GOOD_WORDS, {"items": [[None, 0, 10, "x" * 10_001]]}, "at most 10000"),
        (GOOD_WORDS, {"items": [["", 0, 10, "hi"]]}, "name of a channel"),
        (GOOD_WORDS, {"items": [[None, 0, 10, "hi", ""]]}, "a channel or a text"),
        (GOOD_WORDS, {"items": [[None, 0, 10, "hi", "w1", 1]]}, "final must be"),
        (GOOD_WORDS, {"items": [[None, 0, 10, "hi", "w1", True, 7]]}, "an item must be"),
        (GOOD_WORDS, {"call": 7}, "call must have"),
        (GOOD_WORDS, {"last": 1}, "last must be given as bool"),
        (GOOD_WORDS, {"items": "hi"}, "items must be given as list"),
    ],
)
def test_what_is_not_allowed_is_said(good: dict, change: dict, says: str):
    parse_client(msgpack.packb(good), channels=2)
    with pytest.raises(LinkError, match=says):
        parse_client(msgpack.packb(good | change), channels=2)


def test_audio_needs_an_open_call():
    with pytest.raises(LinkError, match="no call is open"):
        parse_client(msgpack.packb(GOOD_AUDIO))


def test_unknown_fields_are_ignored():
    assert parse_client(msgpack.packb(GOOD_OPEN | {"codec": "pcm"})) == parse_client(msgpack.packb(GOOD_OPEN))


def test_errors_hold_no_words_of_the_call():
    with pytest.raises(LinkError) as caught:
        parse_client(msgpack.packb({"t": "words", "items": [["left", 5, 0, "my card is 1234"]]}))
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("data", [b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdf\x00\x0f\xff\xff" * 1000, b""])
def test_hostile_nesting_and_lengths(data: bytes):
    with pytest.raises(LinkError):
        parse_client(data)


def test_a_name_that_is_no_unicode_is_refused():
    with pytest.raises(LinkError, match="not valid Unicode"):
        pack(Open("\udcff", (Channel("a"),), 8000, "none"))
