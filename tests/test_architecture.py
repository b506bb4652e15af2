"""Import direction: lower layers never import higher ones, even under TYPE_CHECKING."""

import ast
import re
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
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
        "bcaf_stream.codecs",
        "bcaf_stream.files",
        "bcaf_stream.folders",
        "bcaf_stream.loops",
        "bcaf_stream.display",
    },
    {"bcaf_stream.connections"},
    {
        "bcaf_stream.audio",
        "bcaf_stream.ingest",
        "bcaf_stream.transcripts",
        "bcaf_stream.encoders",
        "bcaf_stream.model",
        "bcaf_stream.events",
        "bcaf_stream.redaction",
    },
    # On events alone: bridges from them to other systems, the summary what they amount to; sound beside them
    {"bcaf_stream.dialogue", "bcaf_stream.bridges", "bcaf_stream.summary", "bcaf_stream.evidence"},
    # Encoders and model together | rules over what events tell | what is kept of a call
    {"bcaf_stream.emotion_model", "bcaf_stream.alerts", "bcaf_stream.report"},
    {"bcaf_stream.context", "bcaf_stream.resumption"},
    {"bcaf_stream.conversation"},  # the main path; knows no engine, no clock and no event loop
    {"bcaf_stream.analyzer"},
    {"bcaf_stream.console", "bcaf_stream.recording", "bcaf_stream.demo"},
    {"bcaf_stream.client", "bcaf_stream.monitor"},
    {"bcaf_stream.cli"},
    {"actors.cluster"},  # Ray is started, left and understood there, for a deployment and for training
    {"actors", "training"},
]
TRAINING = [  # the same inside the room
    {"training.config", "training.datasets", "training.metrics"},
    {"training.dialogues", "training.store"},
    {"training.encode", "training.predict", "training.linear", "training.voice"},
    {"training.source", "training.training_data"},
    {"training.objective"},
    {"training.trainer"},
    {"training.state", "training.board"},
    {"training.log", "training.inspection", "training.card", "training.report"},
    {"training.fit"},
    {"training.ray_jobs"},
    {"training.ray_train", "training.ray_tune", "training.features", "training.evaluate"},
    {"training.ablate", "training.tune", "training.adapt"},
    {"training.compact", "training.cli"},
]
MAY_IMPORT = {  # third-party package -> the only modules allowed to import it
    "zmq": (
        "bcaf_stream.connections",
        "bcaf_stream.events",
        "bcaf_stream.ingest.transports.zmq_router",
        "bcaf_stream.client.link",
    ),
    "websockets": ("bcaf_stream.ingest.transports",),
    "starlette": ("bcaf_stream.monitor",),
    "uvicorn": ("bcaf_stream.monitor.server",),
    "stdnum": ("bcaf_stream.redaction",),
    "phonenumbers": ("bcaf_stream.redaction",),
    "cel": ("bcaf_stream.alerts.when",),
    "httpx2": ("bcaf_stream.bridges.webhook",),
    "aiokafka": ("bcaf_stream.bridges.kafka",),
    "redis": ("bcaf_stream.bridges.redis",),
    "psycopg": ("bcaf_stream.events.journal.postgres", "bcaf_stream.events.journal.postgres_session"),
    "ray": ("actors", "training.ray_jobs", "training.ray_train", "training.ray_tune", "training.features"),
}
PRIVATE_TO_OTHERS = {  # what its owners may change any day; tests/unit/test_ray_internals.py guards it
    "actors.cluster": {"ray"},
    "training.ray_jobs": {"ray"},
}
FREE_SIBLINGS = 0  # the vocabulary layer may import within itself


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@lru_cache(None)
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file, which is read and parsed once for all rules."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@lru_cache(None)
def imported(path: Path) -> set[str]:
    """Absolute dotted names imported anywhere in the file, function bodies included."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer; use absolute ones"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def unit_of(name: str, layers: list[set[str]] = LAYERS) -> tuple[int, str] | None:
    for level, units in enumerate(layers):
        for unit in units:
            if within(name, unit):
                return level, unit
    return None


FILES = sorted(p for d in ("bcaf_stream", "actors", "training") for p in (ROOT / d).rglob("*.py"))


def test_the_scan_is_not_vacuous():
    assert len(FILES) >= 30


def test_imports_point_down():
    for path in FILES:
        me = module_name(path)
        here = unit_of(me)
        if me == "bcaf_stream":
            continue  # the package root re-exports the public names
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


def test_what_is_private_to_a_library_is_left_alone_or_guarded():
    for path in FILES:
        private = {
            name.partition(".")[0]
            for name in imported(path)
            if any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
        }
        assert private == PRIVATE_TO_OTHERS.get(module_name(path), set())


INGEST = "bcaf_stream.ingest"
INGEST_FLOORS = [  # low to high, inside the room of the protocols
    {"media", "codecs", "security", "sink", "legs", "fields", "jitter", "pcm_stream", "track", "protocol"},
    {"protocols"},
    {"transports"},
    {"servers"},
]
SOCKETS = {"asyncio", "socket", "ssl", "selectors", "websockets", "zmq", "threading"}


def ingest_floor(name: str) -> int | None:
    """The floor of a module inside ingest; None for one of another room."""
    if not within(name, INGEST) or name == INGEST:
        return None
    part = name.removeprefix(f"{INGEST}.").partition(".")[0]
    return next((floor for floor, parts in enumerate(INGEST_FLOORS) if part in parts), -1)


def test_ingest_has_floors_too():
    """A protocol does no I/O and knows no other protocol; its own pieces are named after it (rtp, rtp_packets)."""
    for path in (p for p in FILES if "ingest" in p.parts):
        me = module_name(path)
        here = ingest_floor(me)
        assert here != -1, f"{me} is on no floor: add it to INGEST_FLOORS"
        if here is None:
            continue
        for name in imported(path):
            there = ingest_floor(name)
            assert there is None or there <= here, f"{me} imports upwards: {name}"
            if there == 1 == here:
                pair = [module.split(".")[3].partition("_")[0] for module in (me, name)]
                assert pair[0] == pair[1], f"{me} imports another protocol: {name}"
            if here == 1:
                assert name.partition(".")[0] not in SOCKETS, f"{me} does I/O: it imports {name}"


def test_imports_point_down_inside_training():
    for path in (p for p in FILES if within(module_name(p), "training")):
        me = module_name(path)
        if me == "training":
            continue
        here = unit_of(me, TRAINING)
        assert here is not None, f"{me} is in no layer: add it to TRAINING"
        for name in imported(path):
            there = unit_of(name, TRAINING)
            if there is not None and there[1] != here[1]:
                assert there[0] < here[0], f"{me} (layer {here[0]}) imports {name} (layer {there[0]})"


EVENTS = "bcaf_stream.events"
EVENT_FLOORS = [  # low to high, inside the room of the events; what stands on one floor doesn't know each other
    {"event", "subscriptions"},
    {"codec", "progress", "connections"},
    {"writer", "auth", "journal"},
    {"publisher", "subscriber", "inventory", "owners"},
    {"replay"},
    {"hub", "schema_files"},
]


def event_part(name: str) -> str | None:
    """The part of the room of the events that a module belongs to; None for one of another room."""
    if not within(name, EVENTS) or name == EVENTS:
        return None
    return name.removeprefix(f"{EVENTS}.").partition(".")[0]


def event_floor(part: str) -> int:
    return next((floor for floor, parts in enumerate(EVENT_FLOORS) if part in parts), -1)


def test_events_have_floors_too():
    for path in (p for p in FILES if "events" in p.parts):
        me = module_name(path)
        part = event_part(me)
        if part is None:
            continue
        here = event_floor(part)
        assert here != -1, f"{me} is on no floor: add it to EVENT_FLOORS"
        for name in imported(path):
            other = event_part(name)
            if other is not None and other != part:
                assert event_floor(other) < here, f"{me} imports upwards or sideways: {name}"


LOOPS = "bcaf_stream.loops"  # every thread and task begins there: it cannot fail or end unseen
STARTS = {"Thread", "Timer", "create_task", "ensure_future", "run_coroutine_threadsafe", "TaskGroup"}
AWAITED = {"run_in_executor", "to_thread"}  # fine where their answer is awaited at once
MAY_START: dict[str, set[str]] = {}  # module -> what it may start by itself, and why


def started(path: Path) -> set[str]:
    """Names of threads, tasks and executor jobs that the file starts, or whose end nobody would see."""
    awaited = {id(node.value) for node in nodes(path) if isinstance(node, ast.Await)}
    statements = {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.ClassDef):
            found |= {called(base) for base in node.bases} & STARTS
        if isinstance(node, ast.Call):
            name = called(node.func)
            unseen = (name in AWAITED and id(node) not in awaited) or (name == "submit" and id(node) in statements)
            if name in STARTS or unseen:
                found.add(name)
    return found


def called(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_threads_and_tasks_begin_in_one_module():
    for path in FILES:
        me = module_name(path)
        allowed = MAY_START.get(me, set())
        if me == LOOPS:
            continue
        assert started(path) <= allowed, f"{me}: start it with bcaf_stream/loops.py, so that its end is seen"
        assert allowed <= started(path), f"{me} starts nothing by itself any more: take it out of MAY_START"


def test_the_scan_for_threads_sees_them(tmp_path: Path):
    file = tmp_path / "some.py"
    file.write_text(
        "import asyncio\nclass A(threading.Thread): ...\nasyncio.create_task(x())\n"
        "pool.submit(f)\nf = loop.run_in_executor(None, g)\n"
    )
    assert started(file) == {"Thread", "create_task", "submit", "run_in_executor"}
    file = tmp_path / "other.py"
    file.write_text("async def f():\n    await asyncio.to_thread(g)\n    return await b.submit(1)\n")
    assert started(file) == set()


GLOBAL = {
    f"torch.{name}"
    for name in (
        *("set_num_threads", "set_num_interop_threads", "set_default_dtype", "set_default_device", "manual_seed"),
        *("use_deterministic_algorithms", "set_float32_matmul_precision", "set_grad_enabled"),
    )
}
OWN_PROCESS = {"training.features": {"ShardEncoder"}}  # classes whose objects have a process to themselves
BARS = {"bcaf_stream.console", "training.cli"}  # who may draw a progress bar: what a user started by hand


def global_settings(path: Path) -> set[str]:
    """Classes whose constructor changes torch for the whole process."""
    found = set()
    for node in nodes(path):
        if not isinstance(node, ast.ClassDef):
            continue
        made = (one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
        calls = (call for one in made for call in ast.walk(one) if isinstance(call, ast.Call))
        if any(ast.unparse(call.func) in GLOBAL for call in calls):
            found.add(node.name)
    return found


def test_a_library_has_no_side_effects():
    for path in FILES:
        me = module_name(path)
        assert global_settings(path) == OWN_PROCESS.get(me, set()), f"{me}: a constructor sets torch for everybody"
        if not any(within(me, allowed) for allowed in BARS):
            assert not any(within(name, "rich.progress") or within(name, "tqdm") for name in imported(path))


def test_the_scan_for_side_effects_sees_them(tmp_path: Path):
    file = tmp_path / "some.py"
    file.write_text("class A:\n    def __init__(self):\n        if x:\n            torch.set_num_threads(1)\n")
    assert global_settings(file) == {"A"}


TESTS = sorted((ROOT / "tests").rglob("*.py"))
WAITS = ROOT / "tests" / "waiting.py"  # the one place where a test sleeps: until a condition, or for a stated time


def sleeps(path: Path) -> list[str]:
    """Where a file sleeps; `sleep(0)`, which lets the other tasks of a loop run once, is no sleep."""
    calls = (node for node in nodes(path) if isinstance(node, ast.Call))
    slept = (
        call for call in calls if called(call.func) == "sleep" and [ast.unparse(a) for a in call.args] != ["0"]
    )
    return [f"{path}:{call.lineno}" for call in slept]


def test_no_test_hopes_that_a_pause_was_long_enough():
    found = [where for path in TESTS if "benchmarks" not in path.parts and path != WAITS for where in sleeps(path)]
    assert found == [], "tests/waiting.py: until, eventually; elapse and elapsing with the reason"


def test_the_scan_for_sleeps_sees_them(tmp_path: Path):
    file = tmp_path / "some.py"
    file.write_text("import asyncio\ntime.sleep(1)\nawait asyncio.sleep(x)\nawait asyncio.sleep(0)\nsleep(0.1)\n")
    assert {where.rpartition(":")[2] for where in sleeps(file)} == {"2", "3", "5"}
    assert len(sleeps(WAITS)) == 4


def starts_ray(path: Path) -> bool:
    """Whether a file of tests starts Ray in its process, or shares the one that is started for all."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    arguments = {ast.unparse(node) for node in nodes if isinstance(node, ast.arg)}
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    marked = any(isinstance(node, ast.Constant) and node.value == "ray_session" for node in nodes)
    return bool({"ray_session: None", "running: Running"} & arguments) or "ray.init" in calls or marked


