"""Strict configuration: YAML files plus `--set dotted.key=value`, validated by pydantic.

A wrong key, type or value is a ConfigError that names the dotted key, what was given and what is allowed.
Every stage's configuration class stands above the class that it configures and inherits from `Config`.
"""

import difflib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bcaf_stream.errors import ConfigError

log = logging.getLogger(__name__)


class Config(BaseModel):
    """Base of every configuration class: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())

    former_names: ClassVar[Mapping[str, str]] = {}
    """Former name of a key -> its name now; `load_config` reads it for one release, with a note on stderr."""


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML in which on and off are words, as in YAML 1.2: `off` is a policy here, and no second name of false."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, what) for tag, what in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:yes|no|true|false)$", re.IGNORECASE), list("yYnNtTfF")
)
_Loader.add_implicit_resolver(  # 1e-4 is a number in YAML 1.2 and JSON, and a word in YAML 1.1
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(
    cls: type[C], path: Path | str | None = None, overrides: Sequence[str] = (), section: str | None = None
) -> C:
    """Read `path` (YAML; None = all defaults), apply `dotted.key=value` overrides, and validate as `cls`.

    Where the file has the key `section`, what stands there is read, and no more.

    Raises:
        ConfigError: the file cannot be read or parsed, or a key, type or value is wrong.
    """
    where = str(path) if path is not None else "configuration"
    data = _read_yaml(Path(path)) if path is not None else {}
    if section is not None and section in data:
        where, data = f"{where}: {section}", data[section] or {}
    for override in overrides:
        _apply(data, override)
    _take_former_names(cls, data, where)
    try:
        # The JSON mode of strict validation still takes a list for a tuple and a string for a path.
        return cls.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(cls, error)}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: a value has no plain type: {error}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}: not valid YAML{line}: {getattr(error, 'problem', 'syntax error')}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a map of keys, not {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    key, sign, raw = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise ConfigError(f"--set {override!r}: must be dotted.key=value")
    try:
        value = yaml.load(raw, _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {raw!r} is not a YAML value") from None
    node = data
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: {part} is not a group of keys")
    node[parts[-1]] = value


def _take_former_names(cls: type[BaseModel], data: dict[str, Any], where: str, path: str = "") -> None:
    names = cls.former_names if issubclass(cls, Config) else {}
    for old in names.keys() & data.keys():
        new = names[old]
        if new in data:
            raise ConfigError(f"{where}: {path}{old} is the former name of {path}{new}; give {path}{new} alone")
        data[new] = data.pop(old)
        # Without a set-up of logging this goes to standard error as it is.
        log.warning("%s: %s%s is now %s%s; the former name is read for one release", where, path, old, path, new)
    for key, field in cls.model_fields.items():
        value = data.get(key)
        for inner in _models_in(field.annotation):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    _take_former_names(inner, part, where, f"{path}{key}.")


def _explain(cls: type[Config], error: ValidationError) -> str:
    # A key with a slip is two problems: one that is unknown, which says what to mend, and one that is missing.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]") or "(top)"
    if first["type"] == "extra_forbidden":
        allowed = _allowed_keys(cls, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        text = f"{key}: unknown key; {hint}allowed here: {', '.join(allowed)}"
    elif first["type"] == "missing":
        text = f"{key}: required, and not given"
    else:
        given = _PASSWORD.sub(r"\1***\2", repr(first["input"]))
        given = given if len(given) <= 60 else given[:57] + "..."
        reason = first["msg"].removeprefix("Value error, ")  # pydantic's own words for one of our checks
        text = f"{key}: {given} given; {reason[0].lower()}{reason[1:]}"
    more = len(problems) - 1
    return text + (f" (and {more} more)" if more else "")


_PASSWORD = re.compile(r"(://[^:/?#@\s]*:|password=)[^@&\s]*(@?)")  # of a URL


def _allowed_keys(cls: type[Config], loc: Sequence[int | str]) -> list[str]:
    node: Any = cls
    for part in loc:
        if not (isinstance(node, type) and issubclass(node, BaseModel)) or part not in node.model_fields:
            continue  # an index or a tag of a union inside the location
        node = _model_in(node.model_fields[str(part)].annotation)
    return (
        sorted(field.alias or name for name, field in node.model_fields.items())
        if isinstance(node, type) and issubclass(node, BaseModel)
        else []
    )


def _model_in(annotation: Any) -> type[BaseModel] | None:
    return next(_models_in(annotation), None)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
