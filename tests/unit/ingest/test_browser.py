"""A browser's microphone, frame by frame."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart, contiguous
from bcaf_stream.ingest.protocol import Reply
from bcaf_stream.ingest.protocols.browser import BrowserParser
from bcaf_stream.types import AudioChunk, Channel, Gap

HELLO = json.dumps({"call": "m", "channels": [["speaker", "speaker"]], "rate": 48000})


def test_a_call_from_hello_to_end():
    parser, samples = BrowserParser(), np.arange(-500, 500, dtype=np.int16)
    assert parser.push(HELLO, 0) == [CallStart("m", (Channel("speaker"),), 48000)]
    assert [json.loads(reply.data) for reply in parser.accepted()] == [{"t": "accepted", "call": "m"}]
    chunks = [item for part in np.split(samples, 10) for item in parser.push(part.tobytes(), 7)]
    assert contiguous(chunks)
    assert np.concatenate([chunk.samples for chunk in chunks]).tolist() == samples.tolist()
    end, closed = parser.push('{"end": true}', 0)
    assert end == CallEnd("complete")
    assert json.loads(closed.data) == {"t": "closed", "reason": "complete"}
    assert parser.push("anything", 0) == []
    assert parser.closed(CallOutcome(0, "complete")) == []


def test_a_page_that_slept_is_silent_for_that_long():
    parser = BrowserParser()
    rate, channels = json.loads(HELLO)["rate"], len(json.loads(HELLO)["channels"])
    items, piece = parser.push(HELLO, 0), bytes(2 * channels * rate // 50)
    for at_ms in [*range(0, 1000, 20), *range(6000, 6200, 20)]:
        items += parser.push(piece, at_ms * 1_000_000)
    items += parser.push('{"end": true}', 6200 * 1_000_000)
    gaps = [item for item in items if isinstance(item, Gap)]
    assert len(gaps) == channels
    assert abs(gaps[0].end - gaps[0].start - 5 * rate) <= rate // 20
    assert contiguous([item for item in items if isinstance(item, AudioChunk | Gap)])
    assert isinstance(items[-2], CallEnd)


def test_farewells():
    parser = BrowserParser()
    (busy,) = parser.refused(BusyError("no more calls"))
    assert json.loads(busy.data) == {"t": "refused", "busy": True, "message": "no more calls"}
    (over,) = parser.closed(CallOutcome(0, "complete"))
    assert json.loads(over.data)["t"] == "closed"


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"\x00\x00", "before the call"),
        ("x", "not a JSON"),
        ("{}", "call must be given"),
        (json.dumps(json.loads(HELLO) | {"rate": 1}), "rate"),
        (json.dumps(json.loads(HELLO) | {"channels": []}), "channels"),
    ],
)
def test_a_broken_client_is_told_why(frame, said):
    with pytest.raises(LinkError, match=said):
        BrowserParser().push(frame, 0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(max_size=9) | st.text(max_size=20) | st.just(HELLO) | st.just('{"end": true}'), max_size=8)
)
def test_whatever_comes_is_sound_or_a_link_error(frames):
    parser, items = BrowserParser(), []
    for frame in frames:
        with contextlib.suppress(LinkError):
            items += parser.push(frame, 0)
    assert contiguous([item for item in items if isinstance(item, AudioChunk)])
    assert sum(isinstance(item, CallStart) for item in items) <= 1
    assert all(isinstance(item, CallStart | AudioChunk | CallEnd | Reply) for item in items)