def test_what_starts_ray_does_it_in_one_process_in_the_order_that_is_said():
    said = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    files = [path for path in TESTS if path.name.startswith("test_") and path != Path(__file__)]
    starting = [path.relative_to(ROOT / "tests").as_posix() for path in files if starts_ray(path)]
    assert len(starting) >= 6
    assert [name for name in starting if f'"{name}"' not in said] == [], "WHOLE_MACHINE of tests/conftest.py"


NAMED_TUPLE = {"_replace", "_fields", "_asdict"}  # public, whatever their names say


def asserted_privates(path: Path) -> list[str]:
    """Private attributes of somebody else on which a file's assertions look."""
    asserts = (node for node in nodes(path) if isinstance(node, ast.Assert))
    return [
        f"{path}:{node.lineno} {node.attr}"
        for statement in asserts
        for node in ast.walk(statement.test)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if node.attr not in NAMED_TUPLE and ast.unparse(node.value) != "self"
    ]


def test_tests_look_at_what_a_caller_sees():
    assert [where for path in TESTS for where in asserted_privates(path)] == []


def test_no_module_imports_itself_by_way_of_others():
    known = {module_name(path): path for path in FILES}
    edges = {
        name: {module for one in imported(path) for module in (one, one.rpartition(".")[0]) if module in known}
        for name, path in known.items()
    }
    try:
        list(TopologicalSorter({name: found - {name} for name, found in edges.items()}).static_order())
    except CycleError as error:
        pytest.fail(f"an import circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("guide", ["bcaf_stream", "actors", "training"])
def test_the_guides_for_newcomers_name_files_that_are_there(guide: str):
    text = ast.get_docstring(ast.parse((ROOT / guide / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = re.findall(r"(?:bcaf_stream|actors|training)/[\w/]*", text.replace(".py", ""))
    assert len(named) >= 4
    assert [name for name in named if not (ROOT / name).is_dir() and not (ROOT / f"{name}.py").is_file()] == []


DIALECT = re.compile(
    r"(?<![a-z])(doors?|house|bury|tend|strangers|akin|taught|softness|deaf|askers|glance)(?![a-z])", re.IGNORECASE
)


def test_names_are_those_of_the_field():
    """Where a configuration used such a word before, `former_names` reads it, with a note."""
    for path in FILES:
        for node in nodes(path):
            for kind in ("name", "arg", "attr", "id"):
                assert not DIALECT.search(str(getattr(node, kind, ""))), f"{path}:{node.lineno}"


LOGGING = {"debug", "info", "warning", "error", "critical", "exception"}
FROM_OUTSIDE = {"id", "call", "channel"}  # names of calls and channels, which callers choose


def test_names_from_outside_are_logged_as_data():
    """A line break in a call's id would forge a line of the log: bcaf_stream.display.printable."""
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOGGING:
                for argument in node.args:
                    bare = argument.attr if isinstance(argument, ast.Attribute) else getattr(argument, "id", "")
                    assert bare not in FROM_OUTSIDE, f"{path}:{node.lineno}: printable({ast.unparse(argument)})"
