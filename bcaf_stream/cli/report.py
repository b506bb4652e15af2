"""bcaf-stream report: a call, or the calls of a day, as one page or as JSON."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from bcaf_stream.cli.events import DEFAULT_JOURNAL, JournalPlace, events_of_call
from bcaf_stream.console import writing_to
from bcaf_stream.errors import EventError, UsageError
from bcaf_stream.events.journal import Journal
from bcaf_stream.events.journal.config import journal_at
from bcaf_stream.report import CallReport, call_page, day_page


def report(
    call: Annotated[str | None, typer.Argument(metavar="[CALL]", help="the call's id")] = None,
    day: Annotated[str | None, typer.Option(help="all calls that began on it, e.g. 2026-11-28, in UTC")] = None,
    out: Annotated[Path | None, typer.Option(help="write there instead of to standard output")] = None,
    format: Annotated[Literal["html", "json"], typer.Option(help="of the report")] = "html",
    journal: JournalPlace = DEFAULT_JOURNAL,
) -> None:
    """Say what a call of the journal amounts to, or the calls of a day: one page that needs nothing else."""
    if (call is None) == (day is None):
        raise UsageError("report: give a call's id, or --day DATE; bcaf-stream calls lists them")
    asked = None if day is None else _date(day)
    with Journal(journal_at(journal), read_only=True) as opened:
        if call is not None:
            one = CallReport.of(events_of_call(opened, call))
            text = json.dumps(one.to_map(), ensure_ascii=False) if format == "json" else call_page(one)
        else:
            assert asked is not None
            reports = list(_of_day(opened, asked))
            if not reports:
                raise EventError(f"--day {asked}: no call of the journal {journal} began on it (UTC)")
            maps = {"day": str(asked), "calls": [one.to_map() for one in reports]}
            text = json.dumps(maps, ensure_ascii=False) if format == "json" else day_page(str(asked), reports)
    with writing_to(out, "--out") as file:
        file.write(text.rstrip("\n") + "\n")


def _date(day: str) -> date:
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise UsageError(f"--day {day}: a day is written 2026-11-28") from None


def _of_day(journal: Journal, day: date) -> Iterator[CallReport]:
    for call, *_ in journal.calls():
        events = journal.read(call=call)
        first = next(events, None)
        if first is None or datetime.fromtimestamp(first.emitted_at / 1e9, UTC).date() != day:
            continue
        yield CallReport.of([first, *events])
