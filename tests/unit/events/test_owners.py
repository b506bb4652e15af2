"""Who may write the events of a call: the claims, their epochs, and the hub that refuses who has lost a call."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import SupersededError
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.owners import DAY_NS, LEASE_S, CallOwners, owner_id
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig

WAIT_S = 20.0
A, A2, B = owner_id("ingest-0", 1000), owner_id("ingest-0", 20_000), owner_id("ingest-1", 3)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> JournalConfig:
    if request.param == "sqlite":
        return JournalConfig(path=tmp_path / "events.sqlite", durability="crash")
    found: JournalConfig = request.getfixturevalue("postgres").config(busy_ms=50)
    return found


@pytest.fixture
def open_owners(config: JournalConfig) -> Iterator[Callable[[], tuple[CallOwners, Clock]]]:
    """Those of a hub that has just started; again: of the next hub on the same journal."""
    journals: list[Journal] = []

    def opened() -> tuple[CallOwners, Clock]:
        for journal in journals:
            journal.close()
        journals.append(Journal(config))
        clock = Clock()
        owners = CallOwners(journals[-1], clock)
        for owner in (A, B):
            owners.beat(owner, {})
        return owners, clock

    yield opened
    for journal in journals:
        journal.close()


Opened = Callable[[], tuple[CallOwners, Clock]]


def test_a_call_of_one_who_lives_is_given_to_another_only_when_it_agrees(open_owners: Opened):
    owners, _ = open_owners()
    first = owners.claim("x", A)
    refused = owners.claim("x", B)
    assert (refused.granted, refused.holder, refused.epoch) == (False, A, first.epoch)
    assert owners.holds("x", first.epoch)
    second = owners.claim("x", B, after=first.epoch)
    assert second.granted
    assert second.epoch > first.epoch
    assert not owners.holds("x", first.epoch)
    assert not owners.claim("x", A, after=first.epoch).granted  # it agreed to an end of its own, not of this one
    assert owners.beat(A, {"x": first.epoch}) == ["x"]
    assert owners.beat(B, {"x": second.epoch}) == []


def test_a_call_of_one_who_is_silent_is_given_to_whoever_asks(open_owners: Opened):
    owners, clock = open_owners()
    first = owners.claim("x", A)
    clock.now_s += LEASE_S
    owners.beat(B, {})
    assert owners.orphans(LEASE_S) == ["x"]
    assert owners.orphans(2 * LEASE_S) == []
    assert owners.owner_of("x") is None
    assert owners.claim("x", B).granted
    assert owners.owner_of("x") == B
    assert owners.beat(A, {"x": first.epoch}) == ["x"]  # it wakes


def test_a_process_that_takes_a_name_has_what_the_one_before_had(open_owners: Opened):
    owners, _ = open_owners()
    first = owners.claim("x", A)
    again = owners.claim("x", A2)
    assert again.granted
    assert again.epoch > first.epoch
    assert owners.beat(A, {"x": first.epoch}) == ["x"]  # the one before wakes
    assert not owners.claim("x", A).granted
    assert owners.owner_of("x") == A2


def test_the_next_hub_knows_the_epochs_and_gives_owners_time_to_speak(open_owners: Opened):
    owners, _ = open_owners()
    old = owners.claim("x", A)
    new = owners.claim("x", B, after=old.epoch)
    owners, clock = open_owners()
    assert owners.beat(A, {"x": old.epoch}) == ["x"]
    assert owners.holds("x", new.epoch)
    assert not owners.claim("x", A).granted
    clock.now_s += LEASE_S
    assert owners.claim("x", A).epoch > new.epoch


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.booleans()), max_size=8))
def test_epochs_grow_whoever_claims(tmp_path_factory: pytest.TempPathFactory, claims: list[tuple[str, bool]]):
    given_epochs: list[int] = []
    path = tmp_path_factory.mktemp("owners") / "events.sqlite"
    for owner, forget in claims:
        with Journal(JournalConfig(path=path, durability="crash")) as journal:
            epoch = CallOwners(journal).claim("x", owner, after=given_epochs[-1] if given_epochs else None).epoch
            given_epochs.append(epoch)
            if forget:  # as a journal that was repaired
                with journal.transaction() as db:
                    db.execute("DELETE FROM owners")
    assert given_epochs == sorted(set(given_epochs))


def test_owners_of_calls_that_were_deleted_are_forgotten_after_a_day(open_owners: Opened, config: JournalConfig):
    owners, _ = open_owners()
    epoch = owners.claim("x", A).epoch
    owners.ended("x")
    owners.tidy(0)
    assert owners.holds("x", epoch)
    owners.ended("x")
    owners.tidy(2**62 + DAY_NS)
    assert not owners.holds("x", epoch)


def event(seq: int, type: str = "alert") -> Event:
    return Event(type=type, id=f"x-{seq}-{type}", call="x", channel="", seq=seq, emitted_at=1)  # type: ignore[arg-type]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[EventHub]:
    config = EventHubConfig(
        journal=JournalConfig(path=tmp_path / "events.sqlite", durability="crash"),
        bus=BusConfig(bind="tcp://127.0.0.1:*"),
        replay=ReplayConfig(bind="tcp://127.0.0.1:*"),
    )
    with EventHub(config) as running:
        yield running


def test_the_hub_takes_what_came_before_the_next_owner_and_nothing_after(hub: EventHub):
    epoch = hub.claim("x", A).result(WAIT_S).epoch
    before = hub.publish([event(0), event(1)], epoch)
    claimed = hub.claim("x", B, after=epoch)
    after = hub.publish([event(2)], epoch)
    again = hub.publish([event(1)], epoch)
    assert before.result(WAIT_S) == [1, 2]
    for refused in (after, again):
        with pytest.raises(SupersededError, match="belongs to another process"):
            refused.result(WAIT_S)
    assert hub.publish([event(2)], claimed.result(WAIT_S).epoch).result(WAIT_S) == [3]
    assert [e.seq for e in hub.journal.read(call="x")] == [0, 1, 2]


def test_what_is_sent_again_after_the_end_is_known(hub: EventHub):
    """An acknowledgement may be lost, that of the last event too."""
    epoch = hub.claim("x", A).result(WAIT_S).epoch
    ends = [event(0), event(1, "call.end")]
    assert hub.publish(ends, epoch).result(WAIT_S) == hub.publish(ends, epoch).result(WAIT_S) == [1, 2]
    assert hub.owners.orphans(0) == []
    with pytest.raises(SupersededError):
        hub.publish([event(2)], epoch - 1).result(WAIT_S)
