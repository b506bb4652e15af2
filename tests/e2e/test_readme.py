"""The README is true: its Python runs, its commands exist, and it shows a picture that is there."""

import contextlib
import re
import shlex
import threading
from pathlib import Path

import pytest
from typer.main import get_command

import actors.cli
import bcaf_stream.cli.main
import training.cli
from bcaf_stream.events.publisher import BusConfig, EventPublisher
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = [
    line.partition("#")[0]
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
COMMANDS = [shlex.split(line) for line in SHELL if line.startswith("bcaf-")]
APPS = {"bcaf-stream": bcaf_stream.cli.main.app, "bcaf-serve": actors.cli.app, "bcaf-train": training.cli.app}


def test_there_is_something_to_check():
    assert len(PYTHON) >= 3
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_commands_and_their_options_exist(command: list[str]):
    program, name, *arguments = command
    known = get_command(APPS[program]).commands[name]  # type: ignore[attr-defined]
    if hasattr(known, "commands"):
        known = known.commands[arguments[0]]
    options = {option for parameter in known.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= options


def test_the_pictures_and_files_exist():
    named = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(
        r"`((?:bcaf_stream|configs|tests)/[\w./-]+\w)`", README
    )
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def run_example(number: int, capsys: pytest.CaptureFixture[str], **replaced: str) -> list[str]:
    code = PYTHON[number]
    for old, new in replaced.items():
        code = code.replace(old, new)
    with contextlib.chdir(ROOT):
        exec(compile(code, f"README example {number}", "exec"), {})
    return capsys.readouterr().out.splitlines()


def test_the_analysis_of_a_file(capsys: pytest.CaptureFixture[str]):
    lines = run_example(0, capsys)
    assert len(lines) >= 15
    assert any("customer" in line for line in lines)


def test_the_live_analysis(capsys: pytest.CaptureFixture[str]):
    assert run_example(1, capsys) == ["['call.start', 'call.end']"]


def test_the_subscriber(capsys: pytest.CaptureFixture[str]):
    writer = EventWriter(Call("c", (Channel("mono"),)), "m")
    with EventPublisher(BusConfig(bind="tcp://127.0.0.1:*")) as publisher:

        def publish() -> None:
            if publisher.wait_for_subscriber(20):
                publisher.publish(writer.start())

        thread = threading.Thread(target=publish)
        thread.start()
        lines = run_example(2, capsys, **{"tcp://127.0.0.1:5561": publisher.endpoint})
        thread.join()
    assert lines == ["c  call.start None {}"]
