"""Places of connections: a call keeps its own, and nobody without one keeps anybody out."""

from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.ingest.transports.admission import IDLE_S, Admission, Place, Stage


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Places:
    """An admission with a clock of its own, and who was hung up on."""

    def __init__(self, places: int, silent: int = 100) -> None:
        self.clock = Clock()
        self.admission = Admission(places, silent, self.clock)
        self.gone: list[str] = []

    def enter(self, name: str, address: str = "a", stage: Stage = Stage.SILENT) -> Place | None:
        place = self.admission.enter(address, lambda: self.gone.append(name))
        if place:
            place.stage = stage
        return place


def test_the_one_that_has_said_least_for_longest_leaves_for_the_next():
    places = Places(3)
    places.enter("greeted", stage=Stage.GREETED)
    places.enter("old")
    places.enter("young")
    assert places.enter("next")
    assert places.gone == ["old"]
    assert places.enter("after")
    assert places.enter("and after")
    assert places.gone == ["old", "young", "next"]
    assert places.admission.displaced == 3


def test_calls_keep_their_places():
    places = Places(2)
    first = places.enter("one", stage=Stage.CALLING)
    places.enter("two", stage=Stage.CALLING)
    assert places.enter("three") is None
    places.admission.leave(first)
    places.admission.leave(first)
    assert places.enter("three")
    assert not places.gone


def test_a_flood_of_one_address_costs_that_address():
    places = Places(64)
    for number in range(60):
        places.enter(f"flood {number}", "evil", Stage.GREETED)
    places.clock.now = 2.0
    good: list[Place | None] = []
    for number in range(1000):
        places.clock.now += 0.001
        places.enter("more", "evil", Stage.GREETED)
        if number % 20 == 0:
            good = [*good[-3:], places.enter("good", "good")]
        if number % 20 == 19 and good[-1]:
            good[-1].stage = Stage.CALLING  # a friend's first word comes within 20 ms
            places.admission.leave(good[0])
    assert "good" not in places.gone
    assert len(places.gone) > 900


def test_an_address_may_be_silent_on_few_connections_for_long():
    places = Places(64, silent=3)
    for number in range(20):
        places.enter(f"burst {number}")
    assert not places.gone, "calls that begin together"
    places.clock.now = IDLE_S
    places.enter("next")
    places.enter("elsewhere", "b")
    assert places.gone == ["burst 0"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Stage)), st.booleans(), st.floats(0, 3))))
def test_whatever_comes_a_stranger_never_keeps_anybody_out(arrivals: list[tuple[str, Stage, bool, float]]):
    places, inside = Places(4, silent=2), dict[str, Place]()
    for number, (address, stage, leaves, later_s) in enumerate(arrivals):
        places.clock.now += later_s
        calls = [name for name, place in inside.items() if place.stage is Stage.CALLING]
        place = places.enter(str(number), address, stage)
        assert (place is None) == (len(calls) == 4)
        assert not set(calls) & set(places.gone)
        if place:
            inside[str(number)] = place
        for name in set(places.gone) & set(inside):
            del inside[name]
        if leaves and inside:
            places.admission.leave(inside.pop(next(iter(inside))))
        assert len(inside) <= 4
