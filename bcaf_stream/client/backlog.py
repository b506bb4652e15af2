"""The last of a call's sound, kept so that it can be sent, or sent again after a connection was lost."""

from collections.abc import Callable, Iterator

import numpy as np

from bcaf_stream.errors import LinkError
from bcaf_stream.types import PcmN


class Backlog:
    """A ring of `capacity` samples of each of C channels; samples are counted from the call's first one.

    It holds `start` to before `end`; `cursor` is the next one to send, and what lies before `done` is analysed.
    What is pushed when the ring is full takes the place of the oldest; `room` says how much may come before that
    hits what may have to be sent again.
    """

    def __init__(self, channels: int, capacity: int) -> None:
        self._ring_NC = np.zeros((capacity, channels), np.int16)  # pages that are never used cost nothing
        self.end = self.cursor = self.done = 0
        self._first = 0

    @property
    def start(self) -> int:
        return max(self._first, self.end - len(self._ring_NC))

    @property
    def unsent(self) -> int:
        return self.end - self.cursor

    @property
    def room(self) -> int:
        return max(0, len(self._ring_NC) - (self.end - min(self.cursor, self.done)))

    def skip(self, to: int) -> None:
        """Begin there instead of with the call's first sample; before anything is pushed."""
        self._first = self.end = self.cursor = self.done = to

    def push(self, samples_NC: PcmN) -> None:
        """Take a copy of the next samples.

        Raises:
            LinkError: they are not int16, or not of the call's channels.
        """
        size, channels = self._ring_NC.shape
        if samples_NC.dtype != np.int16 or samples_NC.shape[1:] != (channels,):
            shape = f"int16 of shape (N, {channels})"
            raise LinkError(f"audio must be {shape}, not {samples_NC.dtype} of {samples_NC.shape}")
        self.end += len(samples_NC)
        kept_NC = samples_NC[-size:]
        at = (self.end - len(kept_NC)) % size
        before_the_edge = min(len(kept_NC), size - at)
        self._ring_NC[at : at + before_the_edge] = kept_NC[:before_the_edge]
        self._ring_NC[: len(kept_NC) - before_the_edge] = kept_NC[before_the_edge:]

    def piece(self, most: int) -> PcmN:
        """A copy of the samples from `cursor` on: at least one, unless all are sent, and at most `most`."""
        at = self.cursor % len(self._ring_NC)
        return self._ring_NC[at : at + min(most, self.unsent)].copy()


class SecondReading:
    """The sound of a call from its source, read once more; `again` yields it from a sample on."""

    def __init__(self, again: Callable[[int], Iterator[PcmN]]) -> None:
        self._again = again
        self._at = -1
        self._parts: Iterator[PcmN] = iter(())
        self._part_NC: PcmN | None = None

    def piece(self, start: int, count: int) -> PcmN:
        """From `start` on; forward is cheap, anything else opens the source again.

        Raises:
            LinkError: the source is shorter than it was.
            SourceError: it cannot be read any more.
        """
        if start != self._at or self._part_NC is None:
            self._parts = self._again(start)
            self._part_NC = self._more()
        while len(self._part_NC) < count:
            self._part_NC = np.concatenate([self._part_NC, self._more()])
        piece_NC, self._part_NC = self._part_NC[:count], self._part_NC[count:]
        self._at = start + count
        return piece_NC

    def _more(self) -> PcmN:
        part_NC = next(self._parts, None)
        if part_NC is None:
            raise LinkError("the sound that has to be sent again has become shorter: was the file changed?")
        return part_NC
