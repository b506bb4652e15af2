"""The report of a call and of a day: what it says, and that nothing of a call becomes markup."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bcaf_stream.alerts.evaluator import evaluate
from bcaf_stream.alerts.rules import AlertRules
from bcaf_stream.cli.main import app
from bcaf_stream.errors import EventError, UsageError
from bcaf_stream.events.journal import Journal, JournalConfig
from bcaf_stream.report import CallReport, call_page
from tests.calls import CallScript

HOSTILE = "<script>alert(1)</script>\"' onload=x &amp; \x00\x1b[31m\u202e</style></title>-->"
RULE = {
    "alert": "Anger",
    "value": {"mass": ["anger"], "over": "20s"},
    "fire": 0.6,
    "annotations": {"summary": "{{channel}} <b>{{value}}</b>"},
}


class Page(HTMLParser):
    """Every tag with its attributes, ids, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def every(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def angry_call(name: str = "call-1", words: str = "words") -> CallScript:
    call = CallScript(name, roles={"customer": "customer", words: "agent"})
    for n in range(20):
        call.say(n * 3000, n * 3000 + 2500, "anger" if n > 8 else "joy", 0.9, text=words)
    call.say(4000, 8000, "neutral", 0.8, channel=words, text=None)
    call.lose(30_000, 31_000)
    call.fail(60_000, 62_000, words)
    call.say(0, 2500, "sadness", 0.9, index=0, revision=1, text=words)
    for change in evaluate(AlertRules.model_validate({"rules": [RULE]}), list(call.events)):
        call.events.append(call.writer.alert(**change.to_fields()))
    call.end(words)
    return call


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "events.sqlite"
    with Journal(JournalConfig(path=path, durability="crash")) as opened:
        opened.append(angry_call().events)
        opened.append(angry_call(HOSTILE, HOSTILE).events)
        opened.append(CallScript("empty").events)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_page_tells_what_the_summary_has(journal: Path, tmp_path: Path):
    out = tmp_path / "call.html"
    assert run("call-1", "--out", out, "--journal", journal).exit_code == 0
    page = Page(out.read_text())
    found = json.loads(run("call-1", "--format", "json", "--journal", journal).output)
    assert found["alerts_fired"] == 1
    assert [one["state"] for one in found["alerts"]] == ["firing", "resolved"]
    assert len(found["utterances"]) == 22
    assert sum(found["roles"]["customer"]["shares"].values()) == pytest.approx(1)
    for text in (
        "Timeline",
        "By role",
        "Turning points",
        "Alerts",
        "Transcript",
        "Quality of the data",
        "before its",
    ):
        assert text in page.text
    assert "1 gap, 1.0 s" in page.text
    assert "Model: m." in page.text


def test_evidence_leads_to_its_utterances(journal: Path):
    page = Page(run("call-1", "--journal", journal).output)
    ids = page.every("id")
    goals = [goal for goal in page.every("href") if goal]
    assert len(ids) == len(set(ids))
    assert goals
    assert {goal.removeprefix("#") for goal in goals} <= set(ids)


def test_nothing_of_a_call_becomes_markup_or_is_loaded():
    events = angry_call(HOSTILE, HOSTILE).events
    plain, page = Page(call_page(CallReport.of(angry_call().events))), Page(call_page(CallReport.of(events)))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in page.tags] == [set(attributes) for _, attributes in plain.tags]
    assert {"script", "img", "link", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    assert not page.every("src") + page.every("onload")
    assert "<script>alert(1)</script>" in page.text  # as text
    assert not {"\x00", "\x1b", "\u202e"} & set(page.text)
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.every("content")


def test_a_day_has_its_calls_those_with_alerts_first(journal: Path):
    done = run("--day", "2023-11-14", "--journal", journal)
    assert done.exit_code == 0, done.exception
    text = Page(done.output).text
    assert "3 calls, 2 alerts." in text
    assert text.index("call-1") < text.index("empty")
    found = json.loads(run("--day", "2023-11-14", "--format", "json", "--journal", journal).output)
    assert {one["call"] for one in found["calls"]} == {"call-1", HOSTILE, "empty"}


def test_a_call_of_which_nothing_was_said_has_a_report(journal: Path):
    done = run("empty", "--journal", journal)
    assert done.exit_code == 0, done.exception
    assert "not ended" in Page(done.output).text


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["nobody"], EventError, "nobody"),
        (["--day", "2020-01-01"], EventError, "2020-01-01"),
        (["--day", "yesterday"], UsageError, "2026-11-28"),
        ([], UsageError, "--day"),
        (["call-1", "--day", "2023-11-14"], UsageError, "--day"),
        (["call-1", "--out", "/nowhere/call.html"], UsageError, "/nowhere"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(journal: Path, arguments: list[str], error: type, says: str):
    failed = run(*arguments, "--journal", journal).exception
    assert isinstance(failed, error)
    assert says in str(failed)
    assert "\n" not in str(failed)
