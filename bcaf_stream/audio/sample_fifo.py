"""A queue of decoded sound: blocks and silences in, any number of samples out."""

from collections import deque

import numpy as np

from bcaf_stream.audio.track_clock import BlockCN, Silence


class SampleFifo:
    """Blocks and silences in, samples out; silence takes no memory until it is read."""

    def __init__(self, channels: int) -> None:
        self.samples = self.written = 0
        self._channels = channels
        self._items: deque[BlockCN | Silence] = deque()

    def write(self, item: BlockCN | Silence) -> None:
        count = _length(item)
        if count:
            self._items.append(item)
            self.samples += count
            self.written += count

    def read(self, count: int) -> BlockCN:
        """At most `count` samples."""
        parts: list[BlockCN] = []
        while count and self._items:
            item = self._items.popleft()
            taken = min(count, _length(item))
            if taken < _length(item):
                rest = Silence(item.samples - taken) if isinstance(item, Silence) else item[:, taken:]
                self._items.appendleft(rest)
            parts.append(
                np.zeros((self._channels, taken), np.int16) if isinstance(item, Silence) else item[:, :taken]
            )
            count -= taken
            self.samples -= taken
        if not parts:
            return np.zeros((self._channels, 0), np.int16)
        return np.ascontiguousarray(np.concatenate(parts, axis=1))


def _length(item: BlockCN | Silence) -> int:
    return item.samples if isinstance(item, Silence) else int(item.shape[1])
