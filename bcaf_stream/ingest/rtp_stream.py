"""The packets of one RTP stream, in any order -> sound and gaps in the order of time, without a break.

A jitter buffer: what continues is given out at once; behind a missing packet the later ones wait until they span
`jitter_ms`, or until that much time has passed, and then it is lost. A stream starts, or starts anew (with another
SSRC or a sequence number far away: RFC 3550, sections 5.1 and 8), with two of its packets in a row, so that one
stray packet changes nothing (RFC 3550, appendix A.1).

Numbers are modulo 2**16 and 2**32 on the wire and whole here. Sequence numbers say what is missing, timestamps
how long it was: a jump of the timestamp alone is silence that was not sent.
"""

from dataclasses import dataclass

import numpy as np

from bcaf_stream.ingest.rtp_packets import PcmNC
from bcaf_stream.ingest.rtp_source import Counts, Held, Source, akin, unwrapped

LOST = "lost"
SILENT = "silence not sent"
CHANGED = "the sender changed"
NOT_STARTED = "not started"

MAX_WAITING = 500  # packets, whatever their timestamps say
MAX_JUMP_S = 60  # of the timestamp; a longer one is a clock that was set, and the wall clock is believed
TOLD_AGAIN_S = 10  # silence that has been told of goes on as sound of zeros, unless that much comes at once
ROUNDING_MS = 10  # by how much timestamps may deviate while the numbers show that nothing is missing


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    start: int
    samples_NC: PcmNC
    received_at: int


@dataclass(frozen=True, slots=True)
class Silence:
    start: int
    end: int
    reason: str


Span = Sound | Silence


