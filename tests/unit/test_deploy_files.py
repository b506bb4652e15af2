"""configs/deploy: every file parses, and the paths, ports and commands that it names are the project's own."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import actors.cli
from actors.config import ServeConfig
from bcaf_stream.config import load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "configs" / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
SERVE = load_config(ServeConfig, DEPLOY / "serve.yaml")
PORTS = {
    int(port)
    for port in re.findall(r"(?:bind: tcp://0\.0\.0\.0:|port: )(\d+)", (DEPLOY / "serve.yaml").read_text())
}


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(name + " ")]


def is_a_command(words: list[str]) -> bool:
    """Whether `bcaf-serve` knows these words and options."""
    known = get_command(actors.cli.app).commands[words[0]]  # type: ignore[attr-defined]
    options = {option for parameter in known.params for option in parameter.opts}
    return {word for word in words[1:] if word.startswith("--")} <= options


def test_there_is_a_file_for_each_way():
    found = {path.name for path in DEPLOY.iterdir()}
    assert {"Dockerfile", "compose.yaml", "bcaf.service", "prometheus.yaml", "grafana_dashboard.json"} <= found


def test_the_image_is_built_from_what_is_here_and_does_not_run_as_root():
    for copied in instructions("COPY"):
        if not copied.startswith("--from"):
            *sources, _ = copied.split()
            assert all((ROOT / source).exists() for source in sources), copied
    last = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    assert "USER bcaf" in last
    assert "uv" not in last.split()
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["bcaf-serve"]
    assert is_a_command(json.loads(instructions("CMD")[0]))
    assert {int(port) for port in instructions("EXPOSE")[0].split()} == PORTS


def test_compose_publishes_on_this_machine_alone_and_mounts_what_is_here():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    build = services["bcaf"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    for name, service in services.items():
        for published in service.get("ports", ()):
            address, _, inside = published.split(":")
            assert address == "127.0.0.1"
            assert name != "bcaf" or int(inside) in PORTS
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), volume
    assert f":{SERVE.metrics.port}/readyz" in services["bcaf"]["healthcheck"]["test"][-1]


def test_prometheus_asks_the_deployment_where_it_serves_and_reads_the_rules():
    config = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    assert all((DEPLOY / name).exists() for name in config["rule_files"])
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == [f"bcaf:{SERVE.metrics.port}"]


def test_the_unit_starts_a_command_that_exists_and_waits_for_it_to_go_down():
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "bcaf.service")
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "bcaf-serve"
    assert is_a_command(words)
    assert int(unit["Service"]["TimeoutStopSec"]) > 30  # what `bcaf-serve down` takes at most
    assert unit["Service"]["KillMode"] == "mixed"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_itself_finds_no_fault_in_it(tmp_path: Path):
    text = (DEPLOY / "bcaf.service").read_text().replace("/opt/bcaf/bin/bcaf-serve", "/bin/true")
    (tmp_path / "bcaf.service").write_text(text.replace("User=bcaf", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "bcaf.service"], capture_output=True, text=True, check=False
    )
    assert "bcaf.service" not in done.stderr, done.stderr
