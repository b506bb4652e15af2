"""Every YAML that ships loads; the count keeps the test from passing on an empty folder."""

from pathlib import Path

import pytest

from actors.config import ServeConfig
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.config import Config, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS: dict[str, type[Config]] = {"analyze": AnalyzerConfig, "serve": ServeConfig}
FILES = sorted(path for kind in KINDS for path in (CONFIGS / kind).glob("*.yaml"))


def test_there_are_as_many_as_expected():
    assert len(FILES) == 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_loads_and_changes_something_or_says_the_default(path: Path):
    load_config(KINDS[path.parent.name], path)


def test_the_call_centre_does_not_judge_its_agents():
    policy = load_config(ServeConfig, CONFIGS / "serve" / "call_centre.yaml").analyzer.text.policy
    assert policy == {"customer": "fused", "agent": "off", "speaker": "off"}
