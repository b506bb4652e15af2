"""The pure half of the replay server: when an event of a replay is due, and what a request may be."""

from collections import Counter

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import EventError
from bcaf_stream.events.journal.rows import Entry
from bcaf_stream.events.replay.job import HOLD_S, ReplayJob
from bcaf_stream.events.replay.owed import CLIENTS, EACH, OwedAnswers, Sent
from bcaf_stream.events.replay.protocol import KINDS, MIN_SPEED, id_of, request_of, unpacked
from bcaf_stream.events.replay.running import QUIET_S, next_to_leave
from bcaf_stream.events.subscriptions import MAX_SOURCES, RateLimiter

SECOND = 10**9


def job(speed: float | None, credit: int = 1000, begun: float = 100.0, owner: bytes = b"") -> ReplayJob:
    return ReplayJob(owner, "", (b"",), None, 0, False, speed, credit, begun)


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
    replay, now, sent = job(speed, credit), 100.0, []
    replay.read(entries(*times), 99)
    while not replay.is_over:
        due = replay.due(now)
        sent += [(entry.offset, now) for entry in due]
        replay.sent(len(due), now)
        replay.ask(credit, credit, now)
        now += max(0.0, replay.due_in(now))
    assert [offset for offset, _ in sent] == list(range(1, len(times) + 1))
    for (_, at), time in zip(sent, times, strict=True):
        assert at == pytest.approx(100.0 + time / speed, abs=1e-3)


@given(st.lists(st.integers(1, 7), min_size=1), st.lists(st.integers(0, 9), max_size=9))
def test_credit_is_never_exceeded_and_the_end_comes_with_the_last_event(pages: list[int], credits: list[int]):
    replay, left, total, given = job(None, credit=0), list(pages), sum(pages), 0
    allowed = 0
    for credit in [*credits, total]:
        replay.ask(credit, 10**6, 100.0)
        allowed += credit
        while replay.due_in(100.0) < 0 and not replay.is_over:
            if replay.wants_page:
                size = left.pop(0)
                replay.read(entries(*range(size)), None if left else 99)
            due = replay.due(100.0)
            given += len(due)
            replay.sent(len(due), 100.0)
        assert given == min(allowed, total)
        assert replay.is_over == (given == total)


def test_as_fast_as_it_goes_nothing_waits():
    replay = job(None)
    replay.read(page := entries(0, 1000), 7)
    assert replay.due(100.0) == page
    assert replay.due_in(100.0) < 0


def test_without_credit_a_page_is_looked_at_and_then_nothing_is_due():
    replay = job(None, credit=0)
    assert replay.due_in(100.0) < 0
    replay.read(entries(0), None)
    assert replay.due_in(100.0) > 0


def test_what_a_client_does_not_take_is_held_for_a_while_and_no_longer():
    replay, now = job(None), 0.0
    replay.read(entries(0), None)
    while replay.hold(now):
        assert 0 < replay.due_in(now) <= 0.51
        now += replay.due_in(now)
    assert HOLD_S <= now <= HOLD_S + 1


def test_what_may_not_be_had_any_more_is_dropped():
    replay = job(1.0)
    replay.read([Entry(n, n, topic, b"d") for n, topic in enumerate((b"a.1", b"b.1", b"a.2"))], None)
    replay.narrow((b"b.",))
    assert [entry.topic for entry in replay.waiting] == [b"b.1"]


