"""The record of a run: one JSON line per epoch, and the same for TensorBoard."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bcaf_stream.errors import DataError
from bcaf_stream.loops import spawn_thread
from training.trainer import Record

FILE_NAME = "epochs.jsonl"
LOOK_S = 0.2


class EpochLog:
    """Writes `epochs.jsonl` and `tensorboard/` in a folder. A resumed run drops the lines it will write again.

    Raises:
        DataError: they cannot be written (at creation, and by `add`).
    """

    def __init__(self, folder: Path, kept: Sequence[Record] = ()) -> None:
        from training.board import Board  # TensorBoard takes its time to import, and most workers write no log

        make_folder(folder)
        self._path = folder / FILE_NAME
        with writing(folder):
            self._path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            # Later steps that older files have belong to epochs that never committed.
            self._board = Board(folder / "tensorboard", first_step=len(kept) + 1)

    def add(self, record: Record) -> None:
        scalars = {name.replace("_", "/", 1): value for name, value in record.items() if name != "epoch"}
        with writing(self._path.parent):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            self._board.add(record["epoch"], scalars)

    def close(self) -> None:
        self._board.close()


def read_epochs(folder: Path) -> list[Record]:
    """The lines of the log; one that was cut short, and what follows it, will be written again."""
    path = folder / FILE_NAME
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def make_folder(folder: Path) -> None:
    """Asked for before anything takes long. Raises DataError."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from None


def shown(record: Record) -> str:
    """One line for a person."""
    return (
        f"epoch {record['epoch']:>3}  loss {record['train_total']:.4f}  dev weighted F1"
        f" {100 * record['dev_weighted_f1']:.2f}  {record['utterances_per_s']:.0f} utterances/s"
    )


@contextmanager
def following(folder: Path, on_epoch: Callable[[Record], None]) -> Iterator[None]:
    """Call `on_epoch` for what another process appends to the log meanwhile."""
    over = threading.Event()
    seen = {json.dumps(record) for record in read_epochs(folder)}  # whole lines: an epoch may be trained again

    def look() -> None:
        for record in read_epochs(folder):
            if (line := json.dumps(record)) not in seen:
                seen.add(line)
                on_epoch(record)

    def follow() -> None:
        while not over.wait(LOOK_S):
            look()

    thread = spawn_thread("epoch log", follow)
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
