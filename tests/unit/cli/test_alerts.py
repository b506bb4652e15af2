"""bcaf-stream alerts: what is printed, and the exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bcaf_stream.cli.main import app
from bcaf_stream.errors import BcafError, ConfigError
from bcaf_stream.events.journal import Journal, JournalConfig
from tests.calls import CallScript

SHIPPED = Path(__file__).parents[3] / "configs" / "alerts" / "call_centre.yaml"
RULE = "rules:\n  - alert: Anger\n    value: {mass: [anger], over: 30s}\n    fire: 0.6\n"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alerts") / "events.sqlite"
    angry, calm = CallScript("angry"), CallScript("calm")
    for n in range(20):
        angry.say(n * 3000, n * 3000 + 2500, "anger" if n > 8 else "neutral", 0.9)
        calm.say(n * 3000, n * 3000 + 2500, "joy", 0.9)
    angry.end(), calm.end()
    with Journal(JournalConfig(path=path, durability="crash")) as opened:
        opened.append(angry.events)
        opened.append(calm.events)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, ["alerts", *map(str, arguments)])


def test_the_shipped_rules_pass_their_check_and_their_cases():
    checked = run("check", SHIPPED)
    assert (checked.exit_code, checked.output.splitlines()[-1]) == (0, f"{SHIPPED}: 5 rules, all can fire")
    tested = run("test", SHIPPED.with_name("call_centre.cases.yaml"))
    assert tested.exit_code == 0
    assert "all as expected" in tested.output


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (RULE.replace("fire: 0.6", "fire: 0.6\n    recover: 0.7"), "recover"),
        (RULE.replace("fire: 0.6", "fier: 0.6"), "rules.0.fier"),
        (RULE.replace("30s", "30"), "rules.0.value.over"),
        (RULE + "    need: {speech: 40s}\n", "could never fire"),
        (RULE.replace("[anger]", "[angr]"), "angr"),
        ("", "rules"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_the_name_of_what_is_wrong(tmp_path: Path, wrong: str, says: str):
    path = tmp_path / "rules.yaml"
    path.write_text(wrong)
    done = run("check", path)
    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)


def test_a_backtest_tells_alerts_per_hour_and_how_they_fit_labels(tmp_path: Path, journal: Path):
    labels = tmp_path / "labels.csv"
    labels.write_text("call,start_s,end_s\nangry,30,60\n")
    done = run("backtest", SHIPPED, "--journal", journal, "--labels", labels, "--format", "json")
    assert done.exit_code == 0, done.exception
    found = json.loads(done.output)
    anger = found["rules"]["CustomerAngerSustained"]
    assert found["calls"] == 2
    assert anger["alerts"] == 1
    assert (anger["precision"], anger["recall"]) == (1.0, 1.0)
    assert "CustomerAngerSustained" in run("backtest", SHIPPED, "--journal", journal).output


def test_a_backtest_of_a_call_or_journal_that_is_not_there_says_so(tmp_path: Path, journal: Path):
    assert "nobody" in str(run("backtest", SHIPPED, "--journal", journal, "--call", "nobody").exception)
    missing = run("backtest", SHIPPED, "--journal", tmp_path / "none.sqlite").exception
    assert isinstance(missing, BcafError)
    assert "none.sqlite" in str(missing)
