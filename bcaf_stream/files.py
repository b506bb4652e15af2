"""Files that are replaced as a whole: whoever reads one, or dies while writing it, never has half of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, mode: int = 0o666, sync: bool = False, shared: bool = False) -> Iterator[Path]:
    """The name of an empty draft beside `path`, which takes its place when the block ends without an error.

    `mode` is the file's from its first moment, less the umask; with `sync` its content survives a power cut;
    `shared`: other processes may replace it at the same time, and the last one wins.

    Raises:
        OSError, ValueError: it cannot be written there; what was there before is as it was.
    """
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
