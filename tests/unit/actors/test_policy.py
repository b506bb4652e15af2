"""Which replica is asked, and for how long a failing one is left alone."""

from hypothesis import given
from hypothesis import strategies as st

from actors.policy import Replica, choose, rest_s

replicas = st.lists(st.builds(Replica, st.integers(0, 50), st.floats(0, 100)), min_size=1, max_size=8)


@given(replicas, st.floats(0, 100))
def test_the_least_loaded_awake_replica_is_asked(pool: list[Replica], now: float):
    chosen = pool[choose(pool, now)]
    awake = [replica for replica in pool if replica.resting_until <= now]
    if awake:
        assert chosen in awake
        assert chosen.outstanding == min(replica.outstanding for replica in awake)
    else:
        assert chosen.resting_until == min(replica.resting_until for replica in pool)


def test_the_rest_grows_and_is_bounded():
    assert [rest_s(n) for n in (1, 2, 3, 4, 5, 50)] == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
