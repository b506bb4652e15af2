"""What a call amounts to: the totals are those of the utterances as they were told last."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.events.event import Event
from bcaf_stream.summary import CallSummary, Floor, RoleSummary, sparkline, trend
from tests.calls import CallScript


def summary_of(events: list[Event], keep: int | None = None) -> CallSummary:
    summary = CallSummary(keep)
    for event in events:
        summary.push(event)
    return summary


def test_negative_mass_is_weighted_by_speech_and_looks_back_over_the_window():
    script = CallScript()
    script.say(0, 10_000, "anger", 1.0)  # before the last 30 s
    script.say(20_000, 50_000, "anger", 0.8)  # of which 20 s are in them
    script.say(50_000, 60_000, "joy", 1.0)
    summary = summary_of(script.events)
    negative = 0.8 + 3 * 0.2 / 6
    assert summary.now_ms == 60_000
    assert summary.negative_mass(30_000) == pytest.approx((20 * negative + 10 * 0) / 30, abs=1e-5)
    assert summary.negative_mass(5_000) == 0
    assert summary.negative_mass(1_000, at_ms=90_000) is None  # nothing was judged then


def test_a_revision_replaces_its_final_and_a_final_its_interim_result():
    script = CallScript()
    script.say(0, 1_000, "anger", interim=True)
    summary = summary_of(script.events)
    assert summary.negative_mass() is None
    assert summary.negative_mass(interims=True) == pytest.approx(0.95, abs=1e-5)
    summary.push(script.say(0, 2_000, "anger"))
    assert not summary.interims
    assert summary.negative_mass() == pytest.approx(0.95, abs=1e-5)
    summary.push(script.say(0, 2_000, "joy", index=0, revision=1))
    assert summary.roles["customer"].shares == {"joy": 1.0}
    assert summary.roles["customer"].utterances == summary.roles["customer"].judged == 1
    (said,) = summary.said
    assert (said.emotion, said.was, summary.quality.revised) == ("joy", "anger", 1)


def test_a_speaker_who_turned_out_to_be_another_one_talks_over_nobody():
    script = CallScript()
    first = replace(script.say(0, 2_000, "anger"), speaker="S1")
    second = replace(script.say(1_000, 3_000, "joy"), speaker="S2")
    summary = summary_of([first, second])
    assert summary.talk_over_ms == 1_000
    about = {"id": "r", "call": first.call, "channel": first.channel, "seq": second.seq + 1, "emitted_at": 3}
    summary.push(Event(type="speaker.relabelled", relabelled={"S2": "S1"}, **about))
    assert [one.who for one in summary.said] == ["S1", "S1"]
    assert summary.talk_over_ms == 0


def test_a_revision_that_could_not_be_judged_leaves_what_was_said():
    script = CallScript()
    script.say(0, 1_000, "anger")
    script.fail(0, 1_000, "the model is gone")
    failed = replace(script.events[-1], utterance=0, revision=1)
    summary = summary_of([*script.events[:-1], failed])
    assert [one.emotion for one in summary.said] == ["anger"]
    assert summary.quality.degraded == {"the model is gone": 1}


def test_trend_holds_the_last_quarter_against_those_before():
    script = CallScript()
    for n in range(4):
        script.say(n * 10_000, n * 10_000 + 5_000, "anger" if n == 3 else "joy", 1.0)
    summary = summary_of(script.events)
    assert trend(summary.said, 0, 40_000) == pytest.approx(1.0)
    assert trend(summary.said, 35_000, 45_000) is None  # nothing before
    assert sparkline(summary.said, 0, 40_000, 4) == pytest.approx([0, 0, 0, 1])
    assert sparkline(summary.said, 5_000, 10_000, 2) == [None, None]


def test_talk_over_silence_and_turning_points():
    script = CallScript()
    script.say(1_000, 5_000, "joy")
    script.say(4_000, 7_000, channel="agent")
    script.say(20_000, 25_000, "joy")
    script.lose(26_000, 60_000)  # lost sound is no silence
    for n in range(7):
        script.say(60_000 + n * 2_000, 61_000 + n * 2_000, "anger" if n > 2 else "joy")
    summary = summary_of(script.events)
    assert summary.talk_over_ms == 1_000
    assert summary.longest_silence == (7_000, 20_000)
    assert summary.talked_over_ms == {"agent": 1_000}  # the customer was speaking when the agent began
    assert summary.longest_silence_of("customer") == (5_000, 20_000)
    assert summary.longest_silence_of("agent") == (0, 0)
    (point,) = summary.turning_points
    assert (point.channel, point.index, point.at_ms) == ("customer", 5, 66_000)
    assert point.before < 0.1 < 0.9 < point.after


def test_data_quality():
    script = CallScript()
    script.say(0, 1_000, text=None)
    script.say(1_000, 2_000)
    script.fail(2_000, 3_000, "the encoder failed")
    script.lose(3_000, 4_500)
    script.degrade("too noisy")
    script.say(5_000, 6_000, degraded=("asr",), text=None)
    lost = script.say(6_000, 7_000)
    script.end()
    summary = summary_of([event for event in script.events if event is not lost])
    quality = summary.quality
    assert quality.modalities == {"audio": 2, "audio+text": 1, "none": 1}
    assert quality.audio_only == 0.5
    assert quality.degraded == {"the encoder failed": 1, "too noisy": 1, "asr": 1}
    assert (quality.gaps, quality.lost_ms["customer"], quality.missing) == (1, 1_500, 1)
    summary.push(lost)
    assert quality.missing == 0
    assert summary.ended
    json.dumps(summary.to_map(), allow_nan=False)


spans = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 300), st.sampled_from(["a", "b", "c", ""])), max_size=60
)


@given(spans)
def test_the_floor_in_bounded_memory_is_the_floor(found: list[tuple[int, int, str]]):
    """A channel's own spans follow each other, and come in the order of their ends."""
    ends: dict[str, int] = {}
    placed = []
    for gap, length, channel in found:
        start = ends.get(channel, 0) + gap
        ends[channel] = start + length
        placed.append((start, start + length, channel))
    placed.sort(key=lambda span: span[1])
    whole, bounded = Floor(), Floor(keep=8)
    for span in placed:
        whole.add(*span)
        bounded.add(*span)
    end = max((b for a, b, _ in placed if a < b), default=0)
    sound = [{c for a, b, c in placed if a <= at < b} for at in range(end)]
    assert whole.talk_over_ms == sum(len(channels - {""}) > 1 for channels in sound)
    assert sum(whole.talked_over_ms.values()) == sum(max(0, len(channels - {""}) - 1) for channels in sound)
    longest = (sum(whole.longest_silence) and whole.longest_silence[1] - whole.longest_silence[0]) or 0
    assert longest == longest_run(sound)
    # Spans that began before what was folded are cut there: the order of ends bounds by how much.
    assert bounded.talk_over_ms <= whole.talk_over_ms
    if all(b - a < 20 for a, b, _ in placed):
        assert bounded.talk_over_ms == whole.talk_over_ms
        assert bounded.talked_over_ms == whole.talked_over_ms


