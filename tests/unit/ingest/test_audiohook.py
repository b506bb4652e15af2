"""AudioHook: sessions as the documentation shows them, returns of a conversation, and whatever else may come."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.codecs import decode_ulaw
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart, ChannelConfig, contiguous
from bcaf_stream.ingest.protocol import Item, Reply
from bcaf_stream.ingest.protocols.audiohook import AudioHookConfig, AudioHookParser
from bcaf_stream.types import AudioChunk, Channel, Gap
from tests.audiohook_client import BOTH, NO_ID, AudioHookClient, offer

NAMES = ("customer", "agent")


def noise(seconds: float, seed: int = 0, channels: int = 2) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, round(seconds * 8000) * channels, np.uint8).tobytes()


def sides(data: bytes) -> list[list[int]]:
    return decode_ulaw(data).reshape(-1, 2).T.tolist()


class Talk:
    """A client and a parser, and the call between them: all that is said and given out."""

    def __init__(
        self, config: AudioHookConfig | None = None, heard: dict[str, int] | None = None, **client
    ) -> None:
        self.client = AudioHookClient(**client)
        self.parser = AudioHookParser(config or AudioHookConfig(port=0), heard=heard)
        self.items: list[Item] = []

    def say(self, data: str | bytes) -> list[Item]:
        items = self.parser.push(data, 7)
        for item in items:
            if isinstance(item, CallStart):
                items = [*items, *self.parser.accepted()]
        for item in items:
            if isinstance(item, Reply):
                self.client.hear(item.data)
        self.items += items
        assert contiguous(self.media)
        return items

    @property
    def media(self) -> list[AudioChunk | Gap]:
        return [item for item in self.items if isinstance(item, AudioChunk | Gap)]

    @property
    def said(self) -> list[str]:
        return [message["type"] for message in self.client.heard]

    def sound(self, channel: str) -> list[int]:
        parts = [
            item.samples if isinstance(item, AudioChunk) else np.zeros(item.end - item.start, np.int16)
            for item in self.media
            if item.channel == channel
        ]
        return np.concatenate([np.zeros(0, np.int16), *parts]).tolist()


def test_a_session_from_open_to_closed():
    talk, data = Talk(), noise(1.0)
    (begin, opened) = talk.say(talk.client.open())
    assert begin == CallStart("c0", (Channel("customer", "customer"), Channel("agent", "agent")), 8000)
    assert isinstance(opened, Reply)
    assert talk.client.heard[0]["parameters"] == {"startPaused": False, "media": [offer(*BOTH)]}
    for start in range(0, len(data), 3200):
        talk.say(talk.client.audio(data[start : start + 3200]))
    talk.say(talk.client.message("ping"))
    talk.say(talk.client.message("update", language="en-US"))
    talk.say(talk.client.message("error", code=500, message="x"))
    talk.say(talk.client.message("close", reason="end"))
    assert talk.said == ["opened", "pong", "updated", "closed"]
    assert [item for item in talk.items if isinstance(item, CallEnd)] == [CallEnd("complete")]
    assert [talk.sound(name) for name in NAMES] == sides(data)
    assert talk.say("whatever comes after it") == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=20), st.sampled_from(["PCMU", "L16"]))
def test_any_cut_of_the_frames_gives_the_same_sound(cuts, media):
    talk = Talk()
    talk.say(talk.client.open(media=[offer(*BOTH, media=media)]))
    samples = np.random.default_rng(0).integers(-32768, 32768, (sum(cuts), 2)).astype(np.int16)
    codes = np.random.default_rng(1).integers(0, 256, (sum(cuts), 2), np.uint8)
    expected = samples if media == "L16" else decode_ulaw(codes.tobytes()).reshape(-1, 2)
    done = 0
    for cut in cuts:
        part = slice(done, done + cut)
        talk.say(samples[part].astype("<i2").tobytes() if media == "L16" else codes[part].tobytes())
        done += cut
    assert [talk.sound(name) for name in NAMES] == expected.T.tolist()


@pytest.mark.parametrize(
    ("offers", "chosen"),
    [
        ([offer("external"), offer(*BOTH, media="L16"), offer(*BOTH)], offer(*BOTH)),
        ([offer("external"), offer(*BOTH, media="L16")], offer(*BOTH, media="L16")),
        ([offer("internal", media="L16"), offer("internal")], offer("internal")),
        ([offer("internal", "external")], offer("internal", "external")),
        ([offer(*BOTH, rate=16000), {"type": "video"}, None, offer("external")], offer("external")),
    ],
)
def test_the_best_offer_is_chosen(offers, chosen):
    talk = Talk()
    talk.say(talk.client.open(media=offers))
    assert talk.client.heard[0]["parameters"]["media"] == [chosen]


def test_sides_are_told_apart_by_the_offer():
    talk, data = Talk(), noise(0.1)
    talk.say(talk.client.open(media=[offer("internal", "external")]))
    talk.say(data)
    assert [talk.sound("agent"), talk.sound("customer")] == sides(data)


def test_only_the_wanted_side_is_heard():
    talk = Talk(AudioHookConfig(port=0, channels={"external": ChannelConfig(name="caller", role="customer")}))
    data = noise(0.1)
    (begin, *_) = talk.say(talk.client.open(media=[offer(*BOTH)]))
    talk.say(data)
    assert begin.channels == (Channel("caller", "customer"),)
    assert {item.channel for item in talk.media} == {"caller"}
    assert talk.sound("caller") == sides(data)[0]


@pytest.mark.parametrize("conversation", [NO_ID, None])
def test_a_connection_probe_starts_no_call(conversation):
    talk = Talk()
    talk.say(talk.client.open(conversation))
    talk.say(talk.client.message("close", reason="end"))
    assert talk.said == ["opened", "closed"]
    assert all(isinstance(item, Reply) for item in talk.items)


def test_what_is_discarded_or_paused_is_a_gap():
    talk, one, two, three = Talk(), noise(0.5, 1), noise(0.5, 2), noise(0.5, 3)
    talk.say(talk.client.open())
    talk.say(talk.client.audio(one))
    talk.say(talk.client.discarded(1.25))
    talk.say(talk.client.audio(two))
    talk.say(talk.client.message("paused"))
    talk.say(talk.client.discarded(2.0, "resumed"))
    talk.say(talk.client.audio(three))
    talk.say(talk.client.discarded(0.0, "resumed"))  # nothing was held back
    found = [item for item in talk.media if isinstance(item, Gap) and item.channel == "agent"]
    assert found == [Gap("agent", 4000, 14000, "discarded by the sender"), Gap("agent", 18000, 34000, "paused")]
    (left, _) = sides(one)
    assert talk.sound("customer") == left + [0] * 10_000 + sides(two)[0] + [0] * 16_000 + sides(three)[0]


def test_a_conversation_that_comes_back_says_what_was_missed():
    heard: dict[str, int] = {}
    talk = Talk(heard=heard)
    talk.say(talk.client.open())
    talk.say(talk.client.audio(noise(1.0)))
    again = Talk(heard=heard, session="s2", position=1.5)
    earlier = [{"id": talk.client.session, "serverseq": 1, "clientseq": 1}]
    (begin, *_) = again.say(again.client.open(continuedSessions=earlier))
    assert begin.missed == 4000
    again.say(again.client.audio(noise(0.5)))
    third = Talk(heard=heard, session="s3", position=2.0)
    (begin, *_) = third.say(third.client.open())
    assert begin.missed == 0


def test_a_conversation_that_comes_back_is_not_heard_twice():
    heard: dict[str, int] = {}
    data = noise(3.0)
    talk = Talk(heard=heard)
    talk.say(talk.client.open())
    talk.say(talk.client.audio(data[:16_000]))  # one second
    again = Talk(heard=heard, session="s2", position=0.75)  # it had not heard that the last part arrived
    (begin, *_) = again.say(again.client.open())
    assert begin.missed == 0
    for start in range(12_000, len(data), 1000):
        again.say(again.client.audio(data[start : start + 1000]))
    for name, expected in zip(NAMES, sides(data), strict=True):
        assert talk.sound(name) + again.sound(name) == expected
    again.say(again.client.message("close", reason="end"))
    assert heard == {}


def test_a_conversation_that_counts_anew_leaves_the_time_to_the_sink():
    heard: dict[str, int] = {}
    talk = Talk(heard=heard)
    talk.say(talk.client.open())
    talk.say(noise(1.0))
    again = Talk(heard=heard, session="s2")
    (begin, *_) = again.say(again.client.open())
    assert begin.missed is None
    again.say(noise(0.5))
    assert len(again.sound("agent")) == 4000


def test_a_session_that_reconnects_does_not_end_its_call():
    talk = Talk()
    talk.say(talk.client.open())
    talk.say(talk.client.message("close", reason="reconnect"))
    assert talk.said == ["opened", "closed"]
    assert not any(isinstance(item, CallEnd) for item in talk.items)


def test_farewells():
    talk = Talk()
    assert talk.parser.closed(CallOutcome(0, "complete")) == []  # to somebody who has said nothing
    talk.parser.push(talk.client.open(), 0)  # and every place is taken
    (busy,) = talk.parser.refused(BusyError("no more calls can be taken now"))
    message = talk.client.hear(busy.data)
    assert message["type"] == "disconnect"
    assert message["parameters"]["reason"] == "error"
    assert message["parameters"]["info"].startswith("busy, try again later")
    (closed,) = talk.say(talk.client.message("close", reason="disconnect"))  # the call never began, so none ends
    assert json.loads(closed.data)["type"] == "closed"
    talk = Talk()
    talk.say(talk.client.open())
    (done,) = talk.parser.closed(CallOutcome(0, "complete"))
    assert talk.client.hear(done.data)["parameters"] == {"reason": "completed"}


def broken(**fields) -> str:
    talk = Talk()
    return json.dumps(json.loads(talk.client.open()) | fields)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (["{"], "not a JSON"),
        ([b"\x00\x00"], "no call is open"),
        ([broken(version="1")], "version"),
        ([broken(type=3)], "version"),
        ([broken(id=None)], "id of a message"),
        ([broken(seq=2)], "seq must be 1"),
        ([broken(seq=None)], "seq must be 1"),
        ([broken(serverseq=1)], "serverseq is higher"),
        ([broken(type="discarded")], "first message must be open"),
        ([broken(parameters=3)], "parameters must be"),
        ([broken(parameters={"conversationId": "c"})], "offers no"),
        ([broken(position="1 s")], "position must be a duration"),
        ([broken(), broken(seq=2)], "open came twice"),
        ([broken(), broken(id="other", seq=2)], "id of a message"),
        ([broken(), b"\x00"], "whole samples of 2 channels"),
        ([broken(), broken(type="discarded", seq=2, parameters={})], "must say start"),
        (
            [broken(), broken(type="resumed", seq=2, parameters={"start": "PT999999S", "discarded": "PT0S"})],
            "more than a day",
        ),
    ],
)
def test_a_broken_client_is_told_why(messages, said):
    talk = Talk()
    talk.client.seq = len(messages)
    for message in messages[:-1]:
        talk.say(message)
    with pytest.raises(LinkError, match=said) as caught:
        talk.say(messages[-1])
    assert "\n" not in str(caught.value)


json_values = (
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)
durations = st.sampled_from(["PT0S", "PT0.5S", "PT1S", "PT86400S", "PT1M"]) | json_values
wild = st.tuples(
    st.sampled_from(["open", "close", "ping", "update", "paused", "resumed", "discarded", "error"]) | json_values,
    st.fixed_dictionaries({}, optional={"start": durations, "discarded": durations, "reason": st.just("end")})
    | json_values,
    st.just(0) | st.just(0) | st.integers(-1, 1) | json_values,
)


def written(talk: Talk, kind, parameters, skew) -> str:
    talk.client.seq = talk.parser._client_seq  # so that most of them come further than to the first check
    fields = json.loads(talk.client.message("ping")) | {"type": kind, "parameters": parameters}
    return json.dumps(fields | {"seq": fields["seq"] + skew if isinstance(skew, int) else skew})


@settings(max_examples=300, deadline=None)
@given(st.lists(wild | st.text(max_size=20) | st.binary(max_size=20), max_size=12), st.booleans())
def test_whatever_comes_is_media_or_a_link_error(messages, opened):
    talk = Talk()
    if opened:
        talk.say(talk.client.open())
    for message in messages:
        with contextlib.suppress(LinkError):
            talk.say(written(talk, *message) if isinstance(message, tuple) else message)
    assert all(item.end > item.start for item in talk.media if isinstance(item, Gap))
    assert all(len(item.samples) for item in talk.media if isinstance(item, AudioChunk))
