"""The packets of one RTP stream, in any order -> sound and gaps in the order of time, without a break.

In the jitter buffer packets wait behind a missing one until they span `jitter_ms`, or until that much time has
passed, and then it is lost. A stream starts, or starts anew (with another
SSRC or a sequence number far away: RFC 3550, sections 5.1 and 8), with two packets in the order of their numbers,
so that one stray packet changes nothing (probation: RFC 3550, appendix A.1). While the source that is heard goes
on, another one is not heard, and that is said: packets do not tell which side of a call they are, and a guess may
give words to the wrong person. It takes over when the first one falls silent, or was not heard for TAKEOVER
packets; what it has sent since then is kept.

Numbers are modulo 2**16 and 2**32 on the wire and whole here. Sequence numbers say what is missing, timestamps
how long it was: a jump of the timestamp alone is silence that was not sent.
"""

from dataclasses import dataclass

import numpy as np

from bcaf_stream.ingest.jitter import BufferedPacket, JitterBuffer, JitterPolicy, unwrapped
from bcaf_stream.ingest.protocols.rtp_packets import PcmNC
from bcaf_stream.ingest.protocols.rtp_source import Counts, RtpMedia, Source, same_sequence

LOST = "lost"
SILENT = "silence not sent"
CHANGED = "the sender changed"
NOT_STARTED = "not started"

MAX_WAITING = 500  # packets, whatever their timestamps say
MAX_JUMP_S = 60  # of the timestamp; a longer one is a clock that was set, and the wall clock is believed
TOLD_AGAIN_S = 10  # silence that has been told of goes on as sound of zeros, unless that much comes at once
SILENT_MS = 100  # how long a source is silent before another one takes its place
TAKEOVER = 10  # packets of another source in a row which say the same
SOURCES = 4  # on probation at once
RIVAL = 50  # packets of another source beside the one that is heard, before it is told
UNHEARD = 10  # packets in a row that cannot be heard, before it is told
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


