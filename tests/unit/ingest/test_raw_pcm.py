"""Raw PCM's bytes: with a first line and without, any cutting, and any nonsense."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart, ChannelConfig, contiguous
from bcaf_stream.ingest.protocol import Item
from bcaf_stream.ingest.protocols.raw_pcm import MAX_HELLO, PcmFormat, PcmParser
from bcaf_stream.types import AudioChunk, Channel

SIDES = (Channel("left", "customer"), Channel("right", "agent"))
SAMPLES_NC = np.random.default_rng(0).integers(-32768, 32767, (500, 2), np.int16, endpoint=True)
AT = 1_700_000_000_123_456_789


def hello(**fields: Any) -> bytes:
    plain = {"call": "call 7", "channels": [["left", "customer"], ["right", "agent"]], "rate": 8000}
    return json.dumps(plain | fields).encode() + b"\n"


def pcm(samples_NC: np.ndarray = SAMPLES_NC) -> bytes:
    return samples_NC.astype("<i2").tobytes()


def fixed() -> PcmParser:
    format = PcmFormat(
        name="line 1", channels=(ChannelConfig(name="left"), ChannelConfig(name="right")), rate=8000
    )
    return PcmParser("none", format)


def push_in_pieces(parser: PcmParser, data: bytes, cuts: list[int]) -> list[Item]:
    items: list[Item] = []
    for size in [*cuts, len(data)]:
        items += parser.push(data[:size], AT)
        data = data[size:]
    return items + parser.flush(0, closed=True)


def check_sound(items: list[Item]) -> None:
    chunks = [item for item in items if isinstance(item, AudioChunk)]
    assert contiguous(chunks)
    for column, side in enumerate(SIDES):
        parts = [chunk.samples for chunk in chunks if chunk.channel == side.name]
        np.testing.assert_array_equal(np.concatenate(parts), SAMPLES_NC[:, column])


@given(cuts=st.lists(st.integers(1, 300), max_size=20))
def test_any_cutting_gives_the_same_samples(cuts: list[int]):
    items = push_in_pieces(PcmParser(), hello() + pcm() + b"\1", cuts)  # the half sample at the end is dropped
    assert items[0] == CallStart("call 7", SIDES, 8000)
    assert items[-1] == CallEnd()
    check_sound(items)


@given(cuts=st.lists(st.integers(1, 300), max_size=20))
def test_samples_alone_where_the_format_is_known(cuts: list[int]):
    items = push_in_pieces(fixed(), pcm(), cuts)
    begin = items[0]
    assert isinstance(begin, CallStart)
    assert (begin.call, begin.text) == ("line 1-20231114-221320-123", "none")
    check_sound(items)


def test_the_line_may_say_where_the_words_come_from():
    begin = PcmParser("asr").push(hello(text="given", unknown={"more": 1}), 0)[0]
    assert isinstance(begin, CallStart)
    assert begin.text == "given"


def test_samples_that_look_like_the_end_of_the_line():
    samples_NC = np.full((4, 2), 0x0A0A, np.int16)
    chunks = PcmParser().push(hello() + pcm(samples_NC), 0)[1:]
    assert [len(chunk.samples) for chunk in chunks if isinstance(chunk, AudioChunk)] == [4, 4]


def test_closing_before_the_line_is_no_call():
    parser = PcmParser()
    assert parser.push(hello()[:-1], 0) == []
    assert parser.flush(0, closed=True) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"GET / HTTP/1.1\r\n", "hello: not a JSON message"),
        (b"\xff\xfe\n", "hello: not a JSON message"),
        (b"[1]\n", "hello: must be a map"),
        (b"x" * (MAX_HELLO + 1), f"at most {MAX_HELLO} bytes"),
        (hello(rate=100), "hello: rate must be from 8000"),
        (hello(rate="8000"), "hello: rate must be a whole"),
        (hello(rate=True), "hello: rate must be a whole"),
        (hello(call=""), "hello: call must"),
        (hello(call="x" * 201), "hello: call must"),
        (hello(channels=[]), "hello: channels must be 1 to 16"),
        (hello(channels=[["a", "boss"]]), "hello: role must be one of customer"),
        (hello(channels=[["a", "agent"], ["a", "customer"]]), "its own name"),
        (hello(text="magic"), "hello: text must be one of given"),
    ],
)
def test_a_broken_first_line(line: bytes, said: str):
    with pytest.raises(LinkError, match=said) as caught:
        PcmParser().push(line, 0)
    assert "\n" not in str(caught.value)


def test_errors_do_not_quote_what_was_sent():
    with pytest.raises(LinkError) as caught:
        PcmParser().push(hello(token=["a secret"]), 0)
    assert "secret" not in str(caught.value)


def test_the_token_of_the_line_is_asked_for():
    asked: list[str | None] = []

    def allowed(token: str | None) -> bool:
        asked.append(token)
        return token == "right"

    assert PcmParser(token_allowed=allowed).push(hello(token="right"), 0)
    with pytest.raises(LinkError, match="not one that lets you in"):
        PcmParser(token_allowed=allowed).push(hello(token="wrong"), 0)
    with pytest.raises(LinkError, match="no token"):
        PcmParser(token_allowed=allowed).push(hello(), 0)
    assert asked == ["right", "wrong", None]


def test_the_answers_are_lines_of_json():
    parser = PcmParser()
    parser.push(hello(call="call 7"), 0)
    answers = [parser.accepted(), parser.refused(BusyError("no\nroom")), parser.closed(CallOutcome(3, "complete"))]
    lines = [reply.data for replies in answers for reply in replies]
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    assert [json.loads(line) for line in lines] == [
        {"t": "accepted", "call": "call 7"},
        {"t": "refused", "busy": True, "message": "no\nroom"},
        {"t": "closed", "utterances": 3, "reason": "complete"},
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["customer", "agent"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
LINES = st.builds(
    lambda fields: hello(**fields),
    st.dictionaries(st.sampled_from(["call", "channels", "rate", "token", "text"]), VALUES, max_size=3),
)


@settings(max_examples=300)
@given(st.lists(st.one_of(st.binary(max_size=60), LINES), max_size=6))
def test_any_bytes_are_understood_or_refused(pieces: list[bytes]):
    parser, items = PcmParser(), []
    with suppress(LinkError):
        for piece in pieces:
            items += parser.push(piece, 0)
        items += parser.flush(0, closed=True)
    assert contiguous([item for item in items if isinstance(item, AudioChunk)])
    assert all(not isinstance(item, CallStart) for item in items[1:])
    assert all(not isinstance(item, CallEnd) for item in items[:-1])
