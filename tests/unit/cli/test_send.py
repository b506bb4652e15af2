"""`bcaf-stream send`: wrong usage is one line that names the way out. What it sends is tested elsewhere."""

import io
import sys

import pytest

from bcaf_stream.cli.main import main
from tests.commands import run_command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-"], "nothing is piped into standard input; try ffmpeg"),
        (["-", "--rate", "16000", "--device", "x"], "has no --device"),
        (["-", "--rate", "16000"], "nothing is piped into standard input; try ffmpeg"),
        (["-", "--rate", "4000"], "8000"),
        (["-", "--rate", "8000", "--channels", "17"], "16"),
        (["-", "--rate", "8000", "--speed", "0"], "--speed"),
        (["-", "--rate", "8000", "--channel", "a=b.wav"], "--channel"),
        (["mic", "--transcript", "x.srt"], "--transcript"),
        (["call.wav", "--rate", "8000"], "a recording has its own"),
        (["call.wav", "--device", "x"], "a recording has its own"),
    ],
)
def test_wrong_usage(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # a standard input that is no pipe
    done = run_command(main, ["send", *words], monkeypatch, capsys)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