def test_who_asks_too_often_has_to_wait():
    limiter = RateLimiter(per_second=5)
    assert [limiter.allows(b"a", 0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert limiter.allows(b"b", 0.0)
    assert not limiter.allows(b"a", 0.1)
    assert limiter.allows(b"a", 0.21)
    assert [limiter.allows(b"a", 100.0) for _ in range(11)] == [True] * 10 + [False]


def test_the_memory_of_clients_is_bounded():
    limiter = RateLimiter(per_second=1)
    for n in range(MAX_SOURCES):
        assert [limiter.allows(str(n).encode(), 0.0) for _ in range(3)] == [True, True, False]
    assert not limiter.allows(b"0", 0.0)
    assert limiter.allows(b"one more", 0.0)
    assert limiter.allows(b"1", 0.0), "it made room, so that nothing is known of it any more"


GOOD = {
    "replay": {"id": 7, "topics": ["emo.v1."], "from": "start", "credit": 5},
    "credit": {"id": 7, "n": 5},
    "cancel": {"id": 7},
    "count": {"id": 7, "topics": ["emo.v1."], "after": 0, "to": 9},
}
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
FIELDS = ("v", "ask", "id", "from", "topics", "credit", "speed", "n", "after", "to")


@pytest.mark.parametrize("ask", GOOD)
def test_a_request_with_all_its_fields_is_taken_and_with_one_less_is_not(ask: str):
    good = {"v": 1, "ask": ask, **GOOD[ask]}
    assert isinstance(request_of({**good, "of a later client": 1}), KINDS[ask])
    for name in good:
        with pytest.raises(EventError, match="request: "):
            request_of({key: value for key, value in good.items() if key != name})


@given(st.sampled_from(sorted(GOOD)), st.sampled_from(FIELDS), VALUES)
def test_a_field_of_any_value_is_taken_or_refused_by_its_name(ask: str, name: str, value: object):
    values = {"v": 1, "ask": ask, **GOOD[ask], name: value}
    assert 0 <= id_of(values) < 2**63
    try:
        request_of(values)
    except EventError as error:
        assert str(error).startswith("request: ")  # noqa: PT017 - both ways are right


@given(st.binary(max_size=64) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES).map(msgpack.packb))
def test_any_bytes_are_a_request_or_refused(data: bytes):
    try:
        request_of(unpacked(data))
    except EventError as error:
        assert str(error).startswith("request: ")  # noqa: PT017 - both ways are right


@pytest.mark.parametrize("speed", [1e-310, 0, -1, float("nan"), MIN_SPEED / 2, True, "1"])
def test_speeds_that_are_none(speed: object):
    with pytest.raises(EventError, match=r"request: speed must be a number from 0\.001, or null"):
        request_of({"v": 1, "ask": "replay", **GOOD["replay"], "speed": speed})


@pytest.mark.parametrize("speed", [None, 1, 0.5, MIN_SPEED, 1e300, float("inf")])
def test_speeds(speed: float | None):
    replay = job(request_of({"v": 1, "ask": "replay", **GOOD["replay"], "speed": speed}).speed)
    replay.read(entries(0, 1e9), None)
    assert replay.due(100.0)
    replay.sent(1, 100.0)
    assert replay.due_in(100.0) <= 1e12


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.floats(0, 100)), min_size=8, max_size=8),
    st.sampled_from([b"a", b"b", b"c", b"d", b"new"]),
)
def test_whoever_has_to_wait_has_his_share_and_waits_no_longer_than_a_turn(
    running: list[tuple[bytes, float]], owner: bytes
):
    now, turn_s = 100.0, 60.0
    jobs = {n: job(None, 0, begun_at, one) for n, (one, begun_at) in enumerate(running)}
    for one in jobs.values():
        one.ask(1, 10, now)  # each seems to be alive
    counts = Counter(one for one, _ in running)
    leaving = next_to_leave(jobs, owner, now, turn_s)
    if leaving is None:
        assert max(counts.values()) <= counts[owner] + 1
        assert all(now - begun_at < turn_s for _, begun_at in running)
    elif counts[jobs[leaving].owner] <= counts[owner] + 1:
        assert jobs[leaving].begun == min(one.begun for one in jobs.values()) <= now - turn_s
    jobs[3].active_at = now - QUIET_S
    assert next_to_leave(jobs, owner, now, turn_s) == 3


def test_owed_answers_are_few_in_order_and_not_kept_for_long():
    owed, room, taken = OwedAnswers(), [0], []

    def send(answer: list[bytes]) -> Sent:
        if not room[0]:
            return "full"
        room[0] -= 1
        taken.append(answer[1])
        return "sent"

    for n in range(EACH + 5):
        owed.add(b"a", [b"a", b"%d" % n], now=0.0)
    owed.give(send, 1.0)
    assert (len(owed), owed.missed, b"a" in owed, taken) == (EACH, 5, True, [])
    room[0] = 10
    owed.give(send, HOLD_S)
    assert taken == [b"%d" % n for n in range(10)]
    owed.give(send, 2 * HOLD_S)
    assert len(owed) == EACH - 10
    owed.give(send, 2 * HOLD_S + 0.1)
    assert (len(owed), b"a" in owed, owed.missed) == (0, False, EACH - 10 + 5)
    for n in range(CLIENTS + 7):
        owed.add(b"%d" % n, [b"", b"one"], now=0.0)
    assert (len(owed), b"6" in owed, b"7" in owed) == (CLIENTS, False, True)
