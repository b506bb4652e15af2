"""Packets of one channel in any order -> contiguous chunks and gaps; for protocols that tell positions.

A packet carries a position on the sender's clock and, mostly, a number. The number gives the order and says
whether something is missing; the position says how long what is missing was. What has not come although
later sound of the call is `wait` samples past it is given up, and what comes after that is late.
"""

import numpy as np

from bcaf_stream.ingest.jitter import Arrival, BufferedPacket, JitterBuffer, JitterPolicy
from bcaf_stream.types import AudioChunk, Gap, PcmN

LOST = "lost"
SILENT = "nothing sent"
NOT_STARTED = "not started"
DISCONNECTED = "connection lost"
JITTER_MS = 60  # by how much a sender's clock may deviate while its numbers show that nothing is missing
IDLE_MS = 200  # a track that is silent for longer than `wait` and this is said to be silent
MAX_WAITING = 1000  # packets; more than a bound of 10 s ever needs
MAX_WAITING_S = 30  # of sound in them


class Track:
    """One channel of a call; `late` counts packets that came twice, or after they were given up.

    A packet's timestamp is its position in the call; its payload are the samples.

    Args:
        before: why nothing has come before its first sound.
    """

    def __init__(self, channel: str, rate: int, before: str = NOT_STARTED) -> None:
        self._channel = channel
        self._rate = rate
        self._before = before
        policy = JitterPolicy(MAX_WAITING, max_samples=MAX_WAITING_S * rate)
        self._buffer: JitterBuffer[PcmN] = JitterBuffer(policy, first=0)
        self._started = False
        self._filled_to = 0  # up to here the time of the channel has passed without its sound
        self.end = 0
        self.late = 0

    def push(self, packet: BufferedPacket[PcmN]) -> None:
        """Take a packet; `release` gives out what can be given out."""
        if packet.duration:
            passed = packet.end <= self._filled_to
            self.late += passed or self._buffer.push(packet) is not Arrival.NEW

    def release(self, horizon: int, now: int) -> list[AudioChunk | Gap]:
        """What continues the channel; all that is missing before `horizon` is given up.

        Args:
            now: wall clock (unix ns) at which silence was received, as it were.
        """
        items: list[AudioChunk | Gap] = []
        while first := self._buffer.first:
            follows = self._buffer.continues(first)
            popped = self._buffer.pop(upto=max(horizon, self.end + self._tolerance(first, follows)))
            if not popped:
                return items
            items += self._take(first, follows)
        return items + self._fill(horizon, now)

    @property
    def expected(self) -> int:
        """Where a packet belongs whose sender does not say."""
        return max(self.end, self._buffer.last.end) if self._buffer.last else self.end

    def flush(self, now: int) -> list[AudioChunk | Gap]:
        """All that is still here."""
        return self.release(self._buffer.last.timestamp, now) if self._buffer.last else []

    def _tolerance(self, packet: BufferedPacket[PcmN], follows: bool) -> int:
        if follows:
            return JITTER_MS * self._rate // 1000
        return max(packet.duration // 2, self._rate // 1000)  # positions are told in whole milliseconds

    def _take(self, packet: BufferedPacket[PcmN], follows: bool) -> list[AudioChunk | Gap]:
        items: list[AudioChunk | Gap] = []
        samples = packet.payload
        if packet.timestamp - self.end > self._tolerance(packet, follows):
            reason = (SILENT if follows else LOST) if self._started else self._before
            items.append(Gap(self._channel, self.end, packet.timestamp, reason))
            self.end = packet.timestamp
        # Overlaps are the sender's jitter and all of it is sound, unless the time was given up already.
        samples = samples[max(0, self._filled_to - packet.timestamp) :] if self._filled_to else samples
        items.append(AudioChunk(self._channel, self.end, self._rate, samples, packet.received_at))
        self.end += len(samples)
        self._started = True
        self._filled_to = 0
        return items

    def _fill(self, limit: int, now: int) -> list[AudioChunk | Gap]:
        """Time passes without the channel while others speak: a gap says so once, silence goes on after it."""
        missing_ms = (limit - self.end) * 1000 // self._rate
        begun = self._filled_to > 0
        if missing_ms < (20 if begun else IDLE_MS):
            return []
        start, self.end, self._filled_to = self.end, limit, limit
        if begun and missing_ms <= 1000:
            return [AudioChunk(self._channel, start, self._rate, np.zeros(limit - start, np.int16), now)]
        return [Gap(self._channel, start, limit, SILENT if self._started else self._before)]
