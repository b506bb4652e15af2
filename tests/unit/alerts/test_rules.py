"""A rule that is wrong, or can never fire, is an error that names the key and the way out."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bcaf_stream.alerts.rules import AlertRules, Rule, duration_ms, load_rules
from bcaf_stream.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs" / "alerts"
GOOD: dict[str, Any] = {
    "alert": "Anger",
    "match": {"role": "customer"},
    "value": {"mass": ["anger"], "over": "30s"},
    "fire": 0.6,
}


def load(tmp_path: Path, *rules: dict[str, Any], **top: Any) -> AlertRules:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"rules": list(rules), **top}))
    return load_rules(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fires": 1}, "rules.0.fires: unknown key; did you mean fire?"),
        ({"value": {"mass": ["anger"], "ovre": "30s"}}, "rules.0.value.ovre: unknown key; did you mean over?"),
        ({"for_": "10s", "for": "10s"}, "for"),
        ({"value": {"mass": ["anger"]}}, "mass needs over"),
        ({"value": {"mass": ["anger"], "count": ["anger"], "over": "30s"}}, "exactly one of"),
        ({"value": {"over": "30s"}}, "exactly one of"),
        ({"value": {"mass": [], "over": "30s"}}, "rules.0.value.mass"),
        ({"value": {"mass": ["angry"], "over": "30s"}}, "no model here knows angry; known are anger,"),
        ({"value": {"mass": ["anger"], "over": 30}}, "a number with its unit"),
        ({"value": {"mass": ["anger"], "over": "0s"}}, "rules.0.value.over"),
        ({"value": {"mass": ["anger"], "over": "3d"}}, "a number with its unit"),
        ({"value": {"words": [" "], "over": "30s"}, "fire": 1}, "an empty word"),
        ({"value": {"silence": True, "over": "30s"}, "fire": 10}, "leave over out"),
        ({"value": {"silence": True}, "fire": 0.5}, "in seconds"),
        ({"value": {"talk_over": True, "over": "30s"}}, "leave match out"),
        ({"value": {"count": ["anger"], "over": "30s"}}, "1 or more"),
        ({"value": {"count": ["anger"], "over": "1s"}, "fire": 20}, "no 1 s have so many"),
        ({"value": {"share": ["anger"], "over": "30s", "weight": "utterances"}}, "weight is for mass"),
        ({"recover": 0.7}, "recover (0.7) is above fire (0.6)"),
        ({"fire": 1.2}, "a mass is from 0 to 1"),
        ({"fire": 0}, "a mass is from 0 to 1"),
        ({"fire": "lots"}, "a number with its unit"),
        ({"value": {"trend": ["anger"], "over": "60s"}, "fire": -0.2}, "above 0"),
        ({"need": {"speech": "31s"}}, "need.speech is 31 s of the last 30 s: it could never fire"),
        ({"need": {"utterances": 500}}, "need.utterances is 500 in 30 s: it could never fire"),
        ({"need": {"confidence": 50}}, "rules.0.need.confidence"),
        ({"value": {"silence": True}, "fire": 10, "need": {"utterances": 2}}, "no meaning"),
        ({"match": {"role": "client"}}, "rules.0.match.role"),
        ({"no_data": "drop"}, "rules.0.no_data"),
        ({"notify": ["pager"]}, "rules.0.notify.0"),
        ({"alert": "my alert"}, "rules.0.alert"),
        ({"annotations": {"summary": "{{role}} {{valeu}}"}}, "summary speaks of valeu; known are alert"),
        ({"when": "1 +"}, "not an expression of CEL"),
        ({"when": "event.confidence"}, "must give true or false"),
        ({"when": "event.nope == 1"}, "an event has no field 'nope'"),
        ({"when": "call == 'a'"}, "asked of `event`"),
        ({"when": "[1,2].all(x, x > 0)"}, "loops"),
        ({"when": "true || " * 200 + "true"}, "rules.0.when"),
    ],
)
def test_a_wrong_rule_is_named(change: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD | change)
    text = str(caught.value)
    assert message in text
    assert text.startswith(str(tmp_path))
    assert "\n" not in text


def test_names_are_unique_and_other_models_have_other_emotions(tmp_path: Path):
    with pytest.raises(ConfigError, match="Anger stands there 2 times"):
        load(tmp_path, GOOD, GOOD)
    rules = load(
        tmp_path, GOOD | {"value": {"mass": ["frustrated"], "over": "1m"}}, emotions=["frustrated", "calm"]
    )
    assert rules.rules[0].value.emotions == ["frustrated"]


def test_durations():
    assert [duration_ms(text) for text in ("500ms", "30s", "1.5m", " 2 h ")] == [500, 30_000, 90_000, 7_200_000]
    for wrong in ("30", "s", "-1s", "1s1s", 30, None, True, "1e3s"):
        with pytest.raises(ValueError, match="a number with its unit"):
            duration_ms(wrong)


def test_rules_travel_as_they_are(tmp_path: Path):
    """From process to process a configuration goes as its plain values."""
    rules = load_rules(CONFIGS / "call_centre.yaml")
    assert AlertRules.model_validate(rules.model_dump()) == rules
    assert AlertRules.model_validate_json(rules.model_dump_json(by_alias=True)) == rules
    assert [rule.hash for rule in AlertRules.model_validate(rules.model_dump()).rules] == [
        rule.hash for rule in rules.rules
    ]


def test_the_hash_changes_with_the_rule(tmp_path: Path):
    one = Rule.model_validate(GOOD)
    assert one.hash == Rule.model_validate(dict(reversed(GOOD.items()))).hash
    assert one.hash != Rule.model_validate(GOOD | {"fire": 0.61}).hash


@pytest.mark.parametrize(
    ("rule", "policies", "why"),
    [
        (GOOD, {"customer": "off"}, "watches the customer, whose text.policy is off"),
        ({"alert": "T", "value": {"talk_over": True, "over": "9s"}, "fire": 0.5}, {"agent": "off"}, "two sides"),
        ({"alert": "S", "value": {"silence": True}, "fire": "9s"}, {"agent": "off"}, "would count as silence"),
        (GOOD, {"agent": "off"}, None),
    ],
)
def test_rules_must_fit_who_is_listened_to(rule: dict[str, Any], policies: Any, why: str | None):
    found = AlertRules.model_validate({"rules": [rule]}).never_fire(policies)
    assert (found is None) if why is None else (why in (found or ""))


def test_five_rules_are_shipped():
    assert len(load_rules(CONFIGS / "call_centre.yaml").rules) == 5
