"""Media streams: whatever the order, the same sound; and nothing but LinkError for whatever else comes."""

import base64
import contextlib
import json
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.codecs import decode_alaw, decode_ulaw
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart, ChannelConfig, contiguous
from bcaf_stream.ingest.protocol import Item
from bcaf_stream.ingest.protocols.twilio import TwilioConfig, TwilioParser
from bcaf_stream.types import AudioChunk, Channel, Gap
from tests.stream_messages import (
    FRAME,
    telnyx_start,
    twilio_frames,
    twilio_media,
    twilio_session,
    twilio_start,
    twilio_stop,
)

WAIT_MS = 500


def noise(frames: int, seed: int = 0, frame: int = FRAME) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, frames * frame, np.uint8).tobytes()


def push_all(messages: Iterable[str | bytes], config: TwilioConfig | None = None) -> list[Item]:
    parser = TwilioParser(config or TwilioConfig(port=0))
    items = [item for at, message in enumerate(messages) for item in parser.push(message, at)]
    assert contiguous([item for item in items if isinstance(item, AudioChunk | Gap)])
    return items


def heard(items: list[Item], channel: str) -> list[int]:
    """The samples of a channel; a gap is silence."""
    parts = [np.zeros(0, np.int16)]
    for item in items:
        if isinstance(item, AudioChunk) and item.channel == channel:
            parts.append(item.samples)
        if isinstance(item, Gap) and item.channel == channel:
            parts.append(np.zeros(item.end - item.start, np.int16))
    return np.concatenate(parts).tolist()


def gaps(items: list[Item]) -> list[Gap]:
    return [item for item in items if isinstance(item, Gap)]


def test_a_call_in_order():
    inbound, outbound = noise(50, 1), noise(50, 2)
    items = push_all(twilio_session({"inbound": inbound, "outbound": outbound}))
    assert items[0] == CallStart("CA1", (Channel("customer", "customer"), Channel("agent", "agent")), 8000)
    assert items[-1] == CallEnd("complete")
    assert heard(items, "customer") == decode_ulaw(inbound).tolist()
    assert heard(items, "agent") == decode_ulaw(outbound).tolist()
    assert gaps(items) == []


def test_what_comes_in_order_is_given_out_at_once():
    parser = TwilioParser(TwilioConfig(port=0))
    parser.push(twilio_start(), 0)
    for at, message in enumerate(twilio_frames({"inbound": noise(30), "outbound": noise(30)})):
        (item,) = parser.push(message, at)
        assert isinstance(item, AudioChunk)
        assert item.received_at == at


