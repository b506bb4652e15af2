"""Command lines run in this process: what they print and how they leave."""

import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest


def hears_interrupts() -> None:
    """For `preexec_fn`: tests that run in the background of a shell would hand down that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def run_command(
    main: Callable[[], None],
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Outcome:
    """Run a console script's `main` with `arguments`."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    code = left.value.code
    return Outcome(code if isinstance(code, int) else 1, captured.out, captured.err)
