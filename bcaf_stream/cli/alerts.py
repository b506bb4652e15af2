"""bcaf-stream alerts: rules are checked, tested, and held against calls that have been."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from bcaf_stream.alerts.backtest import Backtest, backtest, read_labels
from bcaf_stream.alerts.cases import run_cases
from bcaf_stream.alerts.rules import duration_ms, load_rules
from bcaf_stream.cli.events import JournalPlace
from bcaf_stream.config import load_config
from bcaf_stream.console import cell, stderr_note
from bcaf_stream.display import printable
from bcaf_stream.errors import ConfigError, EventError, UsageError
from bcaf_stream.events.event import Event
from bcaf_stream.events.journal import Journal
from bcaf_stream.events.journal.config import journal_at

alerts_app = typer.Typer(no_args_is_help=True, help="Rules that watch calls: check them, test them, try them.")

Rules = Annotated[Path, typer.Argument(metavar="RULES", help="a YAML file; see configs/alerts")]


@alerts_app.command(name="check")
def check_rules(
    rules: Rules,
    config: Annotated[
        Path | None, typer.Option(help="a configuration of analyze or serve, whose policies the rules must fit")
    ] = None,
) -> None:
    """Say whether every rule can be read and can fire."""
    loaded = load_rules(rules)
    if config is not None:
        from bcaf_stream.analyzer import AnalyzerConfig  # torch loads in seconds

        why = loaded.never_fire(load_config(AnalyzerConfig, config, section="analyzer").text.policy)
        if why is not None:
            raise ConfigError(f"{rules}: {why}")
    for rule in loaded.rules:
        print(printable(f"{rule.alert}  {rule.hash}"))
    print(f"{rules}: {len(loaded.rules)} rules, all can fire")


@alerts_app.command(name="test")
def run_test_cases(cases: Annotated[Path, typer.Argument(metavar="CASES", help="a YAML file of cases")]) -> None:
    """Run the test cases of rules. Exit code 1 where something is not as it is expected."""
    count, failures = run_cases(cases)
    for failure in failures:
        stderr_note(f"{cases}: {failure}")
    if failures:
        raise EventError(f"{cases}: {len({failure.case for failure in failures})} of {count} cases failed")
    print(f"{cases}: {count} cases, all as expected")


@alerts_app.command(name="backtest")
def backtest_command(
    rules: Rules,
    journal: JournalPlace,
    labels: Annotated[
        Path | None, typer.Option(help="CSV: call,start_s,end_s[,alert], when an alert is right")
    ] = None,
    call: Annotated[list[str] | None, typer.Option(help="these calls alone")] = None,
    lead: Annotated[str, typer.Option(help="so long before a label an alert is early, and right")] = "60s",
    format: Annotated[Literal["table", "json"], typer.Option(help="of the result")] = "table",
) -> None:
    """Hold rules against the calls of a journal: alerts per hour; with labels, precision, recall and lead time."""
    loaded = load_rules(rules)
    try:
        lead_ms = duration_ms(lead)
    except ValueError as error:
        raise UsageError(f"--lead {lead}: {error}") from None
    marked = None if labels is None else read_labels(labels, [rule.alert for rule in loaded.rules])
    with Journal(journal_at(journal), read_only=True) as opened:
        known = [row[0] for row in opened.calls()]
        for name in call or ():
            if name not in known:
                raise EventError(f"call {name}: the journal {journal} has no such call; see bcaf-stream calls")
        if not known:
            raise EventError(f"journal {journal}: it has no calls")
        unknown = sorted({label.call for label in marked or ()} - set(known))
        if unknown:
            stderr_note(f"bcaf-stream: {len(unknown)} calls of {labels} are not in the journal: {unknown[0]}, ...")
        done = backtest(loaded, _Calls(opened, call or known), marked, lead_ms)
    if format == "json":
        print(json.dumps(done.to_map(), allow_nan=False))
    else:
        _show(done)


class _Calls(Mapping[str, Iterator[Event]]):
    """The calls of a journal, each read when it is asked for."""

    def __init__(self, journal: Journal, names: list[str]) -> None:
        self._journal, self._names = journal, names

    def __getitem__(self, call: str) -> Iterator[Event]:
        return self._journal.read(call=call)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _show(done: Backtest) -> None:
    rows = done.to_map()["rules"]
    columns = list(next(iter(rows.values())))
    table = Table(caption=f"{done.calls} calls, {done.hours:.2f} hours", caption_justify="left")
    for column in ("alert", *columns):
        table.add_column(column.replace("_", " "), justify="left" if column == "alert" else "right")
    for name, row in rows.items():
        table.add_row(cell(name), *("" if row[column] is None else str(row[column]) for column in columns))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
