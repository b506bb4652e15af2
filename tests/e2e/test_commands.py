"""The console scripts as a user runs them: processes of their own, real ports, nothing left behind."""

import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bcaf_stream.demo import CALL
from bcaf_stream.events.codec import from_json
from bcaf_stream.events.progress import settled
from bcaf_stream.evidence import clip

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment that every process started from a test inherits, so that leftovers can be found."""
    mark = f"BCAF_TEST_MARK={uuid.uuid4()}"
    (tmp_path / "run").mkdir(mode=0o700)
    yield dict(os.environ) | dict([mark.split("=")]) | {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                left.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
        except OSError:
            continue  # it ended, or is somebody else's
    assert left == []


def run(env: dict[str, str], folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = map(str, command)
    return subprocess.run(
        [BIN / program, *arguments], env=env, cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_demo(marked: dict[str, str], tmp_path: Path):
    done = run(marked, tmp_path, "bcaf-serve", "demo", "--speed", "0")
    assert done.returncode == 0, done.stderr
    events = [from_json(line) for line in (tmp_path / "demo-events.jsonl").read_text().splitlines()]
    spoken = settled(events)
    assert len(spoken) >= 15
    assert {event.type for event in events if event.emotion} <= {"emotion.interim", "emotion.final"}
    assert [event.seq for event in events] == list(range(len(events)))
    assert len({event.emotion for event in spoken if event.role == "customer"}) >= 2  # the mood changes
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(f"{len(spoken)} utterances in 1:1")
    assert sum("customer" in line for line in lines) >= 5


def test_a_deployment_from_up_to_down(marked: dict[str, str], tmp_path: Path):
    audio, events, replay = free_port(), free_port(), free_port()
    up = run(
        *(marked, tmp_path, "bcaf-serve", "up", "--config", ROOT / "configs/serve/local.yaml"),
        *("--set", f"ingest.link.bind=tcp://127.0.0.1:{audio}", "--set", f"hub.bus.bind=tcp://127.0.0.1:{events}"),
        *("--set", f"hub.replay.bind=tcp://127.0.0.1:{replay}", "--set", "ingest.record.roles=[customer]"),
    )
    assert up.returncode == 0, up.stderr
    assert f"bcaf-stream send CALL.wav --to tcp://127.0.0.1:{audio}" in up.stdout
    try:
        listening = subprocess.Popen(
            [
                BIN / "bcaf-stream",
                "listen",
                "--connect",
                f"tcp://127.0.0.1:{events}",
                "--format",
                "jsonl",
                "--until-end",
            ],
            env=marked,
            stdout=subprocess.PIPE,
            text=True,
        )
        again = run(marked, tmp_path, "bcaf-serve", "up")
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)
        assert "is running: bcaf-serve down" in again.stderr
        status_when(marked, tmp_path, lambda actors: actors["hub"]["subscribers"] == 1)
        sent = run(
            *(marked, tmp_path, "bcaf-stream", "send", CALL, "--to", f"tcp://127.0.0.1:{audio}"),
            *("--speed", "0", "--call", "e2e", "--text", "none"),
        )
        assert sent.returncode == 0, sent.stderr
        assert sent.stdout.startswith("call e2e: ")
        heard, _ = listening.communicate(timeout=60)
        assert [from_json(line).seq for line in heard.splitlines()] == list(range(len(heard.splitlines())))
        report = status_when(marked, tmp_path, lambda actors: actors["ingest"]["finished"] == 1)
        assert report["state"] == "up"
        assert "emotion-0" in run(marked, tmp_path, "bcaf-serve", "status").stdout
        drain_under_a_call(marked, tmp_path, f"tcp://127.0.0.1:{audio}")
    finally:
        down = run(marked, tmp_path, "bcaf-serve", "down")
    assert down.returncode == 0, down.stderr
    assert run(marked, tmp_path, "bcaf-serve", "status").returncode == 1
    journal = tmp_path / "runs/serve/events.sqlite"
    sound = journal.with_name("events.sqlite.sound")
    assert clip(sound, "e2e", heard_channel(heard), 0, 1000)
    kept = len(list(sound.iterdir()))
    erased = run(marked, tmp_path, "bcaf-stream", "erase", "e2e", "--yes", "--journal", journal)
    assert erased.returncode == 0, erased.stderr
    assert len(list(sound.iterdir())) == kept - 1 == 2  # of the calls before and after the drain


def heard_channel(heard: str) -> str:
    return next(event.channel for event in map(from_json, heard.splitlines()) if event.role == "customer")


def drain_under_a_call(env: dict[str, str], folder: Path, audio: str) -> None:
    """No call begins meanwhile, and the one that runs ends as it would have."""
    send = ["bcaf-stream", "send", str(CALL), "--to", audio, "--text", "none"]
    begun = subprocess.Popen(
        [BIN / send[0], *send[1:], "--speed", "8", "--call", "begun"], env=env, stdout=subprocess.PIPE, text=True
    )
    status_when(env, folder, lambda actors: actors["ingest"]["calls"] == 1)
    drain = run(env, folder, "bcaf-serve", "drain", "--timeout", "1.5")
    assert (drain.returncode, drain.stderr) == (
        *(1, "bcaf-serve: calls still running after 1.5 s: 1; none begins (drain --cancel)\n"),
    )
    assert json.loads(run(env, folder, "bcaf-serve", "status", "--json").stdout)["state"] == "draining"
    refused = run(env, folder, *send, "--call", "late", "--give-up", "0")
    assert refused.returncode == 1
    assert "busy: the deployment is draining and takes no new calls" in refused.stderr
    begun.communicate(timeout=60)
    assert begun.returncode == 0
    drained = run(env, folder, "bcaf-serve", "drain")
    assert drained.returncode == 0, drained.stderr
    assert run(env, folder, "bcaf-serve", "drain", "--cancel").returncode == 0
    status_when(env, folder, lambda actors: "draining" not in actors["ingest"])
    assert run(env, folder, *send, "--call", "later", "--speed", "0").returncode == 0


def status_when(env: dict[str, str], folder: Path, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first report of which it is true; the supervisor writes one a second."""
    for _ in range(100):
        report: dict[str, Any] = json.loads(run(env, folder, "bcaf-serve", "status", "--json").stdout)
        if true(report["actors"]):
            return report
    raise AssertionError(f"never came true: {report}")


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (["send", str(CALL), "--to", "tcp://127.0.0.1:9"], "is `bcaf-serve up` running?"),
        (["send", "none.wav"], "none.wav"),
        (["listen", "--connect", "nowhere"], "nowhere: not an address"),
    ],
)
def test_what_cannot_be_reached_is_one_line(marked: dict[str, str], tmp_path: Path, command: list[str], part: str):
    done = run(marked, tmp_path, "bcaf-stream", *command)
    assert done.returncode == 1
    assert part in done.stderr
    assert done.stderr.count("\n") == 1


def test_down_without_a_deployment(marked: dict[str, str], tmp_path: Path):
    done = run(marked, tmp_path, "bcaf-serve", "down")
    assert (done.returncode, done.stderr) == (1, "bcaf-serve: no deployment named bcaf is running here\n")


def test_doctor(marked: dict[str, str], tmp_path: Path):
    done = run(marked, tmp_path, "bcaf-stream", "doctor")
    assert done.returncode == 0, done.stdout
    assert "compact checkpoint" in done.stdout


@pytest.mark.parametrize("program", ["bcaf-stream", "bcaf-serve", "bcaf-train"])
def test_help_is_there_at_once_and_names_the_commands(marked: dict[str, str], tmp_path: Path, program: str):
    done = run(marked, tmp_path, program, "--help")
    assert done.returncode == 0
    assert "Commands:" in done.stdout
