"""What the clock says of stalled channels and lost senders; the time is given."""

from actors.watchdog import LiveConfig, Watchdog

CONFIG = LiveConfig(stall_s=1.5, grace_s=10, resume_s=40, idle_s=30)


def test_a_channel_stalls_once_until_it_is_heard_again():
    live = Watchdog(CONFIG, 0.0, ["a", "b"])
    live.heard("a", 1.0)
    assert live.newly_stalled(1.4) == []
    assert live.newly_stalled(1.5) == ["b"]
    assert live.newly_stalled(2.0) == []
    live.heard("b", 2.4)
    assert live.newly_stalled(2.5) == ["a"]
    assert live.newly_stalled(4.0) == ["b"]


def test_without_a_connection_everything_stalls_at_once_and_the_call_ends_after_the_grace():
    live = Watchdog(CONFIG, 0.0, ["a", "b"])
    live.heard("a", 5.0)
    live.disconnected(5.0)
    assert not live.is_connected
    assert live.newly_stalled(5.0) == ["a", "b"]
    assert not live.is_lost(14.9)
    assert live.is_lost(15.0)
    live.connected(14.0)
    assert not live.is_lost(15.0)


def test_a_silent_sender_is_lost_after_the_idle_time_and_words_are_a_sign_of_life():
    live = Watchdog(CONFIG, 0.0, ["a"])
    assert not live.is_lost(29.9)
    live.spoke(29.9)
    assert not live.is_lost(59.8)
    assert live.is_lost(59.9)
    assert live.silent_s(59.9) == 59.9


def test_it_says_how_long_nothing_can_change():
    live = Watchdog(CONFIG, 0.0, ["a", "b"])
    assert live.wait_s(0.5) == 1.0
    live.newly_stalled(1.5)
    assert live.wait_s(2.0) == 28.0
    live.disconnected(2.0)
    assert live.wait_s(2.0) == 10.0
    assert live.wait_s(50.0) == 0.0


def test_a_stall_of_ourselves_stalls_nobody():
    live = Watchdog(CONFIG, 0.0, ["a", "b"])
    live.heard("a", 1.0)
    live.excuse(10.0)  # this process stood still from 1.2 to 11.2
    assert live.newly_stalled(11.4) == []
    assert live.newly_stalled(11.5) == ["b"]
    assert live.newly_stalled(12.5) == ["a"]
    live.disconnected(12.5)
    live.excuse(10.0)
    assert not live.is_lost(32.4)
    assert live.is_lost(32.5)


def test_a_sender_that_keeps_its_sound_stalls_only_while_it_is_connected():
    live = Watchdog(CONFIG, 0.0, ["a"], keeps_sound=True)
    live.disconnected(1.0)
    assert live.newly_stalled(9.0) == []
    assert live.wait_s(9.0) == 32.0
    assert not live.is_lost(40.9)
    assert live.is_lost(41.0)
    live.connected(9.0)
    assert live.newly_stalled(18.9) == []  # it looks up the place in a long file
    live.heard("a", 18.9)
    assert live.newly_stalled(20.3) == []
    assert live.newly_stalled(20.4) == ["a"]


def test_a_sender_that_came_back_and_sends_nothing_stalls_all_the_same():
    live = Watchdog(CONFIG, 0.0, ["a"], keeps_sound=True)
    live.disconnected(1.0)
    live.connected(9.0)
    assert live.newly_stalled(19.0) == ["a"]
