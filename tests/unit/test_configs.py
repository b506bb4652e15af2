"""Every YAML that ships loads as what reads it; one that no line here names fails the test."""

from pathlib import Path

import pytest

from actors.config import ServeConfig
from bcaf_stream.alerts.cases import CaseFile
from bcaf_stream.alerts.rules import AlertRules
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.config import Config, load_config
from training.compact.config import CompactConfig
from training.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS: dict[str, type[Config]] = {  # by the beginning of the path; the first that fits
    "analyze/": AnalyzerConfig,
    "serve/": ServeConfig,
    "train/compact": CompactConfig,
    "train/": TrainConfig,
    "deploy/serve.yaml": ServeConfig,
    "deploy/kubernetes/serve.yaml": ServeConfig,
    "alerts/call_centre.cases.yaml": CaseFile,
    "alerts/": AlertRules,
}
OTHERS = {  # of other programs: test_deploy_files.py, test_kubernetes_files.py and test_metrics.py read them
    *(f"deploy/kubernetes/{name}.yaml" for name in ("kustomization", "raycluster", "services", "pod_monitor")),
    *(f"deploy/kubernetes/{name}.yaml" for name in ("network_policies", "disruption_budgets", "journal_volume")),
    "deploy/compose.yaml",
    "deploy/prometheus.yaml",
    "deploy/prometheus_rules.yaml",
}
FOUND = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.y*ml")}


def kind_of(name: str) -> type[Config] | None:
    return next((kind for prefix, kind in KINDS.items() if name.startswith(prefix)), None)


def test_nothing_is_missing_and_every_kind_is_there():
    assert FOUND >= OTHERS
    assert not {name for name in FOUND - OTHERS if kind_of(name) is None}, "say in KINDS what reads it"
    assert {kind_of(name) for name in FOUND - OTHERS} >= set(KINDS.values())


@pytest.mark.parametrize("name", sorted(FOUND - OTHERS))
def test_it_loads(name: str):
    kind = kind_of(name)
    assert kind is not None
    load_config(kind, CONFIGS / name)


def test_the_call_centre_does_not_judge_its_agents():
    policy = load_config(ServeConfig, CONFIGS / "serve" / "call_centre.yaml").analyzer.text.policy
    assert policy == {"customer": "fused", "agent": "off", "speaker": "off"}
