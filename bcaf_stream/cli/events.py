"""The commands of bcaf-stream that are about events: listen, replay, export, erase, repair, calls, keys."""

import csv
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer
from rich.console import Console
from rich.table import Table

from bcaf_stream.config import load_config
from bcaf_stream.console import EventView, cell, stderr_note, whole_file, writing_to
from bcaf_stream.display import csv_cell, json_for_terminal, printable
from bcaf_stream.errors import EventError, UsageError
from bcaf_stream.events.codec import to_json, to_map
from bcaf_stream.events.event import Event, topic_prefix
from bcaf_stream.events.journal.config import journal_at
from bcaf_stream.events.journal.journal import Journal

COLUMNS = (
    "offset",
    "call",
    "channel",
    "role",
    "type",
    "seq",
    "start_ms",
    "end_ms",
    "emotion",
    "confidence",
    "text",
)

HIGH_WATER_MARK = 10_000
LIVE_HIGH_WATER_MARK = 100_000  # events, about 100 MB: what does not fit is lost
UNBOUNDED = 10_000  # columns of a pipe

JournalPlace = Annotated[
    str,
    typer.Option("--journal", help="the journal's file, or its postgresql://USER@HOST/DATABASE?namespace=NAME"),
]
DEFAULT_JOURNAL = "bcaf-events.sqlite3"
keys_app = typer.Typer(no_args_is_help=True, help="Who may read events when they leave this machine.")
Folder = Annotated[Path, typer.Option(help="the folder of the keys; the hub's `bus.keys`")]
DEFAULT_KEYS = Path("bcaf-keys")


def listen(
    connect: Annotated[str, typer.Option(help="where the deployment publishes events")] = "tcp://127.0.0.1:5561",
    call: Annotated[str | None, typer.Option(help="this call alone")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="a prefix of topics, for instance emo.v1.CALL.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="start|new|last|OFFSET|TIME; then nothing is missed")
    ] = None,
    position: Annotated[Path | None, typer.Option(help="keep the place there, and go on from it")] = None,
    replay: Annotated[str, typer.Option(help="where it replays them")] = "tcp://127.0.0.1:5562",
    key: Annotated[Path | None, typer.Option(help="the key file, when the deployment asks for one")] = None,
    format: Annotated[Literal["table", "jsonl", "csv"], typer.Option(help="how events are shown")] = "table",
    until_end: Annotated[bool, typer.Option(help="leave after the end of the first call")] = False,
) -> None:
    """Show the events of a deployment as they come, until Ctrl-C."""
    from bcaf_stream.events.subscriber import EventSubscriber

    topics = [*(topic or []), *([topic_prefix(call)] if call is not None else [])] or [topic_prefix()]
    live_alone = from_ is None and position is None and not topic
    source = EventSubscriber(
        connect,
        None if live_alone else replay,
        topics,
        from_ or "new",
        position,
        key,
        high_water_mark=LIVE_HIGH_WATER_MARK if live_alone else HIGH_WATER_MARK,
    )
    with source, suppress(KeyboardInterrupt):  # the way to leave
        _show(source, format, until_end)
    if source.missed:
        note = f"{source.missed} events were published before or while nobody here took them"
        stderr_note(f"bcaf-stream: {note}; --from start asks for them")