# What every arrival below has in common: frames of 2 to 60 ms, some sent twice, some lost, all within the bound.
@st.composite
def arrivals(
    draw: st.DrawFn, losses: bool = False
) -> tuple[dict[str, bytes], list[str], set[tuple[str, int]], int]:
    ms = draw(st.sampled_from([2, 10, 20, 60]))
    frame = 8 * ms
    frames = draw(st.integers(1, 1200 // ms + 2))
    tracks = {"inbound": noise(frames, 1, frame), "outbound": noise(frames, 2, frame)}
    shared = draw(st.booleans())  # whether `chunk` counts over both tracks
    lost: set[tuple[str, int]] = set()
    arriving = []
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    late_ms = draw(st.sampled_from([0, 30, 200, WAIT_MS - 1]))
    loss = draw(st.sampled_from([0.0, 0.05, 0.5])) if losses else 0.0
    for number in range(frames):
        for side, (name, data) in enumerate(tracks.items()):
            if rng.random() < loss and number < frames - 1:
                lost.add((name, number))
                continue
            chunk = 2 * number + side + 1 if shared else number + 1
            message = twilio_media(name, chunk, number * ms, data[number * frame : (number + 1) * frame])
            copies = 1 + (rng.random() < 0.1)
            arriving += [(number * ms + rng.uniform(0, late_ms), message) for _ in range(copies)]
    return tracks, [m for _, m in sorted(arriving, key=lambda item: item[0])], lost, frame


@settings(max_examples=150, deadline=None)
@given(arrivals())
def test_any_order_within_the_bound_gives_the_same_sound(arrival):
    tracks, messages, _, _ = arrival
    items = push_all([twilio_start(), *messages, twilio_stop()])
    assert heard(items, "customer") == decode_ulaw(tracks["inbound"]).tolist()
    assert heard(items, "agent") == decode_ulaw(tracks["outbound"]).tolist()
    assert gaps(items) == []


@settings(max_examples=150, deadline=None)
@given(arrivals(losses=True))
def test_what_never_came_is_silence_of_its_length(arrival):
    tracks, messages, lost, frame = arrival
    items = push_all([twilio_start(), *messages, twilio_stop()])
    for name, channel in (("inbound", "customer"), ("outbound", "agent")):
        expected = decode_ulaw(tracks[name])
        for track, number in lost:
            if track == name:
                expected[number * frame : (number + 1) * frame] = 0
        assert heard(items, channel) == expected.tolist()
    assert bool(gaps(items)) == bool(lost)


def test_a_lost_frame_is_a_gap_with_its_place():
    frames = list(twilio_frames({"inbound": noise(60)}))
    del frames[10:13]
    items = push_all([twilio_start(tracks=["inbound"]), *frames, twilio_stop()])
    assert gaps(items) == [Gap("customer", 1600, 2080, "lost")]


def test_what_comes_after_the_bound_is_late():
    frames = list(twilio_frames({"inbound": noise(60)}))
    frames.append(frames.pop(10))
    parser = TwilioParser(TwilioConfig(port=0, reorder_ms=100))
    items = [i for m in [twilio_start(tracks=["inbound"]), *frames] for i in parser.push(m, 0)]
    assert gaps(items) == [Gap("customer", 1600, 1760, "lost")]
    assert parser.late == 1


def test_a_track_that_begins_later_shares_the_clock():
    inbound, outbound = noise(200, 1), noise(50, 2)
    messages = list(twilio_frames({"inbound": inbound}))
    for number in range(50):  # the agent joins after two seconds
        payload = outbound[number * FRAME : (number + 1) * FRAME]
        messages.insert(101 + 2 * number, twilio_media("outbound", number + 1, 2000 + 20 * number, payload))
    items = push_all([twilio_start(), *messages, twilio_stop()])
    agent = heard(items, "agent")
    assert agent[:16_000] == [0] * 16_000
    assert agent[16_000:24_000] == decode_ulaw(outbound).tolist()
    assert {gap.reason for gap in gaps(items) if gap.start == 0} == {"not started"}


def test_a_silent_track_is_told_once_and_holds_nobody_up():
    parser = TwilioParser(TwilioConfig(port=0))
    parser.push(twilio_start(), 0)
    items: list[Item] = []
    for message in twilio_frames({"inbound": noise(1000)}):
        items += parser.push(message, 0)
        ends = {c: len(heard(items, c)) for c in ("customer", "agent")} if len(items) % 97 == 0 else {}
        if ends:
            assert ends["customer"] - ends["agent"] <= 8 * (WAIT_MS + 200 + 20)
    assert [gap.start for gap in gaps(items)] == [0]
    assert contiguous([item for item in items if isinstance(item, AudioChunk | Gap)])


def test_small_deviations_of_the_clock_are_no_gaps():
    rng = np.random.default_rng(0)
    data = noise(300)
    frames = [
        twilio_media("inbound", n + 1, 20 * n + deviation, data[n * FRAME : (n + 1) * FRAME])
        for n, deviation in enumerate([0, *rng.integers(0, 40, 299).tolist()])
    ]
    items = push_all([twilio_start(tracks=["inbound"]), *frames, twilio_stop()])
    assert gaps(items) == []
    assert heard(items, "customer") == decode_ulaw(data).tolist()


def test_a_stream_without_numbers_or_times():
    data = noise(20)
    frames = [twilio_media("inbound", None, None, data[n * FRAME : (n + 1) * FRAME]) for n in range(20)]
    items = push_all([twilio_start(tracks=["inbound"]), *frames, twilio_stop()])
    assert heard(items, "customer") == decode_ulaw(data).tolist()


def test_a_stream_that_goes_on_begins_at_its_first_sound():
    items = push_all([twilio_start(tracks=["inbound"]), *twilio_frames({"inbound": noise(5)}, first_ms=90_000)])
    assert len(heard(items, "customer")) == 5 * FRAME
    assert gaps(items) == []


def test_a_stream_that_comes_back_is_not_heard_twice():
    data, heard = noise(200), {}
    frames = list(twilio_frames({"inbound": data}))
    one = TwilioParser(TwilioConfig(port=0), heard=heard)
    first = [item for message in [twilio_start(tracks=["inbound"]), *frames[:80]] for item in one.push(message, 0)]
    assert heard == {}
    first += one.flush(0, closed=True)
    assert heard == {("CA1", "inbound"): 1600}
    two = TwilioParser(TwilioConfig(port=0), heard=heard)
    assert two.push(twilio_start(tracks=["inbound"]), 0) == []  # until it says where it goes on
    again = [*frames[71:76], frames[70], *frames[76:], twilio_stop()]
    second = [item for message in again for item in two.push(message, 0)]
    assert isinstance(second[0], CallStart)
    assert second[0].missed == 0
    assert heard == {}
    assert contiguous([item for item in second if isinstance(item, AudioChunk | Gap)])
    assert heard_of(first) + heard_of(second) == decode_ulaw(data).tolist()


def heard_of(items: list[Item]) -> list[int]:
    return heard(items, "customer")


@pytest.mark.parametrize("message", [twilio_stop(), twilio_media("inbound", 1, None, b"x" * 80)])
def test_a_call_that_comes_back_begins_without_a_clock_too(message):
    parser = TwilioParser(TwilioConfig(port=0), heard={("CA1", "inbound", "outbound"): 90_000})
    assert parser.push(twilio_start(), 0) == []
    begin, *_ = parser.push(message, 0)
    assert isinstance(begin, CallStart)
    assert begin.missed is None


def test_telnyx():
    data = noise(10)
    media = []
    for n in range(10):
        payload = base64.b64encode(data[n * FRAME : (n + 1) * FRAME]).decode()
        fields = {"track": "inbound_track", "chunk": n + 1, "timestamp": str(20 * n), "payload": payload}
        media.append(json.dumps({"event": "media", "sequence_number": str(n + 2), "media": fields}))
    items = push_all([telnyx_start("v3:x", "PCMA"), media[0], *reversed(media[1:]), twilio_stop()])
    assert isinstance(items[0], CallStart)
    assert items[0].call == "v3:x"
    assert len(items[0].channels) == 2  # it does not say which tracks will come
    assert heard(items, "customer") == decode_alaw(data).tolist()


def test_channels_and_names_are_configured():
    config = TwilioConfig(
        port=0, channels={"outbound": ChannelConfig(name="caller", role="customer")}, call_id="stream"
    )
    items = push_all(twilio_session({"inbound": noise(3, 1), "outbound": noise(3, 2)}), config)
    assert items[0] == CallStart("MZ1", (Channel("caller", "customer"),), 8000)
    assert heard(items, "caller") == decode_ulaw(noise(3, 2)).tolist()
    with pytest.raises(LinkError, match="none of the tracks"):
        push_all([twilio_start(tracks=["inbound"])], config)


def test_two_channels_of_one_name_are_refused(tmp_path):
    path = tmp_path / "stream.yaml"
    path.write_text("port: 0\nchannels: {inbound: {name: a, role: agent}, outbound: {name: a, role: customer}}")
    with pytest.raises(ConfigError, match="each with its own name"):
        load_config(TwilioConfig, path)


START = json.loads(twilio_start())


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (["{"], "not a JSON"),
        (["3"], "must be a map"),
        (["[" * 100_000], "not a JSON"),
        (['{"event":"start","start":' + "9" * 5000 + "}"], "not a JSON"),
        ([twilio_media("inbound", 1, 0, b"x")], "before start"),
        ([twilio_start(), twilio_start()], "twice"),
        ([json.dumps(START | {"start": 3})], "start must be a map"),
        ([json.dumps({"event": "start", "start": {}})], "must name its call"),
        ([json.dumps({"event": "start", "start": {"callSid": "\ud800"}})], "callSid must have"),
        ([json.dumps({"event": "start", "start": {"callSid": "x" * 201}})], "callSid must have"),
        (
            [json.dumps({"event": "start", "start": {"callSid": "x", "mediaFormat": {"encoding": "opus"}}})],
            "format",
        ),
        ([twilio_start(), '{"event":"media","media":{}}'], "must hold a payload"),
        ([twilio_start(), '{"event":"media","media":{"payload":"???"}}'], "not base64"),
        ([twilio_start(), '{"event":"media","media":{"payload":"é"}}'], "not base64"),
        ([twilio_start(), '{"event":"media","media":{"payload":"","chunk":"-1"}}'], "chunk must be a whole"),
        ([twilio_start(), '{"event":"media","media":{"payload":"","timestamp":1.5}}'], "timestamp must be"),
        (
            [twilio_start(), *twilio_frames({"inbound": noise(1)}), twilio_media("inbound", 2, 10**7, b"x")],
            "jumps",
        ),
    ],
)
def test_a_broken_peer_is_told_why(messages, said):
    with pytest.raises(LinkError, match=said) as caught:
        push_all(messages)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
