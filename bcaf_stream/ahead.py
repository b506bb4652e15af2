"""An iterator that runs ahead on a thread of its own: the next items are made while the last ones are used."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from bcaf_stream.loops import spawn_thread

T = TypeVar("T")

_STOPPING_S = 0.1  # how often a full queue looks whether anybody still wants its items


class _End:
    """The last thing in the queue: `error` is what the source raised, None where it was exhausted."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Filler(Generic[T]):
    """Moves the items of a source into a bounded queue."""

    def __init__(self, source: Iterable[T], depth: int) -> None:
        self.items: queue.Queue[T | _End] = queue.Queue(depth)
        self.stopped = threading.Event()
        self._source = source

    def run(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    return
            self._put(_End(None))
        except BaseException as error:  # raised again where the items are used
            self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        while not self.stopped.is_set():
            try:
                self.items.put(item, timeout=_STOPPING_S)
                return True
            except queue.Full:
                continue
        return False


def ahead(source: Iterable[T], depth: int, most: int) -> Iterator[list[T]]:
    """The items of `source` in order, in lists of what is ready: 1 to `most`; at most `depth` wait.

    An error of the source is raised here, after the items before it. Leaving early ends the thread.
    """
    filler = _Filler(source, depth)
    thread = spawn_thread("ahead", filler.run)
    end: _End | None = None
    try:
        while end is None:
            ready: list[T] = []
            item = filler.items.get()
            while not isinstance(item, _End):
                ready.append(item)
                if len(ready) == most or filler.items.empty():
                    break
                item = filler.items.get()
            end = item if isinstance(item, _End) else None
            if ready:
                yield ready
        if end.error is not None:
            raise end.error
    finally:
        filler.stopped.set()
        thread.join()
