"""Whatever comes from outside is data in every output: terminal, table, JSON lines, CSV, picture, error, log."""

import csv
import io
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bcaf_stream.cli.main import app
from bcaf_stream.cli.plot import save_timeline
from bcaf_stream.console import EventView, line
from bcaf_stream.display import csv_cell, json_for_terminal, printable
from bcaf_stream.events.codec import from_json
from bcaf_stream.events.event import Event
from bcaf_stream.events.journal import Journal, JournalConfig
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance

NASTY = [
    "[/b]",
    "[red]x[/red] [link=http://x]y",
    "\x1b[2J\x1b]0;owned\x07",
    "a\nlog: call b ended",
    "\x9b31mC1",
    "\u202eevil\u2066",
    "=HYPERLINK(1)",
    "@SUM(1)",
    r"$\frac{1$",
    "'quoted",
]


def nasty_events(name: str) -> list[Event]:
    call = Call(name, (Channel(name, "customer"),))
    writer = EventWriter(call, "m")
    prediction = EmotionPrediction(("anger", "joy"), (0.2, 0.8), None, None, ("text",))
    said = Utterance(name, name, "customer", 0, 0, 900, None, name, "given")
    return [writer.start(), writer.final(said, prediction), writer.degraded(name), writer.end(name)]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("display") / "events.sqlite"
    with Journal(JournalConfig(path=path, durability="crash")) as opened:
        for name in NASTY:
            opened.append(nasty_events(name))
    return path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def is_plain(text: str, but: str = "\n") -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in but for c in text)


@given(st.text())
def test_printable_is_one_plain_line_and_changes_no_plain_text(text: str):
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    if text.isprintable():
        assert shown == text


@given(st.one_of(st.text(), st.sampled_from(NASTY), st.text("=+-@'\t\r\n a＝", max_size=4)))
def test_a_cell_is_never_a_formula_and_can_be_undone(text: str):
    written = csv_cell(text)
    assert isinstance(written, str)
    assert not written.startswith(tuple("=+-@\t\r\n＝＋－＠"))
    if is_plain(text):
        assert (written[1:] if written.startswith("'") else written) == text
    assert csv_cell(-1.5) == -1.5


@given(st.text())
def test_json_says_the_same_without_commands(text: str):
    plain = json.dumps({"text": text}, ensure_ascii=False)
    written = json_for_terminal(plain)
    assert json.loads(written) == {"text": text}
    assert not any(unicodedata.category(c) == "Cc" for c in written)


@pytest.mark.parametrize("name", NASTY)
def test_a_view_shows_what_was_sent_and_obeys_nothing(name: str):
    events = nasty_events(name)
    for event in events:
        assert is_plain(line(event, show_lag=True, show_call=True), but="")
    for format in ("table", "jsonl"):
        out = io.StringIO()
        with EventView(format, out, title=name) as view:
            for event in events:
                view.add(event)
        assert is_plain(out.getvalue())
    terminal = Terminal()
    with EventView("table", terminal, title=name) as view:
        view._console.width = 200
        for event in [*events, *nasty_events("another")]:
            view.add(event)
    shown = terminal.getvalue()
    assert printable(name) in shown
    for command in ("\x1b[2J", "\x1b]", "\x9b", "\x07", "\u202e"):
        assert command not in shown


def test_calls_lists_every_id_whole(journal: Path):
    with Journal(JournalConfig(path=journal, durability="crash")) as opened:
        opened.append(nasty_events("x" * 200))
    done = CliRunner().invoke(app, ["calls", "--journal", str(journal)], env={"COLUMNS": "40"})
    assert done.exit_code == 0, done.output
    assert is_plain(done.stdout)
    for name in [*NASTY, "x" * 200]:
        assert printable(name) in done.stdout


def test_export_is_data_in_each_format(journal: Path):
    runner = CliRunner()
    rows = runner.invoke(app, ["export", "--format", "csv", "--journal", str(journal)]).stdout
    cells = [cell for row in csv.reader(io.StringIO(rows)) for cell in row]
    assert "'=HYPERLINK(1)" in cells
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert is_plain(rows, but="\r\n\u202e\u2066")
    lines = runner.invoke(app, ["export", "--journal", str(journal)]).stdout
    assert is_plain(lines)
    assert {from_json(text).call for text in lines.splitlines()} >= set(NASTY)


@pytest.mark.parametrize("name", NASTY)
def test_an_error_is_one_plain_line(name: str, journal: Path, tmp_path: Path):
    for words in (["replay", f"no{name}"], ["erase", "--yes", f"no{name}"]):
        done = CliRunner().invoke(app, [*words, "--journal", str(journal)])
        assert done.exit_code != 0
        assert is_plain(printable(done.exception), but="")


@pytest.mark.parametrize("name", NASTY)
def test_a_picture_takes_every_name(name: str, tmp_path: Path):
    save_timeline(nasty_events(name), tmp_path / "call.png", name)
    assert (tmp_path / "call.png").stat().st_size > 1000


def test_an_output_that_fails_leaves_nothing(journal: Path, tmp_path: Path):
    for format in ("csv", "jsonl", "parquet"):
        words = ["export", "--journal", str(journal), "--format", format, "--output"]
        done = CliRunner().invoke(app, [*words, str(tmp_path / "none" / "out")])
        assert "--output" in str(done.exception)
        broken = ["export", "--journal", str(tmp_path / "no.sqlite"), "--format", format, "--output"]
        assert CliRunner().invoke(app, [*broken, str(tmp_path / "out")]).exit_code != 0
    assert list(tmp_path.iterdir()) == []
