"""configs/deploy/kubernetes: core kinds against Kubernetes's schemas, and all that is named against the project.

No cluster runs here: KubeRay's and Prometheus's own kinds are checked by the fields that we rely on.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

import actors.cli
from actors.config import ServeConfig
from bcaf_stream.config import load_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "deploy" / "kubernetes"
KUBERNETES = "1.30"  # the oldest one that we say it works with
OWN_KINDS = {"Service", "NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim"}
SERVE = load_config(ServeConfig, FOLDER / "serve.yaml")
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
DOCUMENTS: list[dict[str, Any]] = [
    document for name in KUSTOMIZATION["resources"] for document in yaml.safe_load_all((FOLDER / name).read_text())
]
CLUSTER = next(document for document in DOCUMENTS if document["kind"] == "RayCluster")["spec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
FRONT = GROUPS["front"]["template"]["spec"]["containers"][0]
PORTS = {port["name"]: port["containerPort"] for port in FRONT["ports"]}


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [document for document in DOCUMENTS if document["kind"] == kind]
    assert found, kind
    return found


def pods() -> dict[str, dict[str, Any]]:
    return {"head": CLUSTER["headGroupSpec"]["template"]} | {name: g["template"] for name, g in GROUPS.items()}


def commands() -> list[list[str]]:
    """What is run of `bcaf-serve`: by containers, and by their hooks."""
    found = []
    for pod in pods().values():
        for container in pod["spec"]["containers"]:
            found += [line.split() for line in re.findall(r"bcaf-serve (.*)", "\n".join(container["args"]))]
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
            found += [hook[1:]] if hook[:1] == ["bcaf-serve"] else []
    return found


def test_every_file_is_applied_and_every_kind_is_there():
    there = {path.name for path in FOLDER.iterdir()}
    assert there == {*KUSTOMIZATION["resources"], "kustomization.yaml", "serve.yaml"}
    assert {document["kind"] for document in DOCUMENTS} == OWN_KINDS | {"RayCluster", "PodMonitor"}
    names = [(document["kind"], document["metadata"]["name"]) for document in DOCUMENTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d["kind"] in OWN_KINDS], ids=lambda d: d["kind"])
def test_core_kinds_are_what_kubernetes_takes(document: dict[str, Any]):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", pods())
def test_the_pods_of_the_cluster_are_what_kubernetes_takes(name: str):
    pod = pods()[name]
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod["spec"]}
    kubernetes_validate.validate(whole, KUBERNETES, strict=True)
    broken = whole | {"spec": {**pod["spec"], "containers": "none"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_ray_is_the_pinned_one_with_tokens_and_a_head_that_may_die():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = next(line for line in project["dependencies"] if line.startswith("ray["))
    assert pinned.endswith(f"=={CLUSTER['rayVersion']}")
    assert CLUSTER["authOptions"] == {"mode": "token"}
    tolerance = CLUSTER["gcsFaultToleranceOptions"]
    assert tolerance["redisAddress"].endswith(":6379")
    assert set(tolerance["redisPassword"]) == {"valueFrom"}


def test_no_secret_is_written_down():
    for path in FOLDER.iterdir():
        text = path.read_text()
        assert "kind: Secret" not in text
        assert not re.search(
            r"(?i)(?<!MountServiceAccount)(password|token):[ \t]*['\"]?[^\s{'\"]", re.sub(r"#.*", "", text)
        ), path.name


def test_the_image_is_ours_and_runs_as_its_user():
    user = int(re.search(r"--uid (\d+)", (ROOT / "configs/deploy/Dockerfile").read_text())[1])  # type: ignore[index]
    for name, pod in pods().items():
        assert {container["image"] for container in pod["spec"]["containers"]} == {"bcaf-stream"}, name
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == user


def test_commands_exist_and_their_paths_are_mounted():
    known = get_command(actors.cli.app).commands  # type: ignore[attr-defined]
    found = commands()
    assert {words[0] for words in found} >= {"up"}
    for words in found:
        options = {option for parameter in known[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words
    up = next(words for words in found if words[0] == "up")
    config = Path(up[up.index("--config") + 1])
    mounts = {Path(mount["mountPath"]): mount["name"] for mount in FRONT["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in GROUPS["front"]["template"]["spec"]["volumes"]}
    made = {each["name"]: each["files"] for each in KUSTOMIZATION["configMapGenerator"]}
    assert config.name in made[volumes[mounts[config.parent]]["configMap"]["name"]]
    assert all((FOLDER / name).exists() for files in made.values() for name in files)


def test_a_pod_that_ends_has_time_to_drain():
    hook = FRONT["lifecycle"]["preStop"]["exec"]["command"]
    grace = GROUPS["front"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= int(hook[hook.index("--timeout") + 1]) + 30  # and `down` takes 30 s at most


def test_ports_are_those_of_the_configuration():
    bound = {
        "audio": SERVE.ingest.link.bind,
        "events": SERVE.hub.bus.bind,
        "replay": SERVE.hub.replay.bind,
        "metrics": f"tcp://{SERVE.metrics.bind}:{SERVE.metrics.port}",
    }
    assert {name: f"tcp://0.0.0.0:{port}" for name, port in PORTS.items()} == bound
    served = [port for service in of_kind("Service") for port in service["spec"]["ports"]]
    assert {port["targetPort"] for port in served} == {"audio", "events", "replay"}
    assert all(port["port"] == PORTS[port["targetPort"]] for port in served)
    probes = [FRONT[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {(probe["path"], probe["port"]) for probe in probes} == {("/readyz", "metrics"), ("/livez", "metrics")}
    [endpoint] = of_kind("PodMonitor")[0]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in PORTS


def test_the_network_lets_in_the_ports_that_are_open_and_no_other():
    rules = [rule for policy in of_kind("NetworkPolicy") for rule in policy["spec"]["ingress"]]
    assert {port["port"] for rule in rules for port in rule.get("ports", ())} == set(PORTS.values())
    assert all(rule["from"] for rule in rules)  # an empty one lets everybody in
    whole = [rule for rule in rules if "ports" not in rule]
    assert whole == [{"from": [{"podSelector": {"matchLabels": {"ray.io/cluster": "bcaf"}}}]}]


def test_selectors_find_groups_that_exist():
    [name] = [document["metadata"]["name"] for document in of_kind("RayCluster")]
    found = re.findall(r"ray\.io/cluster[\"']?: [\"']?(\S+?)[\"']?[,}]", json.dumps(DOCUMENTS))
    assert set(found) == {name}
    groups = re.findall(r"ray\.io/group[\"']?: [\"']?(\S+?)[\"']?[,}]", json.dumps(DOCUMENTS))
    assert set(groups) == set(GROUPS)
    assert {
        pdb["spec"]["selector"]["matchLabels"]["ray.io/group"] for pdb in of_kind("PodDisruptionBudget")
    } == set(GROUPS)


def test_the_journal_outlives_its_pod():
    mounts = {Path(mount["mountPath"]): mount["name"] for mount in FRONT["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in GROUPS["front"]["template"]["spec"]["volumes"]}
    volume = volumes[mounts[SERVE.hub.journal.path.parent]]
    claim = of_kind("PersistentVolumeClaim")[0]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim


def test_every_actor_has_a_group_with_room_for_it():
    for part in (SERVE.ingest, SERVE.hub, SERVE.emotion):
        assert any(part.label_selector.items() <= group["labels"].items() for group in GROUPS.values())
    front, emotion = (int(GROUPS[name]["rayStartParams"]["num-cpus"]) for name in ("front", "emotion"))
    assert SERVE.ingest.num_cpus <= front
    assert SERVE.emotion.replicas * SERVE.emotion.num_cpus <= emotion * GROUPS["emotion"]["replicas"]
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
