"""What every command line shares: one-line errors with the right exit code, whole files, the view of events.

Exit codes: 0 done, 1 failed at run time, 2 wrong usage, 130 interrupted. Whatever is shown here and came from
outside (ids, names, words) is data: it passes through `bcaf_stream.display`.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn, TextIO

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.exceptions import TyperException

from bcaf_stream.display import json_for_terminal, printable
from bcaf_stream.errors import BcafError, UsageError
from bcaf_stream.events.codec import to_json
from bcaf_stream.events.event import Event
from bcaf_stream.files import replacing

Format = Literal["table", "jsonl"]

EMOTION_COLOURS = {  # Okabe and Ito's palette: told apart by colour-blind readers too
    "anger": "#D55E00",
    "disgust": "#8C6D1F",
    "fear": "#CC79A7",
    "joy": "#E69F00",
    "neutral": "#8A8A8A",
    "sadness": "#0072B2",
    "surprise": "#009E73",
}
OTHER_COLOUR = "#56B4E9"  # labels of other corpora


def run(app: typer.Typer, name: str) -> None:
    """Run a command line and leave the process with its exit code; errors are one line on stderr."""
    try:
        code = app(prog_name=name, standalone_mode=False)
    except TyperException as error:
        message = " ".join(error.format_message().split())
        code = error.exit_code
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
        else:
            print(f"{name}: {printable(message)} (see {name} --help)", file=sys.stderr)
    except BcafError as error:
        print(f"{name}: {printable(error)}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(f"{name}: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; keep Python from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def leave(done: SystemExit) -> NoReturn:
    """End the process at once, as `done` says, when all that was written is out; nothing is taken apart before."""
    code = done.code if isinstance(done.code, int) else int(done.code is not None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass  # the reader has seen enough
    os._exit(code)


def clock(ms: int | None) -> str:
    """Stream time as m:ss.t."""
    if ms is None:
        return ""
    minutes, rest = divmod(ms, 60_000)
    return f"{minutes}:{rest // 1000:02d}.{rest % 1000 // 100}"


def lag_ms(event: Event) -> int | None:
    """Wall-clock milliseconds from the end of the speech to the event; None where there was no clock."""
    if not event.speech_ended_at or not event.emitted_at:
        return None
    return max(0, (event.emitted_at - event.speech_ended_at) // 1_000_000)


def who(event: Event) -> str:
    """Whose utterance it is: its channel, and the speaker where several share that."""
    return f"{event.channel} {event.speaker}" if event.speaker else event.channel


def line(event: Event, show_lag: bool = False, show_call: bool = False) -> str:
    """One plain line for a pipe."""
    if event.type == "alert":
        about = event.channel or event.call
        summary = (event.annotations or {}).get("summary", "")
        return printable(
            f"{clock(event.end_ms):>8}  alert  {about}  {event.rule} {event.state}  {summary}".rstrip()
        )
    if event.emotion is None:
        about = event.call if event.type in ("call.start", "call.end") else event.channel
        return printable(f"{clock(event.end_ms):>8}  {event.type}  {about}  {event.reason or ''}".rstrip())
    words = event.text if event.text is not None else "(no words)"
    if event.type == "emotion.revised":
        words = f"{words}  (revised)"
    lag = lag_ms(event) if show_lag else None
    late = f"  +{lag} ms" if lag is not None else ""
    call = f"{event.call}  " if show_call else ""
    return printable(
        f"{clock(event.start_ms):>8}  {call}{who(event):<9} {event.emotion:<9}"
        f"{event.confidence or 0:4.0%}{late}  {words}"
    )


class EventView:
    """Shows events as they come: a table in a terminal, plain lines in a pipe, or JSON lines.

    `live` is for a running call: the table grows as events arrive, and tells how long after the end of the
    speech each one came; what is felt while somebody speaks stands at its end until the final event replaces it.
    Otherwise the table is printed once, at the end. A revised event takes the place of the one that it replaces.
    """

    def __init__(self, format: Format, out: TextIO | None = None, live: bool = False, title: str = "") -> None:
        self._out = out or sys.stdout
        self._format = format
        self._show_lag = live
        self._console = Console(file=self._out, highlight=False)
        self._rows: dict[object, Event] = {}  # in their order; by utterance where they are about one
        self._speaking: dict[object, Event] = {}
        self._title = title
        self._calls: set[str] = set()  # with more than one, each row says which
        self._live: Live | None = None

    def __enter__(self) -> "EventView":
        self._as_table = self._format == "table" and self._console.is_terminal
        if self._as_table and self._show_lag:
            self._live = Live(
                get_renderable=self._table,
                console=self._console,
                refresh_per_second=4,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            live, self._live = self._live, None
            live.transient = True  # the finished table is printed once, whole, below
            live.stop()
        if self._as_table:
            self._console.print(self._table(whole=True))
        self._out.flush()

    def add(self, event: Event) -> None:
        self._calls.update([event.call] if event.call else [])
        for was, becomes in (event.relabelled or {}).items():
            for key, row in self._rows.items():
                if (row.call, row.channel, row.speaker) == (event.call, event.channel, was):
                    self._rows[key] = replace(row, speaker=becomes)
        if self._format == "jsonl":
            self._out.write(json_for_terminal(to_json(event)) + "\n")
            self._out.flush()
        elif self._as_table:
            key = (event.call, event.channel, event.utterance) if event.emotion is not None else event.id
            self._speaking.pop(key, None)
            (self._speaking if event.type == "emotion.interim" else self._rows)[key] = event
        elif event.type not in ("heartbeat", "emotion.interim"):
            self._out.write(line(event, self._show_lag, len(self._calls) > 1) + "\n")
            self._out.flush()

    def _table(self, whole: bool = False) -> Table:
        title = cell(self._title) if self._title else None
        table = Table(title=title, title_justify="left", expand=False)
        table.add_column("time", justify="right", no_wrap=True)
        if len(self._calls) > 1:
            table.add_column("call", no_wrap=True)
        table.add_column("role", no_wrap=True)
        table.add_column("text", ratio=1)
        table.add_column("emotion", no_wrap=True)
        table.add_column("conf.", justify="right", no_wrap=True)
        if self._show_lag:
            table.add_column("after speech", justify="right", no_wrap=True)
        rows = [*self._rows.values(), *([] if whole else self._speaking.values())]
        shown = [e for e in rows if e.emotion is not None or e.type in ("degraded", "alert", "audio.gap")]
        room = len(shown) if whole else max(3, self._console.height - 8)
        for event in shown[-room:]:
            table.add_row(*self._row(event))
        return table

    def _row(self, event: Event) -> list[Text]:
        if event.emotion is None:
            about = f"{event.channel} {event.reason or ''}".strip()
            cells = [clock(event.end_ms), "", cell(about, "yellow"), event.type, ""]
        else:
            missing = "(speaking ...)" if event.type == "emotion.interim" else "(no words: audio alone)"
            words = cell(event.text) if event.text is not None else cell(missing, "dim")
            colour = EMOTION_COLOURS.get(event.emotion, OTHER_COLOUR)
            emotion = cell(event.emotion, f"bold {colour}")
            cells = [
                clock(event.start_ms),
                event.speaker or event.role,
                words,
                emotion,
                f"{event.confidence or 0:.0%}",
            ]
        if len(self._calls) > 1:
            cells.insert(1, event.call)
        if self._show_lag:
            lag = None if event.type in ("emotion.interim", "emotion.revised") else lag_ms(event)
            cells.append(f"{lag} ms" if lag is not None else "")
        return [item if isinstance(item, Text) else cell(item) for item in cells]


def cell(value: object, style: str = "") -> Text:
    """A cell or title of a table: plain text, in which Rich reads no markup and a terminal no commands."""
    return Text(printable(value), style)


@contextmanager
def progress_bar(what: str, total_ms: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal, and the function that moves it to a stream time in ms."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task(what, total=total_ms)
        yield lambda ms: progress.update(bar, completed=ms)


@contextmanager
def writing_to(path: Path | None, option: str = "--output") -> Iterator[TextIO]:
    """Standard output, or a file that appears when the work is done: what fails leaves nothing half-written.

    Raises:
        UsageError: it cannot be written there.
    """
    if path is None:
        yield sys.stdout
        return
    with whole_file(path, option) as draft, draft.open("w", encoding="utf-8", newline="") as out:
        yield out


@contextmanager
def whole_file(path: Path, option: str = "--output") -> Iterator[Path]:
    """The name of a draft beside `path`, which replaces it when the block ends without an error.

    Raises:
        UsageError: it cannot be written there.
    """
    with ExitStack() as stack:
        with _refusals_of(path, option):
            draft = stack.enter_context(replacing(path))
        yield draft
        with _refusals_of(path, option):
            stack.close()


@contextmanager
def _refusals_of(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{option} {path}: cannot be written: {reason}") from None


def stderr_note(message: str) -> None:
    """A remark beside the results: on stderr, so that a pipe stays clean."""
    print(printable(message), file=sys.stderr)


def connection_note(message: str) -> None:
    """What a sender says of its connection."""
    stderr_note(f"bcaf-stream: {message}")
