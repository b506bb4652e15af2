"""The pure half of the replay server: when an event of a replay is due, and how often a client may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import EventError
from bcaf_stream.events.replay_request import MAX_ASKERS, Pace, parse_request
from bcaf_stream.events.replay_run import HOLD_S, Run
from bcaf_stream.events.rows import Entry

SECOND = 10**9


def run(speed: float | None, credit: int = 1000, begun: float = 100.0) -> Run:
    return Run("", (b"",), None, 0, False, speed, credit, begun)


def entries(*seconds: float) -> list[Entry]:
    return [Entry(n + 1, int((50 + s) * SECOND), b"t", b"d") for n, s in enumerate(seconds)]


@given(
    gaps=st.lists(st.integers(0, 5000), min_size=1, max_size=30),
    speed=st.sampled_from([0.5, 1.0, 4.0]),
    credit=st.integers(1, 40),
)
def test_in_original_time_each_event_is_sent_when_its_time_has_come_and_not_before(
    gaps: list[int], speed: float, credit: int
):
    times = [sum(gaps[: n + 1]) / 1000 - gaps[0] / 1000 for n in range(len(gaps))]
    replay, now, sent = run(speed, credit), 100.0, []
    page = (entries(*times), 99)
    while True:
        got, reached = replay.paced((replay.waiting, None) if sent else page, now)
        sent += [(entry.offset, now) for entry in got]
        if not replay.waiting:
            assert reached in (99, None)
            break
        replay.credit = credit  # the client asks for more
        due = replay.due_in(now)
        now += max(0.0, due)
    assert [offset for offset, _ in sent] == list(range(1, len(times) + 1))
    for (_, at), time in zip(sent, times, strict=True):
        assert at == pytest.approx(100.0 + time / speed, abs=1e-3)


def test_as_fast_as_it_goes_nothing_waits():
    replay, page = run(None), (entries(0, 1000), 7)
    assert replay.paced(page, 100.0) == page
    assert replay.due_in(100.0) < 0


def test_without_credit_nothing_is_due():
    assert run(None, credit=0).due_in(100.0) > 0


def test_what_a_client_does_not_take_is_held_for_a_while_and_no_longer():
    replay, page, now = run(None), (entries(0), None), 0.0
    while replay.hold(page, now):
        assert replay.held == page
        assert 0 < replay.due_in(now) <= 0.51
        now += replay.due_in(now)
    assert HOLD_S <= now <= HOLD_S + 1


def test_what_may_not_be_had_any_more_is_dropped():
    replay = run(1.0)
    replay.paced((entries(0, 5, 10), None), 100.0)
    replay.narrow(lambda entry: entry.offset != 2)
    assert [entry.offset for entry in replay.waiting] == [3]


def test_who_asks_too_often_has_to_wait():
    pace = Pace(per_second=5)
    assert [pace.allows(b"a", 0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert pace.allows(b"b", 0.0)
    assert not pace.allows(b"a", 0.1)
    assert pace.allows(b"a", 0.21)
    assert [pace.allows(b"a", 100.0) for _ in range(11)] == [True] * 10 + [False]


def test_the_memory_of_askers_is_bounded():
    pace = Pace(per_second=1)
    for n in range(MAX_ASKERS + 10):
        pace.allows(str(n).encode(), 0.0)
    assert len(pace._left) == MAX_ASKERS


@given(st.binary(max_size=64))
def test_any_bytes_are_a_request_or_refused(data: bytes):
    try:
        assert isinstance(parse_request(data)["id"], int)
    except EventError as error:
        assert str(error).startswith("request: ")  # noqa: PT017 - both ways are right
