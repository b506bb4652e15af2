"""The jitter buffer of all protocols: packets in any order -> in the order of their numbers, or given up.

A packet whose number continues comes out at once. One behind a hole waits for what is missing, and the policy says
for how long: by the wall clock (`max_delay_ns`), by the sender's (`max_span`, or up to a timestamp that the caller
names because other channels are there), and never with more than `max_packets` or `max_samples` behind it. What
was given up and comes all the same is late.

What a hole is worth in time the protocols know: `track` those that tell positions, `rtp_stream` RTP, and
`pcm_stream` those without any clock, to which a pause is a hole.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

MAX_MISORDER = 1000  # numbers behind the newest that may still come (RFC 3550, appendix A.1)

P = TypeVar("P")


@dataclass(frozen=True, slots=True, eq=False)
class BufferedPacket(Generic[P]):
    """A packet in hand.

    `sequence`: its number, unwrapped, or where `numbered` is False what else tells the order; `timestamp` and
    `duration`: samples of the sender's clock; `received_at`: unix ns.
    """

    sequence: int
    timestamp: int
    duration: int
    payload: P
    received_at: int
    numbered: bool = True

    @property
    def end(self) -> int:
        return self.timestamp + self.duration


@dataclass(frozen=True, slots=True)
class JitterPolicy:
    """For how long a packet waits for those before it; what is None sets no bound.

    Args:
        max_packets: in the buffer; with so many the first waits no more.
        max_samples: likewise.
        max_delay_ns: since it came.
        max_span: samples between the first and the last timestamp in the buffer.
    """

    max_packets: int
    max_samples: int | None = None
    max_delay_ns: int | None = None
    max_span: int | None = None


class Arrival(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"
    LATE = "late"  # it was given up before


class JitterBuffer(Generic[P]):
    """Packets of one numbering; `next` is the number that continues.

    Args:
        first: the number that continues at the beginning; None: the first packet that waited long enough decides.
    """

    def __init__(self, policy: JitterPolicy, first: int | None = None) -> None:
        self.next = first
        self._policy = policy
        self._packets: list[BufferedPacket[P]] = []  # by number
        self._samples = 0
        self._given_up: set[int] = set()  # for as long as they could still come

    def __len__(self) -> int:
        return len(self._packets)

    def __iter__(self) -> Iterator[BufferedPacket[P]]:
        return iter(self._packets)

    @property
    def first(self) -> BufferedPacket[P] | None:
        return self._packets[0] if self._packets else None

    @property
    def last(self) -> BufferedPacket[P] | None:
        return self._packets[-1] if self._packets else None

    def push(self, packet: BufferedPacket[P]) -> Arrival:
        """Take a packet; `pop` gives out what can be given out."""
        if packet.sequence in self._given_up:
            self._given_up.remove(packet.sequence)
            return Arrival.LATE
        at = bisect_left(self._packets, packet.sequence, key=_sequence)
        known = at < len(self._packets) and self._packets[at].sequence == packet.sequence
        if known or (self.next is not None and packet.sequence < self.next):
            return Arrival.DUPLICATE
        self._packets.insert(at, packet)
        self._samples += packet.duration
        return Arrival.NEW

    def pop(
        self, now: int | None = None, upto: int | None = None, drain: bool = False
    ) -> tuple[BufferedPacket[P], int] | None:
        """The first packet, if it continues or waits no more, and how many numbers before it are given up.

        Args:
            now: wall clock, unix ns.
            upto: what starts at this timestamp or before it waits no more.
            drain: nothing waits any more.
        """
        if not self._packets:
            return None
        packet = self._packets[0]
        if not (self.continues(packet) or drain or self._waited(packet, now, upto)):
            return None
        del self._packets[0]
        self._samples -= packet.duration
        lost = 0 if self.next is None else packet.sequence - self.next
        if lost and packet.numbered:
            self._give_up(packet.sequence - lost, packet.sequence)
        self.next = packet.sequence + 1
        return packet, lost

    def continues(self, packet: BufferedPacket[P]) -> bool:
        """Whether nothing is missing before this packet, by its number."""
        return packet.numbered and packet.sequence == self.next

    def _waited(self, first: BufferedPacket[P], now: int | None, upto: int | None) -> bool:
        policy = self._policy
        if upto is not None and first.timestamp <= upto:
            return True
        if policy.max_delay_ns is not None and now is not None and now - first.received_at >= policy.max_delay_ns:
            return True
        if policy.max_span is not None and self._span() >= policy.max_span:
            return True
        full = policy.max_samples is not None and self._samples > policy.max_samples
        return full or len(self._packets) >= policy.max_packets

    def _span(self) -> int:
        """How much time the packets span, from start to start."""
        times = [packet.timestamp for packet in self._packets]
        return max(times) - min(times)

    def _give_up(self, start: int, end: int) -> None:
        oldest = end - MAX_MISORDER
        missing = range(max(start, oldest + 1), end)
        self._given_up = {number for number in (*self._given_up, *missing) if number > oldest}


def _sequence(packet: BufferedPacket[Any]) -> int:
    return packet.sequence


def unwrapped(value: int, near: int, bits: int) -> int:
    """The whole number nearest to `near` that is `value` modulo 2**bits."""
    half = 1 << bits - 1
    return near + ((value - near + half) % (1 << bits)) - half
