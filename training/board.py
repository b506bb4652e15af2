"""TensorBoard's event file, written before each call returns.

The writers that TensorBoard and torch bring write from a thread of their own: on a full disk the error comes up
there, as a traceback, after the line that named it.
"""

import time
from contextlib import suppress
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

VERSION = "brain.Event:2"  # of the format; the first record of every file says it


class Board:
    """One event file in `folder`; TensorBoard hides what older files there say of steps from `first_step` on.

    Raises:
        OSError: it cannot be written (at creation, and by `add`).
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}").open("wb")
        self._writer = RecordWriter(self._file)
        try:
            self._write(Event(file_version=VERSION))
            self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
        except OSError:
            self.close()
            raise

    def add(self, step: int, scalars: dict[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was said then
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._file.flush()