class RtpStream:
    """Puts the packets of one port in order; positions are samples of the call, whose 0 is at `origin`."""

    def __init__(self, rate: int, channels: int, jitter_ms: int, counts: Counts) -> None:
        self.rate = rate
        self.end = 0
        self.origin: int | None = None  # wall clock, unix ns; None until a stream has begun the call
        self._channels = channels
        self._jitter = jitter_ms * rate // 1000
        self._jitter_ns = jitter_ms * 1_000_000
        self._rounding = ROUNDING_MS * rate // 1000
        self._counts = counts
        self._source: Source | None = None
        self._left: int | None = None  # the SSRC that was heard before
        self._strangers: list[Held] = []
        self._run = 0  # how many strangers came with no packet of the source between them
        self._heard_at = 0  # the wall clock when the position was `_heard_end`
        self._heard_end = 0
        self._missing = 0  # packets since the last sound
        self._quiet = self._changed = self._passing = False

    @property
    def ssrc(self) -> int | None:
        """The source that is heard."""
        return self._source.ssrc if self._source else None

    def align(self, origin: int) -> None:
        """Another stream has begun the call."""
        self.origin = self._heard_at = origin

    def push(self, held: Held) -> list[Span]:
        """Take a packet, and give out what is in order now."""
        source = self._source
        if source is None or not source.knows(held.packet):
            return self._stranger(held)
        self._run = 0
        source.take(held, self._counts)
        return self._release(held.received_at)

    def advance(self, now: int) -> list[Span]:
        """Time has passed: what has waited for too long waits no more."""
        return self._release(now)

    def flush(self) -> list[Span]:
        """All that is still here."""
        return self._release(None)

    def fill(self, to: int, received_at: int) -> list[Span]:
        """Time passes without this stream: one gap says so, and silence goes on after it."""
        return self._pass_time(to, SILENT if self.end else NOT_STARTED, received_at)

    def report(self, timestamp: int, now: int) -> list[Span]:
        """The sender says how far its clock is: what it has not sent by then is silence, if our clock agrees."""
        source = self._source
        if source is None or source.next is None or source.waiting:
            return []
        position = unwrapped(timestamp, source.timestamp, 32) + source.offset
        elapsed = (now - self._heard_at) * self.rate // 1_000_000_000
        if abs(self._heard_end + elapsed - position) > self.rate or position - self.end < self.rate:
            return []
        return self._pass_time(position - self.rate // 2, SILENT, now)  # what is on its way may still come

    def _pass_time(self, to: int, reason: str, now: int) -> list[Span]:
        start, self.end = self.end, to
        if self._passing and reason in (SILENT, NOT_STARTED) and to - start <= TOLD_AGAIN_S * self.rate:
            return [Sound(start, np.zeros((to - start, self._channels), np.int16), now)]
        self._passing = True
        return [Silence(start, to, reason)]

    def _stranger(self, held: Held) -> list[Span]:
        """A packet of another numbering; two in a row replace the one that is heard."""
        packet = held.packet
        if self._source and packet.ssrc == self._left:
            self._counts.foreign += 1
            return []
        if held.samples_NC is None:
            return []
        if self._strangers and not akin(packet, self._strangers[-1].packet):
            self._counts.foreign += len(self._strangers)
            self._strangers, self._run = [], 0
        elif any(other.packet.seq == packet.seq for other in self._strangers):
            self._counts.duplicated += 1
            return []
        self._strangers = [*self._strangers[1 - MAX_WAITING :], held]
        self._run += 1
        return self._switch(held.received_at) if self._run >= 2 else []

    def _switch(self, now: int) -> list[Span]:
        spans = self._release(None)
        first = self._strangers[0]
        if self._source:
            self._counts.restarts += 1
            self._changed = True
            if self._source.ssrc != first.packet.ssrc:
                self._left = self._source.ssrc
        if self.origin is None:
            assert first.samples_NC is not None
            self.align(first.received_at - len(first.samples_NC) * 1_000_000_000 // self.rate)
        self._source = Source(first.packet.ssrc, first.packet.seq, first.packet.timestamp)
        for held in self._strangers:
            self._source.take(held, self._counts)
        self._strangers, self._run = [], 0
        return spans + self._release(now)

    def _release(self, now: int | None) -> list[Span]:
        """Give out what continues, and what must wait no more; now None: all."""
        spans: list[Span] = []
        source = self._source
        while source and source.waiting:
            first = min(source.waiting)
            if first != source.next:
                if not self._waited(source, source.waiting[first][1], now):
                    break
                self._skip(source, first)
            timestamp, held = source.waiting.pop(first)
            source.next = first + 1
            if held.quiet:
                self._quiet = True
                ahead = timestamp + source.offset - self.end
                if self._rounding < ahead < MAX_JUMP_S * self.rate:
                    spans += self._pass_time(self.end + ahead, SILENT, held.received_at)
            elif held.samples_NC is not None and len(held.samples_NC):
                spans += self._sound(source, timestamp, held, held.samples_NC)
        return spans

    def _waited(self, source: Source, first: Held, now: int | None) -> bool:
        if now is None or now - first.received_at >= self._jitter_ns:
            return True
        return source.span() >= self._jitter or len(source.waiting) >= MAX_WAITING

    def _skip(self, source: Source, first: int) -> None:
        """The numbering starts with this number, or what is missing before it is lost."""
        if source.next is None:
            timestamp, held = source.waiting[first]
            position = self._by_wall_clock(held)
            source.offset = (position if position > self.end + self._jitter else self.end) - timestamp
        else:
            self._missing += source.give_up(first, self._counts)

    def _by_wall_clock(self, held: Held) -> int:
        """Where a packet that came now starts in the call."""
        elapsed = (held.received_at - self._heard_at) * self.rate // 1_000_000_000
        length = 0 if held.samples_NC is None else len(held.samples_NC)
        return max(self.end, self._heard_end + elapsed - length)

    def _sound(self, source: Source, timestamp: int, held: Held, samples_NC: PcmNC) -> list[Span]:
        ahead = timestamp + source.offset - self.end
        if not self._missing and abs(ahead) <= self._rounding:
            ahead = 0
        elif ahead < 0 or ahead > MAX_JUMP_S * self.rate + self._by_wall_clock(held) - self.end:
            # The clock stood still or was set, or its time was filled already: no sound is dropped for that.
            ahead = 0 if ahead < 0 else self._by_wall_clock(held) - self.end
            source.offset = self.end + ahead - timestamp
        spans: list[Span] = []
        if ahead:
            reason = self._why(ahead, len(samples_NC))
            spans += self._pass_time(self.end + ahead, reason, held.received_at)
        spans.append(Sound(self.end, samples_NC, held.received_at))
        self.end += len(samples_NC)
        self._heard_at, self._heard_end = held.received_at, self.end
        self._missing = 0
        self._quiet = self._changed = self._passing = False
        return spans

    def _why(self, ahead: int, length: int) -> str:
        """Why that much did not come; packets of the usual length may be missing in it."""
        if not self._heard_end:
            return NOT_STARTED
        if self._changed:
            return CHANGED
        return LOST if self._missing and not self._quiet and ahead <= 2 * self._missing * length else SILENT
