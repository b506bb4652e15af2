"""Pauses of a sender in real time whose protocol has no clock: time without samples is a gap, not lost time.

Such a sender's stream time is its count of samples, so that a pause would put all that follows too early. A
network that stands still looks the same at first; but what it held up comes at once afterwards, and nothing is
missing. What comes after a pause is therefore held back until it has caught up with the wall clock, or for
HOLD_MS, after which what has not come is missing. A sender that is ahead of the wall clock has that much less to
miss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bcaf_stream.codecs import decode_linear
from bcaf_stream.ingest.jitter import BufferedPacket, JitterBuffer, JitterPolicy
from bcaf_stream.types import AudioChunk, Gap, PcmN

NOTHING_SENT = "nothing sent"
PAUSE_MS = 500  # without sound; networks and schedulers delay by less
HOLD_MS = 250
MAX_HELD = 100_000  # pieces held back at once,
MAX_HELD_S = 120  # and sound in them: of a longer pause the rest is missing, whatever comes later
_MS = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    samples: PcmN
    received_at: int


@dataclass(frozen=True, slots=True)
class Missing:
    """So many samples never came."""

    samples: int


class PauseFinder:
    """The sound of one sender at `rate`; `received_at` is unix time in ns.

    A pause is a hole in the numbers of the jitter buffer, and how long it was is known when what came after it has
    waited there.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        policy = JitterPolicy(MAX_HELD, max_samples=MAX_HELD_S * rate, max_delay_ns=HOLD_MS * _MS)
        self._buffer: JitterBuffer[Heard] = JitterBuffer(policy, first=0)
        self._sequence = self._end = 0
        self._heard_at: int | None = None
        self._ahead = 0  # ns that the sender is ahead of the wall clock
        self._missing = 0  # ns of the pause before what the buffer holds

    def push(self, samples: PcmN, received_at: int) -> list[Heard | Missing]:
        """The next sound; what it is certain of by now."""
        out: list[Heard | Missing] = []
        length = len(samples) * 1_000_000_000 // self._rate
        pause = received_at - (received_at if self._heard_at is None else self._heard_at) - length
        self._heard_at = received_at
        if pause > PAUSE_MS * _MS:
            out += self.flush()
            self._sequence += 1
            self._missing, self._ahead = max(0, pause - self._ahead), 0
        elif not self._buffer:
            self._ahead = max(0, self._ahead - pause)
        heard = Heard(samples, received_at)
        self._buffer.push(BufferedPacket(self._sequence, self._end, len(samples), heard, received_at))
        self._sequence += 1
        self._end += len(samples)
        return [*out, *self._release(received_at)]

    def flush(self) -> list[Heard | Missing]:
        """All that is held back: nothing more will tell."""
        return list(self._release(None))

    def _release(self, now: int | None) -> Iterator[Heard | Missing]:
        caught_up = self._caught_up()
        certain = now is None or caught_up >= self._missing
        while popped := self._buffer.pop(now, drain=certain):
            packet, after_pause = popped
            if after_pause:
                missing = (self._missing - caught_up) * self._rate // 1_000_000_000
                if missing > 0:
                    yield Missing(missing)
                self._missing, self._ahead = 0, max(0, caught_up - self._missing)
            yield packet.payload

    def _caught_up(self) -> int:
        """By how much what came after the pause was faster than the wall clock, in ns."""
        first, last = self._buffer.first, self._buffer.last
        if first is None or last is None:
            return 0
        return max(
            0, (last.end - first.end) * 1_000_000_000 // self._rate - (last.received_at - first.received_at)
        )


class PcmStream:
    """Interleaved 16 bit samples of all channels, in pieces of any size, whose sender has no clock -> their media.

    Args:
        channels: their names, in the order of the samples.
        real_time: the sender is never faster than speech, so that its pauses are gaps.
    """

    def __init__(self, channels: Sequence[str], rate: int, real_time: bool) -> None:
        self._channels = channels
        self._rate = rate
        self._pauses = PauseFinder(rate) if real_time else None
        self._bytes = b""  # of a sample that has not come as a whole
        self.end = 0  # of each channel, gaps included

    @property
    def is_whole(self) -> bool:
        """Whether no part of a sample is missing."""
        return not self._bytes

    def push(self, data: bytes, received_at: int) -> list[AudioChunk | Gap]:
        """What these bytes continue, however they were cut."""
        data = self._bytes + data if self._bytes else data
        whole = len(data) - len(data) % (2 * len(self._channels))
        self._bytes = data[whole:]
        if not whole:
            return []
        samples_NC = decode_linear(data[:whole]).reshape(-1, len(self._channels))
        return self._items(
            self._pauses.push(samples_NC, received_at) if self._pauses else [Heard(samples_NC, received_at)]
        )

    def flush(self) -> list[AudioChunk | Gap]:
        """The sound that is held back after a pause; a part of a sample is dropped."""
        return self._items(self._pauses.flush()) if self._pauses else []

    def _items(self, found: Sequence[Heard | Missing]) -> list[AudioChunk | Gap]:
        items: list[AudioChunk | Gap] = []
        for part in found:
            start = self.end
            self.end += part.samples if isinstance(part, Missing) else len(part.samples)
            for column, channel in enumerate(self._channels):
                if isinstance(part, Missing):
                    items.append(Gap(channel, start, self.end, NOTHING_SENT))
                else:
                    leg_N = np.ascontiguousarray(part.samples[:, column])
                    items.append(AudioChunk(channel, start, self._rate, leg_N, part.received_at))
        return items
