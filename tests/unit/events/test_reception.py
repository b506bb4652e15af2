import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.events.codec import encode
from bcaf_stream.events.event import Event, heartbeat, topic
from bcaf_stream.events.reception import Gap, GapDetector, Reception


def event(seq: int, call: str = "a", channel: str = "left") -> Event:
    return Event(type="alert", id=f"{call}{seq}", call=call, channel=channel, seq=seq, emitted_at=1)


def message(e: Event) -> list[bytes]:
    return [topic(e).encode(), encode(e)]


@given(st.lists(st.integers(0, 50), max_size=30, unique=True).map(sorted), st.data())
def test_every_missing_event_is_reported_once_and_no_other(seen: list[int], data: st.DataObject):
    """Also with a second call in between and with events that arrive twice."""
    detector, missing = GapDetector(), set()
    for count, seq in enumerate(seen):
        assert detector.push(event(count, "other")) is None
        for _ in range(data.draw(st.integers(1, 2))):
            gap = detector.push(event(seq))
            if gap is not None:
                assert gap.call == "a"
                assert gap.events == len(range(gap.first, gap.last + 1))
                assert missing.isdisjoint(range(gap.first, gap.last + 1))
                missing |= set(range(gap.first, gap.last + 1))
    assert missing == set(range(max(seen, default=-1) + 1)) - set(seen)


def test_an_old_event_is_no_gap_and_does_not_turn_the_count_back():
    detector = GapDetector()
    assert [detector.push(event(n)) for n in (0, 1, 2, 0, 3)] == [None] * 5


def test_what_is_remembered_is_bounded_and_the_silent_call_goes_first():
    detector = GapDetector(max_calls=2)
    for call, seq in [("a", 0), ("b", 0), ("a", 1), ("c", 0)]:
        assert detector.push(event(seq, call)) is None
    assert detector.push(event(2, "a")) is None
    assert detector.push(event(1, "b")) == Gap("b", 0, 0)


def test_heartbeats_are_no_part_of_a_call():
    reception = Reception(heartbeats=True)
    assert reception.take(message(heartbeat(7, 1))) == heartbeat(7, 1)
    assert reception.gaps == 0
    assert Reception().take(message(heartbeat(0, 1))) is None


def test_a_channel_comes_with_its_call_and_its_gaps_are_those_of_the_call():
    gaps: list[Gap] = []
    reception = Reception(channel="left", on_gap=gaps.append)
    events = [event(0, channel=""), event(1, channel="right"), event(2), event(5, channel="right"), event(6)]
    wanted = [reception.take(message(e)) for e in events]
    assert [e and e.seq for e in wanted] == [0, None, 2, None, 6]
    assert gaps == [Gap("a", 3, 4)]
    assert (reception.gaps, reception.missed) == (1, 2)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"emo.v1.a.left.alert"],
        [b"emo.v1.a.left.alert", b"\xc1"],
        [b"emo.v1.a.right.alert", encode(event(0))],
        [*message(event(0)), b""],
    ],
)
def test_broken_messages_are_counted_and_skipped(frames: list[bytes]):
    reception = Reception()
    assert reception.take(frames) is None
    assert reception.broken == 1
    assert reception.take(message(event(0))) == event(0)
    assert reception.gaps == 0