wild_media = st.fixed_dictionaries(
    {"event": st.sampled_from(["media", "start", "stop", "dtmf"]) | json_values},
    optional={
        "media": json_values
        | st.fixed_dictionaries(
            {"payload": st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()) | json_values},
            optional={
                "track": st.sampled_from(["inbound", "outbound"]) | json_values,
                "chunk": st.integers(0, 40) | json_values,
                "timestamp": st.integers(0, 2000) | st.integers() | json_values,
            },
        ),
        "start": json_values | st.just(START["start"]),
        "stop": json_values,
    },
).map(json.dumps)


@settings(max_examples=300, deadline=None)
@given(st.lists(wild_media | st.text(max_size=30) | st.binary(max_size=30), max_size=12), st.booleans())
def test_whatever_comes_is_media_or_a_link_error(messages, started):
    parser = TwilioParser(TwilioConfig(port=0, reorder_ms=50))
    items: list[Item] = parser.push(twilio_start(), 0) if started else []
    for message in messages:
        with contextlib.suppress(LinkError):
            items += parser.push(message, 0)
    assert contiguous([item for item in items if isinstance(item, AudioChunk | Gap)])
    assert all(item.end > item.start for item in items if isinstance(item, Gap))
    assert all(len(item.samples) for item in items if isinstance(item, AudioChunk))


def test_a_flood_that_never_continues_is_bounded():
    parser = TwilioParser(TwilioConfig(port=0, reorder_ms=10_000))
    parser.push(twilio_start(tracks=["inbound"]), 0)
    items: list[Item] = []
    for chunk in range(10, 3000):  # always the same place, and never what is missing before it
        items += parser.push(twilio_media("inbound", chunk, 900, b"\x00" * 8), 0)
    assert len(items) > 1000


def test_sound_that_waits_is_bounded_by_its_length():
    """Many samples in a piece, none of which the one before it lets out."""
    parser = TwilioParser(TwilioConfig(port=0, reorder_ms=10_000))
    parser.push(twilio_start(tracks=["inbound"]), 0)
    held = 0
    for chunk in range(2, 40):
        items = parser.push(twilio_media("inbound", chunk, 1, bytes(100_000)), 0)
        held += 100_000 - sum(len(item.samples) for item in items if isinstance(item, AudioChunk))
        assert held <= 30 * 8000 + 100_000
    assert items
