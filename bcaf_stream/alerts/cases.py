"""Tests of rules: made utterances in, the states that are expected at some times; in the manner of `promtool
test`.

```yaml
rules: call_centre.yaml            # beside this file
cases:
  - name: a customer who gets angry
    events:
      - {at: 0s, for: 5s, channel: customer, emotion: anger, confidence: 0.9, text: never again}
      - {at: 40s, revises: 0, channel: customer, emotion: joy}    # at 40s its first utterance is corrected
      - {at: 50s, for: 8s, channel: customer, gap: connection lost}
    expect:
      - {at: 25s, alert: CustomerAngerSustained, state: firing}
```

An alert that fires in a case and is expected at no time is a failure, too: rules are tested for what they leave
alone.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bcaf_stream.alerts.evaluator import AlertChange, AlertEvaluator
from bcaf_stream.alerts.rules import AlertRules, Duration, load_rules
from bcaf_stream.config import Config, load_config
from bcaf_stream.errors import ConfigError
from bcaf_stream.events.event import Event
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Role, Utterance

Expected = Literal["inactive", "pending", "firing", "recovering", "resolved", "retracted"]


class CaseEvent(Config):
    """An utterance, a revision of one (by its number in the channel), or a gap; `at` is when it begins, of a
    revision when it comes."""

    at: Duration
    for_: Duration = Field(1000, alias="for")
    channel: str = "customer"
    emotion: str | None = None
    confidence: float = Field(0.9, gt=0, le=1)
    text: str | None = None
    revises: int | None = Field(None, ge=0)
    gap: str | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> "CaseEvent":
        if (self.emotion is None) == (self.gap is None):
            raise ValueError("either emotion, what was felt, or gap, why sound was lost, is wanted")
        return self


class Expectation(Config):
    """`inactive` is also what was resolved or retracted; without `channel`, one alert of that name at the most."""

    at: Duration
    alert: str
    state: Expected
    channel: str | None = None


class Case(Config):
    """One call; its channels are a customer and an agent unless it says otherwise."""

    name: str
    channels: dict[str, Role] = Field({"customer": "customer", "agent": "agent"}, min_length=1)
    events: list[CaseEvent] = Field(min_length=1)
    expect: list[Expectation] = Field(min_length=1)


class CaseFile(Config):
    rules: str
    cases: list[Case] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Failure:
    case: str
    what: str

    def __str__(self) -> str:
        return f"{self.case}: {self.what}"


def run_cases(path: Path) -> tuple[int, list[Failure]]:
    """How many cases the file has, and what is not as it is expected in them.

    Raises:
        ConfigError: the file or its rules cannot be read, or a case speaks of what there is not.
    """
    file = load_config(CaseFile, path)
    rules = load_rules(path.parent / file.rules)
    known = {rule.alert for rule in rules.rules}
    for number, case in enumerate(file.cases):
        for expected in case.expect:
            if expected.alert not in known:
                where = f"{path}: cases.{number}.expect"
                raise ConfigError(f"{where}: the rules have no {expected.alert}, but {', '.join(sorted(known))}")
    return len(file.cases), [failure for case in file.cases for failure in _failures(rules, case, path)]


def _failures(rules: AlertRules, case: Case, path: Path) -> Iterator[Failure]:
    evaluator = AlertEvaluator(rules, case.name)
    events = deque(_events(rules, case, path))
    changes: list[AlertChange] = []
    end_ms = max([*(expected.at for expected in case.expect), *(known_ms for known_ms, _ in events)])

    def push_until(at_ms: int) -> None:
        while events and events[0][0] <= at_ms:
            known_ms, event = events.popleft()
            changes.extend(evaluator.tick(known_ms - 1))
            changes.extend(evaluator.push(event))

    for expected in sorted(case.expect, key=lambda one: one.at):
        push_until(expected.at)
        changes += evaluator.tick(expected.at)
        found = _found(evaluator, changes, expected)
        wanted = ("inactive", "resolved", "retracted") if expected.state == "inactive" else (expected.state,)
        if found not in wanted:
            at = f"{expected.at / 1000:g}s"
            yield Failure(case.name, f"{expected.alert} at {at} is {found}, and {expected.state} is expected")
    push_until(end_ms)
    changes += evaluator.end(end_ms)
    named = {expected.alert for expected in case.expect}
    for change in changes:
        if change.state == "firing" and change.rule.alert not in named:
            at = f"{change.at_ms / 1000:g}s"
            yield Failure(case.name, f"{change.rule.alert} fires at {at}, and is expected at no time")
            named.add(change.rule.alert)


def _found(evaluator: AlertEvaluator, changes: list[AlertChange], expected: Expectation) -> str:
    phases = {
        channel: state.phase
        for (alert, channel), state in evaluator.states.items()
        if alert == expected.alert and expected.channel in (None, channel)
    }
    active = [phase for phase in phases.values() if phase != "inactive"]
    if active:
        return active[0]
    ends = [
        change.state
        for change in changes
        if change.rule.alert == expected.alert and expected.channel in (None, change.channel)
    ]
    return ends[-1] if ends else "inactive"


def _events(rules: AlertRules, case: Case, path: Path) -> list[tuple[int, Event]]:
    """The events of a case, each with the time at which it is known."""
    call = Call(case.name, tuple(Channel(name, role) for name, role in case.channels.items()))
    writer = EventWriter(call, "case", clock=lambda: 0)
    spans: dict[str, list[tuple[int, int, int]]] = {name: [] for name in case.channels}  # begin, end, revision
    events = []
    for number, one in enumerate(case.events):
        where = f"{path}: case {case.name}: events.{number}"
        if one.channel not in spans:
            raise ConfigError(f"{where}: channel {one.channel} is none of {', '.join(spans)}")
        if one.gap is not None:
            events.append((one.at, writer.gap(one.channel, one.at, one.at + one.for_, one.gap)))
            continue
        if one.emotion not in rules.emotions:
            raise ConfigError(f"{where}: emotion {one.emotion} is none of {', '.join(rules.emotions)}")
        own = spans[one.channel]
        if one.revises is None:
            index, known_ms = len(own), one.at + one.for_
            own.append((one.at, known_ms, 0))
        elif one.revises < len(own):
            index, known_ms = one.revises, one.at
            start_ms, end_ms, revision = own[index]
            own[index] = (start_ms, end_ms, revision + 1)
        else:
            raise ConfigError(f"{where}: {one.channel} has no utterance {one.revises} before it; the first is 0")
        start_ms, end_ms, revision = own[index]
        rest = (1 - one.confidence) / max(1, len(rules.emotions) - 1)
        probs = tuple(one.confidence if label == one.emotion else rest for label in rules.emotions)
        said = Utterance(
            call.id,
            one.channel,
            case.channels[one.channel],
            index,
            start_ms,
            end_ms,
            None,
            one.text,
            "given" if one.text else "none",
            revision=revision,
        )
        prediction = EmotionPrediction(tuple(rules.emotions), probs, None, None, ("audio", "text"))
        events.append((known_ms, writer.final(said, prediction)))
    return sorted(events, key=lambda known: known[0])
