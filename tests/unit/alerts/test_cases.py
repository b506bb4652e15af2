"""Tests of rules: what they say of the shipped ones, and that they can fail."""

from pathlib import Path

import pytest

from bcaf_stream.alerts.cases import run_cases
from bcaf_stream.errors import ConfigError
from tests.unit.alerts.test_rules import CONFIGS

RULES = """
rules:
  - alert: Anger
    value: {count: [anger], over: 30s}
    fire: 1
  - alert: Joy
    value: {count: [joy], over: 30s}
    fire: 1
"""


def cases(tmp_path: Path, text: str) -> Path:
    (tmp_path / "rules.yaml").write_text(RULES)
    path = tmp_path / "cases.yaml"
    path.write_text("rules: rules.yaml\ncases:\n  - name: one\n" + text)
    return path


def test_the_shipped_rules_do_as_their_cases_say():
    count, failures = run_cases(CONFIGS / "call_centre.cases.yaml")
    assert [str(failure) for failure in failures] == []
    assert count >= 10


def test_a_case_fails_that_expects_something_else(tmp_path: Path):
    path = cases(
        tmp_path,
        "    events: [{at: 0s, for: 2s, emotion: anger}, {at: 5s, emotion: joy}]\n"
        "    expect: [{at: 1s, alert: Anger, state: firing}, {at: 3s, alert: Anger, state: firing}]\n",
    )
    assert [str(failure) for failure in run_cases(path)[1]] == [
        "one: Anger at 1s is inactive, and firing is expected",
        "one: Joy fires at 6s, and is expected at no time",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "    events: [{at: 0s, emotion: anger}]\n    expect: [{at: 1s, alert: X, state: firing}]",
            "rules have no X",
        ),
        (
            "    events: [{at: 0s, emotion: rage}]\n    expect: [{at: 1s, alert: Joy, state: firing}]",
            "rage is none",
        ),
        ("    events: [{at: 0s}]\n    expect: [{at: 1s, alert: Joy, state: firing}]", "either emotion"),
        (
            "    events: [{at: 0s, channel: x, emotion: joy}]\n    expect: [{at: 1s, alert: Joy, state: firing}]",
            "channel x is none",
        ),
        (
            "    events: [{at: 0s, revises: 1, emotion: joy}]\n    expect: [{at: 1s, alert: Joy, state: firing}]",
            "no utterance 1 before it",
        ),
        ("    events: [{at: 0s, emotion: joy}]\n    expect: [{at: 1s, alert: Joy, state: fires}]", "state"),
        ("    events: []\n    expect: [{at: 1s, alert: Joy, state: firing}]", "events"),
    ],
)
def test_a_wrong_case_is_named(text: str, message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        run_cases(cases(tmp_path, text))
