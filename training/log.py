"""The record of a run: one JSON line per epoch, and the same for TensorBoard."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bcaf_stream.errors import DataError
from training.loop import Record

FILE_NAME = "epochs.jsonl"
LOOK_S = 0.2


class EpochLog:
    """Writes `epochs.jsonl` and `tensorboard/` in a folder. A resumed run drops the lines it will write again."""

    def __init__(self, folder: Path, kept: Sequence[Record] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import, and most workers write no log

        self._path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            # Steps from the purged one on are hidden by TensorBoard: they belong to epochs that never committed.
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(kept) + 1)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from None

    def add(self, record: Record) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if name != "epoch":
                self._board.add_scalar(name.replace("_", "/", 1), value, record["epoch"])
        self._board.flush()

    def close(self) -> None:
        self._board.close()


def read_epochs(folder: Path) -> list[Record]:
    path = folder / FILE_NAME
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


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
    seen = {record["epoch"] for record in read_epochs(folder)}

    def look() -> None:
        for record in read_epochs(folder):
            if record["epoch"] not in seen:
                seen.add(record["epoch"])
                on_epoch(record)

    def follow() -> None:
        while not over.wait(LOOK_S):
            look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
