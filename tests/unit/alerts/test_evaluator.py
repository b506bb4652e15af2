"""The rules on one call: what was said decides, whenever it became known."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.alerts.evaluator import LAPSED, REVISED, AlertChange, AlertEvaluator, evaluate
from bcaf_stream.alerts.rules import AlertRules
from bcaf_stream.events.event import Event
from tests.calls import CallScript


def rules_of(*rules: dict[str, Any]) -> AlertRules:
    named = [{"alert": f"Rule{n}", **rule} for n, rule in enumerate(rules)]
    return AlertRules.model_validate({"rules": named})


ANGER: dict[str, Any] = {
    "alert": "Anger",
    "match": {"role": "customer"},
    "value": {"mass": ["anger", "disgust"], "over": "30s"},
    "fire": 0.6,
    "recover": 0.4,
}


def told(changes: list[AlertChange]) -> list[tuple[str, int]]:
    return [(change.state, change.at_ms) for change in changes]


def test_a_rule_fires_when_it_has_lasted_and_recovers_below_its_lower_level():
    script = CallScript()
    for n in range(6):
        script.say(n * 10_000, n * 10_000 + 5_000, "anger")
    for n in range(6, 12):
        script.say(n * 10_000, n * 10_000 + 5_000, "joy")
    rule = {**ANGER, "for": "10s", "keep_firing_for": "20s", "need": {"utterances": 2, "speech": "6s"}}
    changes = evaluate(rules_of(rule), script.events)
    # Two utterances at 15 s; at 85 s two of three are joy.
    assert told(changes) == [("pending", 15_000), ("firing", 25_000), ("recovering", 75_000), ("resolved", 95_000)]
    firing = changes[1]
    assert firing.began_ms == 15_000
    assert firing.value is not None
    assert firing.value > 0.9
    assert [evidence.said.index for evidence in firing.evidence] == [0, 1, 2]
    assert sum(evidence.weight for evidence in firing.evidence) == pytest.approx(1)


def test_what_does_not_last_is_taken_back_and_causes_no_cool_down():
    script = CallScript()
    script.say(0, 2_000, "anger")
    script.say(4_000, 9_000, "joy")
    script.say(60_000, 62_000, "anger")
    script.say(80_000, 81_000, "anger")
    rule = {**ANGER, "value": {"mass": ["anger"], "over": "30s"}, "for": "10s", "cool_down": "5m"}
    changes = evaluate(rules_of(rule), script.events)
    assert told(changes)[:4] == [("pending", 2_000), ("resolved", 9_000), ("pending", 62_000), ("firing", 72_000)]
    assert changes[1].reason == LAPSED


def test_cool_down_keeps_an_alert_from_coming_back():
    script = CallScript()
    for at in (0, 100_000, 200_000):
        script.say(at, at + 2_000, "anger")
        script.say(at + 40_000, at + 42_000, "joy")
    for cool_down, fired in (("0s", 3), ("50s", 3), ("100s", 2), ("10m", 1)):
        changes = evaluate(rules_of({**ANGER, "cool_down": cool_down}), script.events)
        assert [change.state for change in changes].count("firing") == fired


def test_without_data_an_alert_stays_or_ends_as_the_rule_says():
    script = CallScript()
    script.say(0, 5_000, "anger")
    script.say(100_000, 101_000, channel="agent")
    kept = evaluate(rules_of(ANGER), script.events)
    ended = evaluate(rules_of({**ANGER, "no_data": "resolve"}), script.events)
    assert told(kept) == [("firing", 5_000), ("resolved", 101_000)]
    assert told(ended) == [("firing", 5_000), ("resolved", 35_000)]
    assert ended[-1].value is None


def test_each_channel_that_matches_is_watched_by_itself():
    script = CallScript(roles={"a": "speaker", "b": "speaker", "c": "agent"})
    script.say(0, 5_000, "anger", channel="b")
    script.say(5_000, 9_000, "anger", channel="c")
    rule = {**ANGER, "match": {"role": "speaker"}}
    assert {(change.channel, change.role) for change in evaluate(rules_of(rule), script.events)} == {
        ("b", "speaker")
    }


@pytest.mark.parametrize(
    ("value", "fire", "fires_at"),
    [
        ({"count": ["anger"], "over": "60s"}, 3, 25_000),
        ({"share": ["anger"], "over": "60s"}, 0.5, 5_000),
        ({"words": ["refund", "a  lawyer"], "over": "60s"}, 2, 15_000),
        ({"trend": ["anger"], "over": "60s"}, 0.5, 79_000),
        ({"talk_over": True, "over": "10s"}, 0.2, 106_000),
        ({"silence": True}, "40s", 106_000 + 40_000 + 15_000),
    ],
)
def test_every_kind_of_value(value: dict[str, Any], fire: float, fires_at: int):
    script = CallScript()
    texts = ["I want a REFUND.", "I'll call a lawyer!", "refunds and a lawyerly", "no"]
    for n in range(4):
        script.say(n * 10_000, n * 10_000 + 5_000, "anger" if n < 3 else "joy", text=texts[n])
    for n in range(4, 8):
        script.say(n * 10_000, n * 10_000 + 5_000, "anger" if n > 6 else "joy")
    script.say(100_000, 104_000)
    script.say(102_000, 106_000, channel="agent")
    script.say(200_000, 201_000)
    (first, *_) = evaluate(rules_of({"value": value, "fire": fire}), script.events)
    assert (first.state, first.at_ms) == ("firing", fires_at)


def test_silence_is_not_what_was_lost_or_is_still_being_said():
    rule = {"value": {"silence": True}, "fire": "20s"}
    script = CallScript()
    script.say(0, 5_000)
    script.lose(6_000, 60_000)
    script.lose(6_000, 60_000, "agent")
    script.say(62_000, 77_000)  # the longest utterance there is
    script.say(90_000, 91_000)
    assert evaluate(rules_of(rule), script.events) == []


def test_silence_is_known_when_the_longest_utterance_would_be_over():
    rule = {"value": {"silence": True}, "fire": "20s"}
    script = CallScript()
    script.say(0, 5_000)
    script.say(30_000, 31_000)
    script.say(60_000, 61_000)
    assert told(evaluate(rules_of(rule), script.events)) == [
        ("firing", 40_000),
        ("resolved", 45_000),
    ]


def test_when_filters_and_confidence_is_needed():
    script = CallScript()
    script.say(0, 5_000, "anger", 0.9, text="the line is bad")
    script.say(10_000, 15_000, "anger", 0.6, text="never again")
    for changed, fires_at in (
        ({}, 5_000),
        ({"when": 'event.text.contains("never")'}, 15_000),
        ({"when": "event.probs.anger < 0.7 && event.role == 'customer'"}, 15_000),
        ({"need": {"confidence": 0.95}}, None),
    ):
        changes = evaluate(rules_of({**ANGER, "fire": 0.5, "recover": 0.4, **changed}), script.events)
        assert (changes[0].at_ms if changes else None) == fires_at


def test_a_revision_that_takes_the_evidence_away_retracts():
    script = CallScript()
    script.say(0, 5_000, "anger")
    script.say(10_000, 15_000, "anger")
    evaluator = AlertEvaluator(rules_of({**ANGER, "for": "5s"}), "call-1")
    changes = []
    for event in script.events:
        changes += evaluator.push(event)
    changes += evaluator.tick(20_000)
    assert told(changes) == [("pending", 5_000), ("firing", 10_000)]
    assert evaluator.push(script.say(0, 5_000, "anger", 0.85, index=0, revision=1)) == []  # as before
    assert evaluator.push(script.say(0, 5_000, "joy", index=0, revision=2)) != []
    evaluator = AlertEvaluator(rules_of({**ANGER, "for": "5s"}), "call-1")
    for event in script.events[:3]:
        evaluator.push(event)
    evaluator.tick(20_000)
    changes = evaluator.push(script.say(0, 5_000, "joy", index=0, revision=3))
    changes += evaluator.push(script.say(10_000, 15_000, "joy", index=1, revision=1))
    assert "retracted" in [change.state for change in changes]
    assert [c.reason for c in changes if c.state == "retracted"] == [REVISED]
    assert evaluator.states["Anger", "customer"].phase == "inactive"


def test_words_that_came_late_raise_the_alert_that_they_would_have_raised():
    script = CallScript()
    script.say(0, 5_000, "joy", text=None)
    script.say(30_000, 35_000, text="thank you")
    evaluator = AlertEvaluator(rules_of({"value": {"words": ["lawyer"], "over": "20s"}, "fire": 1}), "call-1")
    for event in script.events:
        evaluator.push(event)
    assert evaluator.tick(40_000) == []
    changes = evaluator.push(script.say(0, 5_000, "joy", text="my lawyer will call", index=0, revision=1))
    assert told(changes) == [("firing", 5_000), ("resolved", 25_000)]
    assert [e.said.revision for e in changes[0].evidence] == [1]


def test_at_its_end_a_call_has_no_open_alerts():
    script = CallScript()
    script.say(0, 5_000, "anger")
    changes = evaluate(rules_of(ANGER), [*script.events, script.end()])
    assert told(changes) == [("firing", 5_000), ("resolved", 5_000)]
    assert changes[-1].reason == "the call has ended"


def test_a_gap_of_years_costs_a_moment():
    script = CallScript()
    script.say(0, 5_000, "anger")
    years = 10**13
    script.lose(6_000, years)
    script.say(years, years + 3_000, "joy")
    script.say(0, 5_000, "joy", index=0, revision=1)
    rules = rules_of(ANGER, {"value": {"silence": True}, "fire": "20s"})
    changes = evaluate(rules, script.events)
    assert [change.state for change in changes] == ["firing", "resolved"]


RULES = rules_of(
    {
        "value": {"mass": ["anger"], "over": "20s"},
        "fire": 0.5,
        "recover": 0.3,
        "for": "3s",
        "keep_firing_for": "4s",
    },
    {"value": {"mass": ["anger"], "over": "10s"}, "fire": 0.6, "cool_down": "30s", "no_data": "resolve"},
    {"value": {"count": ["anger"], "over": "30s"}, "fire": 2, "need": {"confidence": 0.5}},
    {"value": {"words": ["lawyer"], "over": "20s"}, "fire": 1, "for": "2s"},
    {"value": {"trend": ["anger"], "over": "20s"}, "fire": 0.4},
    {"value": {"talk_over": True, "over": "10s"}, "fire": 0.1},
    {"value": {"silence": True}, "fire": "6s"},
    {"value": {"share": ["anger"], "over": "15s"}, "fire": 0.5, "when": "event.channel == 'agent'"},
)


@st.composite
def told_calls(draw: st.DrawFn) -> list[Event]:
    """Finals, revisions and gaps of a call, in the order of their time."""
    script = CallScript()
    at = dict.fromkeys(("customer", "agent"), 0)
    for _ in range(draw(st.integers(1, 10))):
        channel = draw(st.sampled_from(sorted(at)))
        start = at[channel] + draw(st.integers(0, 20_000))
        end = start + draw(st.integers(200, 12_000))
        at[channel] = end
        if draw(st.integers(0, 9)) == 0:
            script.lose(start, end, channel)
            continue
        index = sum(event.channel == channel and event.type == "emotion.final" for event in script.events)
        for revision in range(draw(st.integers(1, 3))):
            emotion = draw(st.sampled_from(["anger", "joy", "neutral"]))
            probability = draw(st.sampled_from([0.4, 0.7, 0.95]))
            text = draw(st.sampled_from(["a lawyer", "fine", None]))
            script.say(start, end, emotion, probability, channel, text, index, revision)
    return script.events[1:]


@settings(max_examples=150, deadline=None)
@given(told_calls(), st.data())
def test_in_any_order_the_state_is_that_of_a_call_told_right_at_once(events: list[Event], data: st.DataObject):
    end_ms = max(event.end_ms or 0 for event in events) + 30_000
    shuffled = data.draw(st.permutations(events))
    evaluator = AlertEvaluator(RULES, "call-1")
    changes: list[AlertChange] = []
    for event in shuffled:
        changes += evaluator.tick(data.draw(st.integers(0, end_ms)))
        changes += evaluator.push(event)
    changes += evaluator.tick(end_ms)

    last: dict[tuple[str, int | None], Event] = {}
    for event in events:
        last[event.channel, event.utterance if event.utterance is not None else -1 - event.seq] = event
    straight = AlertEvaluator(RULES, "call-1")
    for event in last.values():
        straight.push(event)
    straight.tick(end_ms)
    assert evaluator.states == straight.states

    # What somebody believes who was told the changes alone.
    believed = {(change.rule.alert, change.channel): change.state for change in changes}
    for key, state in evaluator.states.items():
        phase = believed.get(key, "resolved")
        assert ("inactive" if phase in ("resolved", "retracted") else phase) == state.phase


@settings(max_examples=50, deadline=None)
@given(told_calls(), st.integers(0, 12))
def test_a_call_that_is_gone_on_with_has_the_alerts_of_an_undisturbed_one(events: list[Event], cut: int):
    """Of the events told so far, alerts among them, a new evaluator knows all that it must."""
    finals = sorted((e for e in events if not e.revision and e.utterance is not None), key=lambda e: e.end_ms or 0)
    end_ms = max((event.end_ms or 0 for event in finals), default=0) + 30_000
    whole = AlertEvaluator(RULES, "call-1")
    expected = run(whole, finals, end_ms)
    first = AlertEvaluator(RULES, "call-1")
    before = run(first, finals[:cut], None)
    second = AlertEvaluator(RULES, "call-1")
    second.restore([*finals[:cut], *(as_event(change) for change in before)])
    after = run(second, finals[cut:], end_ms)
    assert [*told(before), *told(after)] == told(expected)


def run(evaluator: AlertEvaluator, events: list[Event], end_ms: int | None) -> list[AlertChange]:
    changes = []
    for event in events:
        changes += evaluator.tick((event.end_ms or 0) - 1000)
        changes += evaluator.push(event)
    return changes + (evaluator.tick(end_ms) if end_ms else [])


class _AlertEvent:
    """An alert's event as far as it is looked at."""

    def __init__(self, change: AlertChange) -> None:
        self.__dict__.update(change.to_fields())
        self.type = "alert"


def as_event(change: AlertChange) -> Any:
    return _AlertEvent(change)


def test_an_event_that_was_told_before_changes_nothing():
    script = CallScript()
    first = script.say(0, 5_000, "anger")
    second = script.say(0, 5_000, "joy", index=0, revision=1)
    evaluator = AlertEvaluator(rules_of(ANGER), "call-1")
    evaluator.push(second)
    evaluator.push(first)
    assert evaluator.tick(10_000) == []
    assert evaluator.push(replace(second, seq=99)) == []
