"""The pure half of the live socket: what each connection has, what of it is granted, and who has too much."""

from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.events.subscriptions import ALL_BYTES, EACH_BYTES, Connection, Subscriptions

PREFIXES = (b"emo.v1.a.", b"emo.v1.b.", b"emo.v1.b.left.")


def narrowed(name: bytes) -> list[bytes]:
    return [name] if name.startswith(PREFIXES) else [p for p in PREFIXES if p.startswith(name)]


NAMES = st.sampled_from(
    [b"", b"emo.v1.", b"emo.v1.a.", b"emo.v1.a.left.", b"emo.v1.b.", b"emo.v1.b.left.", b"emo.v1.c."]
)


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), NAMES)))
def test_a_connection_has_what_its_subscriptions_grant_together_at_every_moment(
    changes: list[tuple[int, bool, bytes]],
):
    subscriptions = Subscriptions(most=1000)
    names: list[set[bytes]] = [set(), set()]
    has: list[set[bytes]] = [set(), set()]
    for who, subscribes, name in changes:
        connection = Connection(who, 7)
        if subscribes:
            names[who].add(name)
            new = subscriptions.add(connection, name, narrowed(name))
            assert not has[who] & set(new)
            has[who] |= set(new)
        else:
            names[who].discard(name)
            old = subscriptions.remove(connection, name)
            assert has[who] >= set(old)
            has[who] -= set(old)
        assert subscriptions.excess(connection, 0.0) is None
        assert has[who] == {prefix for name in names[who] for prefix in narrowed(name)}
    assert sorted(subscriptions.names()) == sorted(n for each in names for n in each)


def test_who_drops_the_wide_prefix_keeps_the_narrow_one():
    subscriptions, connection = Subscriptions(most=10), Connection(3, 7)
    assert subscriptions.add(connection, b"emo.v1.", [b"emo.v1.a.", b"emo.v1.b."]) == [b"emo.v1.a.", b"emo.v1.b."]
    assert subscriptions.add(connection, b"emo.v1.a.", [b"emo.v1.a."]) == []
    assert subscriptions.remove(connection, b"emo.v1.") == [b"emo.v1.b."]
    assert subscriptions.remove(connection, b"emo.v1.a.") == [b"emo.v1.a."]


def filled(
    subscriptions: Subscriptions, connection: Connection, count: int, size: int, now: float
) -> list[Connection]:
    dropped = []
    for n in range(count):
        subscriptions.add(connection, b"%0*d" % (size, n), [])
        found = subscriptions.excess(connection, now)
        dropped += [found] if found else []
        if found == connection:
            break
    return dropped


def test_a_connection_with_too_many_names_too_long_ones_or_too_many_changes_is_dropped_once():
    subscriptions = Subscriptions(most=100)
    many, long, quick = (Connection(n, 7) for n in range(3))
    assert filled(subscriptions, many, 100, 10, 0.0) == []
    assert filled(subscriptions, many, 101, 10, 0.0) == [many]
    assert subscriptions.is_dropped(many)
    assert subscriptions.add(many, b"more", []) == []
    assert subscriptions.excess(many, 0.0) is None
    assert filled(subscriptions, long, 100, EACH_BYTES // 50, 0.0) == [long]
    found = []
    for _ in range(500):
        subscriptions.add(quick, b"x", [])
        subscriptions.remove(quick, b"x")
        found.append(subscriptions.excess(quick, 1.0))
    assert found == [None] * 200 + [quick] + [None] * 299
    assert list(subscriptions.names()) == []
    subscriptions.forget(lambda connection: connection == many)
    assert not subscriptions.is_dropped(many)
    assert list(subscriptions) == [long, quick]


def test_when_all_have_too_much_the_heaviest_goes_and_what_it_had_is_free_again():
    subscriptions = Subscriptions(most=1000)
    small, heavy = Connection(0, 7), Connection(1, 7)
    assert filled(subscriptions, small, 100, 50, 0.0) == []
    assert filled(subscriptions, heavy, 49, EACH_BYTES // 50, 0.0) == []
    dropped = []
    for n in range(2, 3 * ALL_BYTES // EACH_BYTES):
        dropped += filled(subscriptions, Connection(n, 7), 48, EACH_BYTES // 50, 0.0)
    assert dropped[0] == heavy
    assert small not in dropped
    assert subscriptions.bytes <= ALL_BYTES
    subscriptions.forget(lambda _: True)
    assert subscriptions.bytes == 0
