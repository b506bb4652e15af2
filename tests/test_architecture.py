"""Import direction: lower layers never import higher ones, even under TYPE_CHECKING."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [  # low to high; members of one set must not import each other
    {
        "bcaf_stream.types",
        "bcaf_stream.errors",
        "bcaf_stream.config",
        "bcaf_stream.addresses",
        "bcaf_stream.ahead",
    },
    {
        "bcaf_stream.audio",
        "bcaf_stream.ingest",
        "bcaf_stream.transcripts",
        "bcaf_stream.encoders",
        "bcaf_stream.model",
        "bcaf_stream.events",
    },
    {"bcaf_stream.dialogue", "bcaf_stream.bridges"},  # bridges: on events alone, from them to other systems
    {"bcaf_stream.engine"},  # encoders and model together
    {"bcaf_stream.analyzer"},
    {"bcaf_stream.console", "bcaf_stream.recording", "bcaf_stream.demo"},
    {
        "bcaf_stream.timeline",
        "bcaf_stream.doctor",
        "bcaf_stream.sending",
        "bcaf_stream.live_sending",
        "bcaf_stream.cli_events",
        "bcaf_stream.cli_bridges",
    },
    {"bcaf_stream.cli"},
    {"actors", "training"},
]
MAY_IMPORT = {  # third-party package -> the only modules allowed to import it
    "zmq": ("bcaf_stream.events", "bcaf_stream.ingest.link"),  # events: bus, keys, replay, subscriber
    "websockets": ("bcaf_stream.ingest",),
    "httpx2": ("bcaf_stream.bridges.webhook",),
    "aiokafka": ("bcaf_stream.bridges.kafka",),
    "redis": ("bcaf_stream.bridges.redis",),
    "ray": ("actors", "training.ray_train", "training.features"),
}
FREE_SIBLINGS = 0  # the vocabulary layer may import within itself


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Absolute dotted names imported anywhere in the file, function bodies included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer; use absolute ones"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def unit_of(name: str) -> tuple[int, str] | None:
    for level, units in enumerate(LAYERS):
        for unit in units:
            if within(name, unit):
                return level, unit
    return None


FILES = sorted(p for d in ("bcaf_stream", "actors", "training") for p in (ROOT / d).rglob("*.py"))


def test_the_scan_is_not_vacuous():
    assert len(FILES) >= 30


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path: Path):
    me = module_name(path)
    here = unit_of(me)
    if me == "bcaf_stream":
        return  # the package root re-exports the public names
    assert here is not None, f"{me} is in no layer: add it to LAYERS"
    for name in imported(path):
        for package, allowed in MAY_IMPORT.items():
            if within(name, package):
                assert any(within(me, a) for a in allowed), f"{me} may not import {package}"
        there = unit_of(name)
        if there is None and within(name, "bcaf_stream"):
            assert not within(me, "bcaf_stream"), f"{me}: import from the module, not the package root"
        if there is None or there[1] == here[1]:
            continue
        sideways = there[0] == here[0] and here[0] != FREE_SIBLINGS
        assert there[0] <= here[0], f"{me} (layer {here[0]}) imports upwards: {name} (layer {there[0]})"
        assert not sideways, f"{me} imports its sibling {name} (layer {here[0]})"
