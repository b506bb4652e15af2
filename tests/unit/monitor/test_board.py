"""Rows of the list: rank, trend, health, and that a page is sent what it does not have."""

import json
import re
from dataclasses import replace
from importlib.resources import files

from bcaf_stream.monitor.board import MOST_OTHERS, QUIET_NS, Board
from tests.monitor_calls import MadeCall

T0 = 10**18


def rows(board: Board, version: int = -1) -> dict[str, dict]:
    return {row.name: json.loads(row.text) for row in board.since(version)}


def test_a_row_tells_the_last_half_minute():
    board, made = Board(), MadeCall("a", T0)
    board.apply([made.start(), made.say("left", "I am angry", ms=20_000, mood="anger")])
    board.refresh(T0 + 21 * 10**9, 0.0)
    row = rows(board)["a"]
    assert row["live"] is True
    assert abs(row["mass"] - 0.85) < 0.001
    assert (row["emotion"], row["role"], row["words"]) == ("anger", "customer", "I am angry")
    assert row["channels"] == {"left": "customer"}
    board.refresh(T0 + 80 * 10**9, 60.0)  # half a minute of silence: nothing was said that could be negative
    assert rows(board)["a"]["mass"] is None


def test_a_row_says_by_which_protocol_its_call_came():
    board, made = Board(), MadeCall("a", T0)
    board.apply([replace(made.start(), protocol="twilio"), made.say()])
    board.refresh(T0, 0.0)
    assert rows(board)["a"]["protocol"] == "twilio"


def test_a_call_that_gets_worse_rises():
    board, made = Board(), MadeCall("a", T0)
    events = [made.start()]
    events += [made.say(ms=9_800, mood="joy") for _ in range(25)] + [
        made.say(ms=9_800, mood="anger") for _ in range(5)
    ]
    board.apply(events)
    board.refresh(events[-1].emitted_at, 0.0)
    row = rows(board)["a"]
    assert row["trend"] == 1
    assert row["spark"][0] < 0.3 < 0.8 < row["spark"][-1]


def test_health_and_end():
    board, made = Board(), MadeCall("a", T0)
    events = [made.start(), made.say(), made.gap(), made.degraded("speech recognition is behind")]
    board.apply(events)
    board.refresh(events[-1].emitted_at, 0.0)
    row = rows(board)["a"]
    assert (row["gaps"], row["degraded"], row["ended"]) == (1, "speech recognition is behind", None)
    board.apply([made.end()])
    board.refresh(events[-1].emitted_at, 10.0)
    row = rows(board)["a"]
    assert (row["live"], row["ended"]) == (False, "complete")


def test_a_call_without_an_end_is_not_live_for_ever():
    board, made = Board(), MadeCall("a", T0)
    event = made.start()
    board.apply([event])
    board.refresh(event.emitted_at + QUIET_NS - 1, 0.0)
    assert rows(board)["a"]["live"] is True
    version = board.version
    board.refresh(event.emitted_at + QUIET_NS + 1, 10.0)
    assert rows(board, version)["a"]["live"] is False


def test_a_page_is_sent_what_changed_and_at_first_not_every_old_call():
    board = Board()
    for n in range(MOST_OTHERS + 50):
        made = MadeCall(f"old-{n:04d}", T0 + n * 10**9)
        board.apply([made.start(), made.say(), made.end()])
    live = MadeCall("live", T0 + 10**12)
    board.apply([live.start()])
    board.refresh(T0 + 10**12, 0.0)
    first = rows(board)
    assert len(first) == MOST_OTHERS + 1
    assert {"live", f"old-{MOST_OTHERS + 49:04d}"} <= first.keys()
    assert "old-0000" not in first
    version = board.version
    board.refresh(T0 + 10**12, 10.0)
    assert rows(board, version) == {}
    board.apply([live.say()])
    board.refresh(T0 + 10**12 + 10**9, 20.0)
    assert rows(board, version).keys() == {"live"}
    board.forget(["live", "never"])
    assert "live" not in rows(board)


def test_an_event_behind_the_end_is_no_error():
    board, made = Board(), MadeCall("a", T0)
    final = made.say()
    board.apply([made.start(), final, made.end()])
    board.refresh(T0, 0.0)
    board.apply([replace(made.revise(final, "later"), seq=99)])
    board.refresh(T0, 10.0)
    assert rows(board)["a"]["words"] == "later"


def test_the_page_loads_all_of_its_modules_at_once():
    static = files("bcaf_stream.monitor").joinpath("static")
    modules = {file.name for file in static.iterdir() if file.name.endswith(".js")} - {"main.js"}
    asked = set(
        re.findall(r'rel="modulepreload" href="/static/([^"]+)"', static.joinpath("index.html").read_text())
    )
    assert asked == modules