def longest_run(sound: list[set[str]]) -> int:
    first = next((n for n, channels in enumerate(sound) if channels - {""}), len(sound))
    longest = run = 0
    for channels in sound[first:]:
        run = 0 if channels else run + 1
        longest = max(longest, run)
    return longest


told = st.lists(
    st.tuples(
        st.integers(0, 5), st.sampled_from(["anger", "joy", "neutral"]), st.booleans(), st.sampled_from("ca")
    ),
    max_size=40,
)


@given(told)
def test_with_revisions_the_totals_are_those_of_the_last_versions(actions: list[tuple[int, str, bool, str]]):
    script = CallScript()
    last: dict[tuple[str, int], tuple[str, int]] = {}
    for number, emotion, has_words, side in actions:
        channel = {"c": "customer", "a": "agent"}[side]
        index = min(number, sum(name == channel for name, _ in last))
        revision = last[channel, index][1] + 1 if (channel, index) in last else 0
        start_ms = index * 1_000
        script.say(
            start_ms, start_ms + 700, emotion, 0.8, channel, "two words" if has_words else None, index, revision
        )
        last[channel, index] = (emotion, revision)
    summary = summary_of(script.events)
    for channel in ("customer", "agent"):
        role = summary.roles.get(channel, RoleSummary())
        expected = [emotion for (name, _), (emotion, _) in last.items() if name == channel]
        assert role.utterances == len(expected)
        assert role.talk_ms == 700 * len(expected)
        assert {k: v for k, v in role.emotions_ms.items() if v} == {e: 700 * expected.count(e) for e in expected}
    assert sum(summary.quality.modalities.values()) == len(last)


def test_bounded_memory_keeps_the_totals_and_says_what_came_too_late():
    script = CallScript()
    for n in range(100):
        script.say(n * 1_000, n * 1_000 + 500, "anger" if n % 2 else "joy")
        script.lose(n * 1_000 + 600, n * 1_000 + 700)
    script.say(0, 500, "sadness", index=0, revision=1)
    whole, bounded = summary_of(script.events), summary_of(script.events, keep=10)
    assert len(bounded.said) == len(bounded.gaps) == 10
    assert bounded.quality.late_revisions == 1
    assert bounded.roles["customer"].talk_ms == whole.roles["customer"].talk_ms
    assert bounded.roles["customer"].emotions_ms == {"anger": 25_000, "joy": 25_000}
    assert bounded.talk_over_ms == whole.talk_over_ms
    assert bounded.negative_mass(5_000) == whole.negative_mass(5_000)


def test_events_in_any_order_of_delivery_give_the_same_totals():
    script = CallScript()
    script.say(0, 1_000, "anger")
    script.say(2_000, 3_000, "joy")
    script.say(0, 1_000, "fear", index=0, revision=1)
    forth, back = summary_of(script.events), summary_of(list(reversed(script.events)))
    assert forth.roles["customer"].shares == back.roles["customer"].shares
    assert [one.emotion for one in back.said] == ["fear", "joy"]