def replay(
    call: Annotated[str, typer.Argument(help="the call's id")],
    speed: Annotated[float, typer.Option(min=0, help="1 = as it was; 0 = as fast as it goes")] = 1.0,
    bind: Annotated[str, typer.Option(help="where to publish it")] = "tcp://127.0.0.1:5563",
    wait: Annotated[float, typer.Option(help="seconds to wait for the first listener")] = 60.0,
    insecure: Annotated[bool, typer.Option("--insecure", help="off this machine, anybody may listen")] = False,
    journal: JournalPlace = DEFAULT_JOURNAL,
) -> None:
    """Publish a call of the journal again, on an address of its own: bcaf-stream listen --connect there."""
    from bcaf_stream.events.publisher import BusConfig, EventPublisher

    bus = load_config(BusConfig, None, [f"bind={bind!r}", f"insecure={insecure}"])
    with Journal(journal_at(journal), read_only=True) as opened, EventPublisher(bus) as publisher:
        events = events_of_call(opened, call)
        stderr_note(f"bcaf-stream: bcaf-stream listen --connect {publisher.endpoint}")
        if not publisher.wait_for_subscriber(wait):
            raise EventError(f"{publisher.endpoint}: nobody listened within {wait:g} s")
        count, begun, first = 0, time.monotonic(), None
        for event in events:
            first = event.emitted_at if first is None else first
            if speed:
                due = begun + (event.emitted_at - first) / 1e9 / speed
                time.sleep(max(0.0, due - time.monotonic()))
            publisher.publish(event)
            count += 1
    print(printable(f"call {call}: {count} events published again"))


def export(
    output: Annotated[Path | None, typer.Option(help="write there instead of to standard output")] = None,
    format: Annotated[Literal["parquet", "jsonl", "csv"], typer.Option(help="of the output")] = "jsonl",
    since: Annotated[str | None, typer.Option(help="an offset, or a time like 2026-02-28T12:00")] = None,
    call: Annotated[str | None, typer.Option(help="this call alone")] = None,
    journal: JournalPlace = DEFAULT_JOURNAL,
) -> None:
    """Write the events of the journal to a file, for other programs."""
    from bcaf_stream.events.subscriber.follow import parse_start

    with Journal(journal_at(journal), read_only=True) as opened:
        begin = parse_start(since or "0")
        if isinstance(begin, str):
            raise UsageError(f"--since {since}: must be an offset or a time")
        first = opened.first_since(begin["time"]) if "time" in begin else begin["offset"]
        events = opened.read(first, call)
        if format == "parquet":
            if output is None:
                raise UsageError("--format parquet: needs --output FILE")
            with whole_file(output) as draft:
                _write_parquet(events, draft)
            return
        with writing_to(output) as out:
            _write(events, out, format)


