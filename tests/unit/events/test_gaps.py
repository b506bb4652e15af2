from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.events.event import Event, heartbeat
from bcaf_stream.events.subscriber.follow import EventGap, GapDetector, LiveFollower


def event(seq: int, call: str = "a", channel: str = "left") -> Event:
    return Event(type="alert", id=f"{call}{seq}", call=call, channel=channel, seq=seq, emitted_at=1)


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
    assert detector.push(event(1, "b")) == EventGap("b", 0, 0)


def test_without_replay_what_is_missing_is_said_before_the_next_event():
    gaps: list[EventGap] = []
    follower = LiveFollower(gaps.append)
    events = [heartbeat(7, 1), event(0, channel=""), event(1, channel="right"), event(2), event(5), event(6)]
    assert [delivered.event for e in events for delivered in follower.live(e)] == events
    assert gaps == [EventGap("a", 3, 4)]
    assert (follower.gaps, follower.missed) == (1, 2)
