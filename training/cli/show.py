"""What the commands show beside their results."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console() -> "Console":
    """Wide enough for the tables where nobody says how wide the terminal is."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def progress(rows: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """A bar on standard error, so that what is printed stays clean in a pipe."""
    from rich.console import Console
    from rich.progress import track

    return track(rows, description=what, total=total, console=Console(stderr=True), transient=True)