def erase(
    call: Annotated[str, typer.Argument(help="the call's id")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    journal: JournalPlace = DEFAULT_JOURNAL,
) -> None:
    """Forget a call: all its events go, and nothing more of it is stored; a line of the audit table says so.

    The damaged copies of the journal that `repair` has kept are deleted as well.
    """
    from bcaf_stream.events.journal.retention import erase as erase_call

    if not yes:
        typer.confirm(printable(f"Erase call {call} from {journal} for good?"), abort=True)
    config = journal_at(journal)
    if config.file is not None and not config.file.exists():
        raise EventError(f"journal {journal}: there is none")
    with Journal(config, maintenance=True) as opened:
        count, before, copies = erase_call(opened, call, time.time_ns())
    for copy in copies:
        print(f"{copy}: deleted, its words could not be told apart")
    print(printable(f"call {call}: {count} events erased" + (", which had been erased before" if before else "")))
    if config.file is None and (count or before):
        print(
            "the database's own copies, its write-ahead log and backups, keep the bytes until it overwrites them"
        )
    if not count and not before:
        raise EventError(f"call {call}: the journal {journal} has no such call")


def repair(journal: JournalPlace = DEFAULT_JOURNAL) -> None:
    """Save what can be read of a damaged journal into a new one; the damaged file is kept under another name."""
    from bcaf_stream.events.journal.repair import repair as repair_journal

    file = journal_at(journal).file
    if file is None:
        raise UsageError(f"journal {journal}: PostgreSQL repairs its own tables; see its manual on backups")
    kept, lost, broken = repair_journal(file, time.time())
    if broken is None:
        print(f"journal {journal}: nothing is damaged; {kept} events")
        return
    missing = "nobody can tell how many were" if lost is None else str(lost)
    print(f"journal {journal}: {kept} events kept, {missing} lost; the damaged file is {broken}")


def calls(journal: JournalPlace = DEFAULT_JOURNAL) -> None:
    """List the calls of the journal, with how many events and which emotion each has most."""
    with Journal(journal_at(journal), read_only=True) as opened:
        rows = opened.calls()
    table = Table()
    table.add_column("call", overflow="fold")  # an id is copied into the next command: never cut
    for column in ("events", "utterances", "dominant emotion", "ended"):
        table.add_column(column)
    for name, *counts, emotion, ended in rows:
        table.add_row(*map(cell, (name, *counts, emotion or "", "yes" if ended else "no")))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    console.print(table)


@keys_app.command("new")
def keys_new(name: Annotated[str, typer.Argument(help="the client's")], folder: Folder = DEFAULT_KEYS) -> None:
    """Make a key for a client; give it the file, and nobody else."""
    from bcaf_stream.events.auth import KeyRing

    print(KeyRing(folder).new(name))


@keys_app.command("allow")
def keys_allow(
    name: Annotated[str, typer.Argument(help="the client's")],
    topics: Annotated[list[str], typer.Option(help="what it may read, for instance emo.v1.CALL.")],
    folder: Folder = DEFAULT_KEYS,
) -> None:
    """Let a client read the topics with these beginnings, and no others."""
    from bcaf_stream.events.auth import KeyRing

    topics = KeyRing(folder).allow(name, topics)
    print(f"{name} may read {', '.join(topics)}")


@keys_app.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="the client's")], folder: Folder = DEFAULT_KEYS) -> None:
    """Shut a client out; a running hub notices within a second."""
    from bcaf_stream.events.auth import KeyRing

    KeyRing(folder).revoke(name)
    print(f"{name} may read nothing any more")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (listen, replay, export, erase, repair, calls):
        app.command()(command)
    app.add_typer(keys_app, name="keys")


def _show(source: Iterable[Event], format: Literal["table", "jsonl", "csv"], until_end: bool) -> None:
    if format == "csv":
        _write(_until_end(source, until_end), sys.stdout, "csv")
        return
    with EventView(format, live=True) as view:
        for event in _until_end(source, until_end):
            view.add(event)


def _until_end(source: Iterable[Event], until_end: bool) -> Iterator[Event]:
    for event in source:
        yield event
        if until_end and event.type == "call.end":
            return


def events_of_call(journal: Journal, call: str) -> Iterator[Event]:
    """The events of a call of the journal, of which there must be one."""
    events = journal.read(call=call)
    first = next(events, None)
    if first is None:
        raise EventError(f"call {call}: the journal {journal.name} has no such call; see bcaf-stream calls")

    def all_of_them() -> Iterator[Event]:
        yield first
        yield from events

    return all_of_them()


def _write(events: Iterable[Event], out: TextIO, format: Literal["jsonl", "csv"]) -> None:
    rows = csv.writer(out)
    if format == "csv":
        rows.writerow(COLUMNS)
    for event in events:
        if format == "csv":
            rows.writerow([csv_cell(getattr(event, name)) for name in COLUMNS])
        else:
            out.write(json_for_terminal(to_json(event)) + "\n")
        out.flush()


def _write_parquet(events: Iterable[Event], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    maps = [to_map(event) for event in events]
    probs = pyarrow.map_(pyarrow.string(), pyarrow.float64())
    names = dict.fromkeys(("probs", "audio_probs", "text_probs"), probs)
    for fields in maps:
        for name in names:
            fields[name] = fields[name] and list(fields[name].items())
    table = pyarrow.Table.from_pylist([{k: v for k, v in m.items() if k not in names} for m in maps])
    for name, kind in names.items():
        table = table.append_column(name, pyarrow.array([fields[name] for fields in maps], kind))
    pyarrow.parquet.write_table(table, path)