@dataclass(frozen=True, slots=True)
class Unheard:
    """What was sent from `start` to before `end` could not be heard; silence of that length has gone before it."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """What its listeners should know of the stream; once for each cause."""

    reason: str


Span = Sound | Silence | Unheard | Note


class RtpStream:
    """Puts the packets of one port in order; positions are samples of the call, whose 0 is at `origin`."""

    def __init__(self, rate: int, channels: int, jitter_ms: int, counts: Counts) -> None:
        self.rate = rate
        self.end = 0
        self.origin: int | None = None  # wall clock, unix ns; None until a stream has begun the call
        self._channels = channels
        self._delay = jitter_ms * rate // 1000
        self._policy = JitterPolicy(MAX_WAITING, max_delay_ns=jitter_ms * 1_000_000, max_span=self._delay)
        self._rounding = ROUNDING_MS * rate // 1000
        self._counts = counts
        self._source: Source | None = None
        self._source_at = 0  # the wall clock when its newest packet came
        self._probation: dict[int, list[RtpMedia]] = {}  # by SSRC: what came since the last packet of the source
        self._rivals = 0  # packets that came beside those of the source
        self._unheard = 0  # packets since the last sound that cannot be heard
        self._unheard_from = 0  # where the first of them came
        self._unheard_why: dict[str, None] = {}
        self._told: set[str] = set()
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

    def push(self, media: RtpMedia) -> list[Span]:
        """Take a packet, and give out what is in order now."""
        source = self._source
        if source is None or not source.knows(media.packet):
            return self._on_probation(media)
        self._source_at = media.received_at
        rival = self._forget_others()
        source.take(media, self._counts)
        return [*rival, *self._release(media.received_at)]

    def advance(self, now: int) -> list[Span]:
        """Time has passed: what has waited for too long waits no more."""
        return self._release(now)

    def flush(self) -> list[Span]:
        """All that is still here."""
        self._forget_others()
        return [*self._release(None), *self._tell_unheard()]

    def fill(self, to: int, received_at: int) -> list[Span]:
        """Time passes without this stream: one gap says so, and silence goes on after it."""
        return self._pass_time(to, SILENT if self.end else NOT_STARTED, received_at)

    def report(self, timestamp: int, now: int) -> list[Span]:
        """The sender says how far its clock is: what it has not sent by then is silence, if our clock agrees."""
        source = self._source
        if source is None or source.buffer.next is None or source.buffer:
            return []
        position = unwrapped(timestamp, source.timestamp, 32) + source.offset
        elapsed = (now - self._heard_at) * self.rate // 1_000_000_000
        if abs(self._heard_end + elapsed - position) > self.rate or position - self.end < self.rate:
            return []
        return self._pass_time(position - self.rate // 2, SILENT, now)  # what is on its way may still come

    def _pass_time(self, to: int, reason: str, now: int) -> list[Span]:
        start, self.end = self.end, to
        if self._passing and reason in (SILENT, NOT_STARTED) and to - start <= TOLD_AGAIN_S * self.rate:
            return [self._nothing(start, to, now)]
        self._passing = True
        self._unheard_from = to
        return [Silence(start, to, reason)]

    def _nothing(self, start: int, to: int, now: int) -> Sound:
        return Sound(start, np.zeros((to - start, self._channels), np.int16), now)

    def _on_probation(self, media: RtpMedia) -> list[Span]:
        """A packet of another numbering: two in order may replace the one that is heard."""
        packet = media.packet
        if media.samples_NC is None:
            left = self._source is not None and media.received_at - self._source_at >= SILENT_MS * 1_000_000
            return self._not_heard(media, media.unheard) if left and media.unheard else []
        known = self._probation.pop(packet.ssrc, [])
        if any(other.packet.seq == packet.seq for other in known):
            self._probation[packet.ssrc] = known
            self._counts.duplicated += 1
            return []
        if known and not same_sequence(packet, known[-1].packet):
            self._counts.foreign += len(known)
            known = []
        if len(self._probation) >= SOURCES:
            self._counts.foreign += len(self._probation.pop(next(iter(self._probation))))
        packets = self._probation[packet.ssrc] = [*known[1 - MAX_WAITING :], media]
        return self._switch(packets) if self._may_take_over(packets) else []

    def _may_take_over(self, packets: list[RtpMedia]) -> bool:
        if len(packets) < 2:
            return False
        silent = packets[-1].received_at - self._source_at >= SILENT_MS * 1_000_000
        return self._source is None or silent or len(packets) >= TAKEOVER

    def _forget_others(self) -> list[Span]:
        """The source goes on: what others sent meanwhile is not heard."""
        if not self._probation:
            return []
        others = sum(map(len, self._probation.values()))
        self._probation.clear()
        self._counts.foreign += others
        return self.rival(others)

    def rival(self, packets: int) -> list[Span]:
        """Somebody else has sent so many packets while the source goes on."""
        self._rivals += packets
        if self._rivals < RIVAL:
            return []
        return self._tell("a second sender (SSRC) on the same port is not heard: give each side a port of its own")

    def _tell(self, reason: str) -> list[Span]:
        if reason in self._told:
            return []
        self._told.add(reason)
        return [Note(reason)]

    def _switch(self, packets: list[RtpMedia]) -> list[Span]:
        spans = self._release(None)
        first, newest = packets[0], packets[-1]
        if self._source:
            self._counts.restarts += 1
            self._changed = True
        if self.origin is None:
            assert first.samples_NC is not None
            self.align(first.received_at - len(first.samples_NC) * 1_000_000_000 // self.rate)
        self._source = Source(
            first.packet.ssrc, first.packet.seq, first.packet.timestamp, JitterBuffer(self._policy)
        )
        self._source_at = newest.received_at
        for media in packets:
            self._source.take(media, self._counts)
        del self._probation[first.packet.ssrc]
        self._rivals = 0
        return spans + self._release(newest.received_at)

    def _release(self, now: int | None) -> list[Span]:
        """Give out what continues, and what must wait no more; now None: all."""
        spans: list[Span] = []
        source = self._source
        while source and (popped := self._pop(source, now)):
            timestamp, media = popped.timestamp, popped.payload
            if media.quiet:
                self._quiet = True
                ahead = timestamp + source.offset - self.end
                if self._rounding < ahead < MAX_JUMP_S * self.rate:
                    spans += self._pass_time(self.end + ahead, SILENT, media.received_at)
            elif media.unheard:
                spans += self._not_heard(media, media.unheard)
            elif media.samples_NC is not None and len(media.samples_NC):
                spans += self._sound(source, timestamp, media, media.samples_NC)
        return spans

    def _pop(self, source: Source, now: int | None) -> BufferedPacket[RtpMedia] | None:
        """The next packet; with the first of a numbering it is settled where that starts in the call."""
        starts = source.buffer.next is None
        popped = source.buffer.pop(now, drain=now is None)
        if popped is None:
            return None
        packet, lost = popped
        if starts:
            position = self._by_wall_clock(packet.payload)
            source.offset = (position if position > self.end + self._delay else self.end) - packet.timestamp
        self._missing += lost
        self._counts.lost += lost
        return packet

    def _not_heard(self, media: RtpMedia, why: str) -> list[Span]:
        """Time passes by the wall clock: that of the packets may be of another rate. Its end is told."""
        if not self._unheard:
            self._unheard_from = self.end
        self._unheard += 1
        self._unheard_why[why] = None
        if self._unheard < UNHEARD:  # redundancy, or something else beside the sound
            return []
        return [*self._tell(f"{why} and is not heard"), *self._pass_unheard(media)]

    def _pass_unheard(self, media: RtpMedia) -> list[Span]:
        start, now = self.end, self._by_wall_clock(media)
        if now - start <= self._rounding:
            return []
        self.end = now
        return [self._nothing(start, now, media.received_at)]

    def _tell_unheard(self) -> list[Span]:
        """The whole of what could not be heard, when it is over."""
        start, why = self._unheard_from, "; ".join(self._unheard_why)
        told = self._unheard >= UNHEARD and self.end > start
        self._unheard = 0
        self._unheard_why.clear()
        return [Unheard(start, self.end, why)] if told else []

    def _by_wall_clock(self, media: RtpMedia) -> int:
        """Where a packet that came now starts in the call."""
        elapsed = (media.received_at - self._heard_at) * self.rate // 1_000_000_000
        length = 0 if media.samples_NC is None else len(media.samples_NC)
        return max(self.end, self._heard_end + elapsed - length)

    def _sound(self, source: Source, timestamp: int, media: RtpMedia, samples_NC: PcmNC) -> list[Span]:
        spans: list[Span] = []
        if self._unheard >= UNHEARD:
            spans += self._pass_unheard(media)
            source.offset = self.end - timestamp
        spans += self._tell_unheard()
        ahead = timestamp + source.offset - self.end
        if not self._missing and abs(ahead) <= self._rounding:
            ahead = 0
        elif ahead < 0 or ahead > MAX_JUMP_S * self.rate + self._by_wall_clock(media) - self.end:
            # The clock stood still or was set, or its time was filled already: no sound is dropped for that.
            ahead = 0 if ahead < 0 else self._by_wall_clock(media) - self.end
            source.offset = self.end + ahead - timestamp
        if ahead:
            reason = self._why(ahead, len(samples_NC))
            spans += self._pass_time(self.end + ahead, reason, media.received_at)
        spans.append(Sound(self.end, samples_NC, media.received_at))
        self.end += len(samples_NC)
        self._heard_at, self._heard_end = media.received_at, self.end
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
