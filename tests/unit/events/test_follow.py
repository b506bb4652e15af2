"""Any loss, on any schedule, is seen and mended: the pure half of the subscriber against a journal in memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import EventError
from bcaf_stream.events.event import Event, topic
from bcaf_stream.events.subscriber.follow import Follower, parse_start, whole_calls

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["publish", "publish", "publish", "beat", "serve", "break"]), st.integers(0, 8)),
    max_size=60,
)
TOPICS = st.sampled_from([["emo.v1."], ["emo.v1.a."], ["emo.v1.a.", "emo.v1.b."], ["emo.v1.a.left."]])


class Hub:
    """A journal, a live socket that may lose anything, and a replay that may break off."""

    def __init__(self, topics: list[str]) -> None:
        self.log: list[Event] = []
        self.topics = tuple(topics)
        self.follower = Follower(topics, "start")
        self.delivered: list[Event] = []
        self._at: int | None = None  # where the running replay is

    def matching(self) -> list[Event]:
        return [event for event in self.log if topic(event).startswith(self.topics)]

    def publish(self, number: int) -> None:
        call, channel = "abc"[number % 3], ("left", "right")[number // 3 % 2]
        seq = sum(event.call == call for event in self.log)
        offset = len(self.log) + 1
        id = f"{call}{seq}"
        event = Event(type="alert", id=id, call=call, channel=channel, seq=seq, offset=offset, emitted_at=1)
        self.log.append(event)
        if number < 6 and event in self.matching():  # the rest is lost
            self._out(self.follower.live(event))

    def beat(self) -> None:
        self.follower.heartbeat(len(self.log))

    def serve(self, page: int) -> None:
        """Answer what was asked: a page of the replay, or a count."""
        if self._at is None and self.follower.wants_fill:
            start = self.follower.fill()
            self._at = start["offset"] if isinstance(start, dict) else 0
        if self._at is not None:
            rest = [event for event in self.matching() if event.offset >= self._at]
            for event in rest[:page]:
                self._out(self.follower.replayed(event))
                self._at = event.offset + 1
            if len(rest) <= page:
                self._at = None
                self._out(self.follower.filled(len(self.log)))
        elif self.follower.wants_count is not None:
            to = self.follower.wants_count
            count = sum(self.follower.base < event.offset <= to for event in self.matching())
            self.follower.counted(to, count)

    def interrupt(self) -> None:
        if self._at is not None:
            self._at = None
            self.follower.interrupted()

    def settle(self) -> None:
        for _ in range(10):
            self.beat()
            self.serve(1000)

    def _out(self, delivered: list) -> None:
        self.delivered += [one.event for one in delivered]


@settings(max_examples=300, deadline=None)
@given(ACTIONS, TOPICS)
def test_every_event_is_delivered_once_whatever_is_lost(actions: list[tuple[str, int]], topics: list[str]):
    hub = Hub(topics)
    for action, number in actions:
        match action:
            case "publish":
                hub.publish(number)
            case "beat":
                hub.beat()
            case "serve":
                hub.serve(number)
            case "break":
                hub.interrupt()
    hub.settle()
    expected = hub.matching()
    assert sorted(event.offset for event in hub.delivered) == [event.offset for event in expected]
    if topics == ["emo.v1.a.left."]:
        return  # `seq` counts whole calls: of a part, only the next heartbeat shows what was lost
    for call in "abc":  # in the order of each call; of the whole journal, where all of it is subscribed to
        assert [e for e in hub.delivered if e.call == call] == [e for e in expected if e.call == call]
    if topics == ["emo.v1."]:
        assert hub.delivered == expected


@pytest.mark.parametrize(
    ("topic", "whole"),
    [
        *[(t, t) for t in ("", "emo", "emo.v1.", "emo.v1.a", "emo.v1.a.", "emo.v1.a%2Eb.")],
        *[(t, "emo.v1.a.") for t in ("emo.v1.a.l", "emo.v1.a.left.", "emo.v1.a..", "emo.v1.a.left.emotion.final")],
    ],
)
def test_the_whole_calls_that_a_prefix_chooses_a_part_of(topic: str, whole: str):
    assert whole_calls(topic) == whole


@pytest.mark.parametrize(
    ("text", "start"),
    [("start", "start"), ("new", "new"), ("17", {"offset": 17}), ("1970-01-01T00:00:01+00:00", {"time": 10**9})],
)
def test_where_to_begin(text: str, start: object):
    assert parse_start(text) == start


@pytest.mark.parametrize("text", ["", "-1", "yesterday", "1e3"])
def test_where_nobody_can_begin(text: str):
    with pytest.raises(EventError, match="must be start, new, last"):
        parse_start(text)
