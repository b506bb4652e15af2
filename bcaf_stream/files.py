"""Files that are replaced as a whole, so that nobody ever has half of one; and files that hold a secret."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bcaf_stream.errors import EventError


@contextmanager
def replacing(path: Path, mode: int = 0o666, sync: bool = False, shared: bool = False) -> Iterator[Path]:
    """The name of an empty draft beside `path`, which takes its place when the block ends without an error.

    `mode` is the file's from its first moment, less the umask; with `sync` its content survives a power cut;
    `shared`: other processes may replace it at the same time, and the last one wins. Of a link its target is
    replaced. What is no file (/dev/null, a pipe) is written itself: nothing takes its place.

    Raises:
        OSError, ValueError: it cannot be written there; what was there before is as it was.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.part" if shared else f".{path.name}.part")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield draft
        if sync:
            sync_to_disk(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Wait until the file's content, or a folder's names, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read_private(path: Path, what: str, make: str = "") -> str:
    """The one line of a file that only its owner may read; `make` is a command that writes one.

    Raises:
        EventError: it cannot be read, others may read it too, or it holds no line of ASCII.
    """
    way_out = f"; make one: {make}" if make else ""
    try:
        if path.stat().st_mode & 0o077:
            raise EventError(f"{path}: others may read this {what}: chmod 600 {path}")
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise EventError(f"{path}: cannot be read: {error.strerror}{way_out}") from None
    except UnicodeDecodeError:
        raise EventError(f"{path}: holds no {what}: it is not ASCII{way_out}") from None
    if not text or len(text.splitlines()) != 1:
        raise EventError(f"{path}: must hold one line, the {what}{way_out}")
    return text
