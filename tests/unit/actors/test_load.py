"""The load test's report: what it counts, and which limits it holds against."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.load import STEP_S, Material, _means_ms, demo_material, folder_material
from actors.load_report import LoadReport
from bcaf_stream.demo import CALL
from bcaf_stream.errors import UsageError
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance

DEMO = demo_material()[0]
SPOKEN_NS = 1_000_000_000_000
PREDICTION = EmotionPrediction(("anger", "neutral"), (0.7, 0.3), None, None, ("audio",))


def call(name: str, finals: int):
    """(unix time, event) as a subscriber gets them: each final 500 ms after its speech, a second apart."""
    writer = EventWriter(Call(name, (Channel("customer", "customer"),)), "m", clock=lambda: SPOKEN_NS)
    found = [(SPOKEN_NS / 1e9, writer.start())]
    for n in range(finals):
        ended = SPOKEN_NS + n * 1_000_000_000
        utterance = Utterance(name, "customer", "customer", n, n * 1000, n * 1000 + 900, None, None, "none", ended)
        found.append((ended / 1e9 + 0.5, writer.final(utterance, PREDICTION)))
    return [*found, (found[-1][0] + 1, writer.end("complete"))]


def described(arrived, calls=("a",)) -> LoadReport:
    report = LoadReport({"calls": len(calls)})
    report.describe_events(arrived, calls)
    return report


def test_a_call_that_came_whole():
    report = described(call("a", 10))
    assert (report.finals, report.lost, report.conflicts, report.unended) == (10, 0, 0, 0)
    assert report.p50_ms == pytest.approx(500)
    assert report.p99_ms == pytest.approx(500)
    assert report.passed_limits({"p95_ms": 501}) == []
    assert report.passed_limits({"p95_ms": 400}) == ["p95_ms is 500, the limit is 400"]


@given(st.sets(st.integers(0, 10), max_size=5))
def test_every_event_that_did_not_come_is_counted(missing: set[int]):
    whole = call("a", 10)
    report = described([event for n, event in enumerate(whole) if n not in missing])
    assert report.lost == len(missing)  # the end is always there, and tells how many there are
    assert bool(report.passed_limits({})) == bool(missing)


def test_a_number_that_came_with_two_events_and_a_call_without_an_end_pass_every_limit():
    whole = call("a", 3)
    at, event = whole[2]
    report = described([*whole[:-1], (at, replace(event, id="another"))], ("a", "b"))
    assert report.conflicts == 1
    assert report.unended == 2
    assert report.passed_limits({}) == ["conflicts: 1", "unended: 2"]


def test_after_a_kill_the_longest_silence_until_the_next_one_is_told():
    arrived = call("a", 10)
    began = arrived[0][0]
    report = LoadReport({})
    report.describe_kills([one for one in arrived if not 3 < one[0] - began < 7], [(began + 3, "hub")], began)
    assert report.kills == [{"actor": "hub", "at_s": 3.0, "silence_s": pytest.approx(4.5)}]


def test_a_report_without_any_event_is_no_success():
    report = described([])
    assert report.passed_limits({"p95_ms": 1000}) == ["p95_ms is nan, the limit is 1000", "unended: 1"]
    assert "unended" in report.to_json()


@pytest.mark.parametrize(("limit", "part"), [("p95_ms", "give NAME=NUMBER"), ("p96_ms=3", "there are")])
def test_a_limit_that_is_none_is_refused(limit: str, part: str):
    with pytest.raises(UsageError, match=part):
        LoadReport.check_limits([limit])


def test_the_material_is_whole_steps_of_two_channels(tmp_path):
    (tmp_path / "a.wav").write_bytes(CALL.read_bytes())
    (tmp_path / "notes.txt").write_text("no sound")
    for material in (*demo_material(), *folder_material(tmp_path)):
        assert isinstance(material, Material)
        assert material.samples_NC.shape[1] == 2
        assert len(material.samples_NC) % round(STEP_S * material.rate) == 0
    words = demo_material()[0].words
    assert all(a.start_ms <= b.start_ms for a, b in pairwise(words))
    (tmp_path / "a.wav").unlink()
    with pytest.raises(UsageError, match="no sound that can be read"):
        folder_material(tmp_path)


def test_the_mean_of_a_stage_is_of_the_time_between_and_an_actor_may_begin_anew():
    before = {("ingest", "emotion"): (10.0, 100.0), ("emotion-0", "step"): (1.0, 50.0)}
    after = {
        ("ingest", "emotion"): (1.0, 10.0),
        ("emotion-0", "step"): (3.0, 150.0),
        ("hub", "journal"): (0.0, 0.0),
    }
    assert _means_ms(before, after) == {"emotion": pytest.approx(100), "step": pytest.approx(20)}


@given(st.floats(0, 90))
def test_a_load_call_begins_in_the_middle_of_nobodys_sentence(seconds: float):
    """Its rest would be an utterance without words, which looks as if a deployment had lost them."""
    material = DEMO.from_place(seconds)
    length_ms = len(material.samples_NC) * 1000 // material.rate
    assert sorted(w.text for w in material.words) == sorted(w.text for w in DEMO.words)
    assert all(0 <= word.start_ms <= word.end_ms <= length_ms for word in material.words)
