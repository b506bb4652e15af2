"""Strict configuration: every wrong key, type and value is one line that names it and the way out."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from bcaf_stream.config import Config, load_config
from bcaf_stream.errors import ConfigError


class Inner(Config):
    hang_over_ms: int = 480
    mode: Literal["confirmed", "webrtc"] = "confirmed"
    weights: tuple[float, ...] = ()


class Outer(Config):
    name: str = "x"
    inner: Inner = Inner()
    maybe: Inner | None = None


def test_defaults_file_and_overrides(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("name: y\ninner: {hang_over_ms: 300, weights: [1, 0.5]}\n")
    assert load_config(Outer) == Outer()
    config = load_config(Outer, file, ["inner.hang_over_ms=200", "maybe.mode=webrtc"])
    assert config.name == "y"
    assert config.inner == Inner(hang_over_ms=200, weights=(1.0, 0.5))
    assert config.maybe == Inner(mode="webrtc")


def test_off_is_a_word_and_yes_is_true(tmp_path: Path):
    class Policies(Config):
        policy: dict[Literal["agent", "customer"], Literal["off", "fused"]] = Field(default_factory=dict)
        open: bool = False

    file = tmp_path / "c.yaml"
    file.write_text("policy: {agent: off}\nopen: yes\n")
    assert load_config(Policies, file) == Policies(policy={"agent": "off"}, open=True)
    config = load_config(Policies, file, ["policy.customer=off", "policy.agent=fused", "open=false"])
    assert config == Policies(policy={"agent": "fused", "customer": "off"})
    with pytest.raises(ConfigError, match=r"policy\.agnt: 'agnt' given; .*'agent' or 'customer'"):
        load_config(Policies, None, ["policy.agnt=off"])
    with pytest.raises(ConfigError, match="open: 'off' given"):
        load_config(Policies, None, ["open=off"])


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("inner.hangover_ms=3", ["inner.hangover_ms", "did you mean hang_over_ms", "mode"]),
        ("maybe.hangover_ms=3", ["maybe.hangover_ms", "did you mean hang_over_ms"]),
        ("inner.hang_over_ms=long", ["inner.hang_over_ms", "'long'", "integer"]),
        ("inner.hang_over_ms=1.5", ["inner.hang_over_ms", "1.5"]),
        ("inner.mode=loud", ["inner.mode", "'loud'", "'confirmed' or 'webrtc'"]),
        ("inner=3", ["inner", "3"]),
        ("name=[1", ["name", "not a YAML value"]),
        ("name", ["dotted.key=value"]),
        ("name.deeper=1", ["name.deeper"]),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, override: str, parts: list[str]):
    file = tmp_path / "c.yaml"
    file.write_text("name: y\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, file, [override])
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("content", "part"), [("a: [1", "not valid YAML"), ("- 1\n", "map of keys"), ("x: 2024-01-01\n", "x")]
)
def test_unusable_files(tmp_path: Path, content: str, part: str):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=part):
        load_config(Outer, file)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(Outer, tmp_path / "none.yaml")


@given(st.text(max_size=40))
def test_any_override_is_taken_or_refused_cleanly(text: str):
    with contextlib.suppress(ConfigError):
        load_config(Outer, None, [text])


class Numbers(Config):
    rate: float = 0.0
    name: str = ""


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "1E-4", "+1e-4", "0.0001", "1.e-4"])
def test_a_number_may_be_written_as_in_json(written: str):
    assert load_config(Numbers, None, [f"rate={written}", "name=e4"]) == Numbers(rate=1e-4, name="e4")


class Renamed(Config):
    former_names: ClassVar[Mapping[str, str]] = {"hang": "hang_over_ms"}

    hang_over_ms: int = 480


class Holder(Config):
    one: Renamed | None = None
    many: tuple[Renamed, ...] = ()


def test_a_former_name_is_read_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "c.yaml"
    file.write_text("one: {hang: 300}\nmany: [{hang_over_ms: 1}, {hang: 2}]\n")
    found = load_config(Holder, file)
    assert found == Holder(one=Renamed(hang_over_ms=300), many=(Renamed(hang_over_ms=1), Renamed(hang_over_ms=2)))
    assert f"{file}: one.hang is now one.hang_over_ms; the former name is read for one release" in caplog.messages
    with pytest.raises(
        ConfigError, match=r"one\.hang is the former name of one\.hang_over_ms; give one\.hang_over_ms alone"
    ):
        load_config(Holder, file, ["one.hang_over_ms=5"])
