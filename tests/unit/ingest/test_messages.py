"""What a server tells a peer of any protocol names no option of a command, which that peer has never seen."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = [*(ROOT / "bcaf_stream" / "ingest").rglob("*.py"), *(ROOT / "actors").glob("call_*.py")]
OPTION = re.compile(r"(^|\s)--[a-z]")


def texts_of_errors(path: Path) -> list[str]:
    """The literal parts of the messages of LinkError and BusyError."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    told = [
        call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("LinkError", "BusyError")
    ]
    parts = [part for call in told for argument in call.args for part in ast.walk(argument)]
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def test_the_scan_is_not_vacuous():
    assert sum(len(texts_of_errors(path)) for path in FILES) > 80


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_message_names_an_option(path: Path):
    assert [text for text in texts_of_errors(path) if OPTION.search(text)] == []
