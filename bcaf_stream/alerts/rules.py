"""The rules of a YAML file: what is watched, from which value on, and for how long.

```yaml
rules:
  - alert: CustomerAngerSustained
    match: {role: customer}
    value: {mass: [anger, disgust], over: 30s, weight: speech}
    fire: 0.60
    recover: 0.40
    need: {utterances: 3, speech: 6s, confidence: 0.5}
    for: 10s
```

Unusual: a rule that can never fire is refused when it is read, because nobody would miss its alerts.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bcaf_stream.config import Config, load_config
from bcaf_stream.errors import ConfigError
from bcaf_stream.types import Policy, Role

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")  # of the shipped model
KINDS = ("mass", "count", "share", "trend", "silence", "talk_over", "words")
RATIOS = ("mass", "share", "talk_over")  # from 0 to 1
UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
LONGEST_OVER_MS = 3_600_000
SHORTEST_MS = 160  # of an utterance; see SegmenterConfig.min_ms

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_TEMPLATE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")

Notified = Literal["page", "webhook", "kafka", "redis"]


def duration_ms(value: Any) -> int:
    """Milliseconds of "30s", "1.5m", "2h" or "500ms".

    Raises:
        ValueError: it is none; a bare number is none either, because nobody knows of what.
    """
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a duration is a number with its unit: 500ms, 30s, 2m, 1h")
    return round(float(found[1]) * UNITS_MS[found[2]])


def _level(value: Any) -> Any:
    """Silence is compared in seconds, and may be written as a duration."""
    return duration_ms(value) / 1000 if isinstance(value, str) else value


# In ms; written back with its unit, so that rules that travel are read as they were.
Duration = Annotated[int, BeforeValidator(duration_ms), PlainSerializer("{}ms".format, return_type=str)]
Level = Annotated[float, BeforeValidator(_level)]


class Match(Config):
    """Whose utterances; every channel that fits is watched by itself."""

    role: Role | None = None
    channel: str | None = None


class Value(Config):
    """What is computed, of the last `over` of the call. Exactly one of:

    `mass`: probability of these emotions, 0 to 1. `share`: share of judged speech whose likeliest emotion is one
    of them, 0 to 1. `count`: how many such utterances. `trend`: mass of the last quarter less the mean of those
    before, -1 to 1. `words`: how many utterances have one of these words or phrases. `talk_over`: share of the
    time in which two channels are spoken in at once, 0 to 1. `silence`: seconds since anybody who matches has
    stopped speaking.

    `weight` says whether a mass counts each utterance by its speech or alike.
    """

    mass: list[str] | None = Field(None, min_length=1)
    count: list[str] | None = Field(None, min_length=1)
    share: list[str] | None = Field(None, min_length=1)
    trend: list[str] | None = Field(None, min_length=1)
    words: list[str] | None = Field(None, min_length=1)
    talk_over: Literal[True] | None = None
    silence: Literal[True] | None = None
    over: Duration | None = Field(None, gt=0, le=LONGEST_OVER_MS)
    weight: Literal["speech", "utterances"] = "speech"

    @model_validator(mode="after")
    def _one_kind(self) -> "Value":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(KINDS)} is wanted, not {' and '.join(given) or 'none'}")
        if given == ["silence"] and self.over is not None:
            raise ValueError("silence looks back as long as it lasts: leave over out, and give fire in seconds")
        if given != ["silence"] and self.over is None:
            raise ValueError(f"{given[0]} needs over, for instance over: 30s")
        if self.weight != "speech" and given[0] not in ("mass", "trend"):
            raise ValueError(f"weight is for mass and trend, not for {given[0]}")
        if any(not word.strip() for word in self.words or ()):
            raise ValueError("an empty word is in nothing, or in everything: leave it out")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def is_of_time(self) -> bool:
        """Whether it is of when somebody speaks, in the call as a whole, and not of utterances."""
        return self.kind in ("silence", "talk_over")

    @property
    def emotions(self) -> list[str]:
        return self.mass or self.count or self.share or self.trend or []

    @property
    def over_ms(self) -> int:
        return self.over or 0


class Need(Config):
    """Less evidence than this is no data: so many utterances, so much of their speech; each at least this sure."""

    utterances: int = Field(0, ge=0)
    speech: Duration = Field(0, ge=0)
    confidence: float = Field(0.0, ge=0, le=1)


class Rule(Config):
    """See the README. `fire` and `recover` are levels of the value; `recover` is by default `fire`."""

    model_config = ConfigDict(populate_by_name=True)

    alert: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")
    match: Match = Match()
    when: str | None = Field(None, min_length=1, max_length=1000)
    value: Value
    fire: Level
    recover: Level | None = None
    need: Need = Need()
    for_: Duration = Field(0, alias="for")
    keep_firing_for: Duration = 0
    cool_down: Duration = 0
    no_data: Literal["keep", "resolve"] = "keep"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    notify: list[Notified] = Field(default_factory=lambda: list(get_args(Notified)))

    @property
    def recover_level(self) -> float:
        return self.fire if self.recover is None else self.recover

    @property
    def hash(self) -> str:
        """Of what the rule says: another one where anything of it changes."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @field_validator("when")
    @classmethod
    def _an_expression(cls, when: str | None) -> str | None:
        from bcaf_stream.alerts.when import check  # its library is needed by rules that have one alone

        if when is not None:
            check(when)
        return when

    @field_validator("annotations")
    @classmethod
    def _known_names(cls, texts: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for key, text in texts.items():
            for name in _TEMPLATE.findall(text):
                if name not in TEMPLATE_NAMES and name.removeprefix("labels.") not in info.data.get("labels", {}):
                    raise ValueError(f"{key} speaks of {name}; known are {', '.join(TEMPLATE_NAMES)}, labels.NAME")
        return texts

    @model_validator(mode="after")
    def _can_fire(self) -> "Rule":
        kind, over_ms = self.value.kind, self.value.over_ms
        if self.recover_level > self.fire:
            raise ValueError(
                f"recover ({self.recover_level:g}) is above fire ({self.fire:g}): it could never fire and stay;"
                " recover must be at most fire"
            )
        if kind in RATIOS and not 0 < self.fire <= 1:
            raise ValueError(f"fire is {self.fire:g}: a {kind} is from 0 to 1, so give more than 0 and at most 1")
        if kind == "trend" and not 0 < self.fire <= 1:
            raise ValueError(f"fire is {self.fire:g}: a trend that gets worse is above 0 and at most 1")
        if kind in ("count", "words") and (self.fire < 1 or self.fire != int(self.fire)):
            raise ValueError(f"fire is {self.fire:g}: {kind} counts utterances, so give 1 or more, a whole number")
        if kind in ("count", "words") and self.fire * SHORTEST_MS > over_ms:
            raise ValueError(f"fire is {self.fire:g}: no {over_ms / 1000:g} s have so many utterances")
        if kind == "silence" and self.fire < 1:
            raise ValueError(f"fire is {self.fire:g}: silence is in seconds; give at least 1s")
        if self.value.is_of_time:
            self._plain(kind)
        elif self.need.speech > over_ms:
            asked = f"{self.need.speech / 1000:g} s of the last {over_ms / 1000:g} s"
            raise ValueError(f"need.speech is {asked}: it could never fire; ask for less, or look back further")
        elif self.need.utterances * SHORTEST_MS > over_ms:
            asked = f"{self.need.utterances} in {over_ms / 1000:g} s"
            raise ValueError(
                f"need.utterances is {asked}: it could never fire; ask for fewer, or look back further"
            )
        return self

    def _plain(self, kind: str) -> None:
        if self.need != Need() or self.when is not None:
            raise ValueError(f"{kind} is of time, not of utterances: need and when have no meaning with it")
        if kind == "talk_over" and self.match != Match():
            raise ValueError("talk_over is of all channels together: leave match out")

    def annotated(self, names: Mapping[str, str]) -> dict[str, str]:
        """The annotations with what stands in double braces filled in."""
        known = {**names, **{f"labels.{key}": value for key, value in self.labels.items()}}
        return {key: _TEMPLATE.sub(lambda m: known.get(m[1], ""), text) for key, text in self.annotations.items()}

    def shown(self, value: float | None) -> str:
        """The value for people."""
        if value is None:
            return "no data"
        if self.value.kind == "silence":
            return f"{value:.0f} s"
        return f"{value:.0f}" if self.value.kind in ("count", "words") else f"{value:.2f}"


TEMPLATE_NAMES = ("alert", "call", "channel", "role", "state", "value", "threshold")


class AlertRules(Config):
    """The rules of a file; `emotions` are those of the model, where it is not the shipped one."""

    rules: list[Rule] = Field(min_length=1)
    emotions: list[str] = Field(default_factory=lambda: list(EMOTIONS), min_length=1)

    @model_validator(mode="after")
    def _fitting(self) -> "AlertRules":
        names = [rule.alert for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the alert {name} stands there {names.count(name)} times: names are unique")
        for rule in self.rules:
            for emotion in rule.value.emotions:
                if emotion not in self.emotions:
                    raise ValueError(
                        f"{rule.alert}: no model here knows {emotion}; known are {', '.join(self.emotions)};"
                        " where yours has others, give them at the top as emotions: [...]"
                    )
        return self

    def never_fire(self, policies: Mapping[Role, Policy]) -> str | None:
        """Why a rule can never fire where the roles have these policies; None where all can."""
        off = [role for role, policy in policies.items() if policy == "off"]
        for rule in self.rules:
            if rule.match.role in off:
                return (
                    f"{rule.alert} watches the {rule.match.role}, whose text.policy is off: it could never fire;"
                    " match another role, or take the rule out"
                )
            sides = " and ".join(role for role in off if role != "speaker")
            if rule.value.kind == "talk_over" and sides:
                return (
                    f"{rule.alert}: talk_over needs two sides that are listened to, and text.policy of the"
                    f" {sides} is off; take the rule out"
                )
            if rule.value.kind == "silence" and sides and rule.match == Match():
                return (
                    f"{rule.alert}: text.policy of the {sides} is off, whose speech would count as silence;"
                    " say whose silence is meant: match: {role: ...}"
                )
        return None


def load_rules(path: Path | str) -> AlertRules:
    """The rules of a file.

    Raises:
        ConfigError: it cannot be read, a key or value is wrong, or a rule can never fire.
    """
    return load_config(AlertRules, path)


def rules_of(value: Any) -> Any:
    """For a configuration that names a file of rules, or holds them."""
    if isinstance(value, str | Path):
        try:
            return load_rules(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
    return value
