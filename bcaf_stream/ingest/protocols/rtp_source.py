"""The numbers of one RTP source: whole ones from those of the wire, and what has come, waits or is given up."""

from dataclasses import dataclass, field

from bcaf_stream.ingest.protocols.rtp_packets import Packet, PcmNC

MAX_DROPOUT = 3000  # packets ahead, and behind, that are still of the same numbering (RFC 3550, appendix A.1)
MAX_MISORDER = 1000


@dataclass(slots=True)
class Counts:
    """What became of packets; a late one was counted as lost before."""

    lost: int = 0
    late: int = 0
    duplicated: int = 0
    foreign: int = 0  # of other sources, beside the one that is heard
    restarts: int = 0
    unknown: int = 0  # of a payload type without a format


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A packet in hand; `samples_NC` None where it carries no sound, `quiet` if it says that there is none.

    `unknown`: there may be sound in it, in a format that is not known.
    """

    packet: Packet
    samples_NC: PcmNC | None
    quiet: bool
    received_at: int
    unknown: bool = False


@dataclass(slots=True)
class Source:
    """One numbering: `next` is the number that continues, None until the first one is sure."""

    ssrc: int
    seq: int  # of the newest packet
    timestamp: int
    next: int | None = None
    offset: int = 0  # what to add to a timestamp to get a position in the call
    waiting: dict[int, tuple[int, Held]] = field(default_factory=dict)  # by number: timestamp and packet
    given_up: set[int] = field(default_factory=set)  # numbers, for as long as they could still come

    def knows(self, packet: Packet) -> bool:
        ahead = unwrapped(packet.seq, self.seq, 16) - self.seq
        return packet.ssrc == self.ssrc and -MAX_MISORDER < ahead < MAX_DROPOUT

    def take(self, held: Held, counts: Counts) -> None:
        number = unwrapped(held.packet.seq, self.seq, 16)
        timestamp = unwrapped(held.packet.timestamp, self.timestamp, 32)
        if number in self.given_up:
            self.given_up.remove(number)
            counts.late += 1
        elif number in self.waiting or (self.next is not None and number < self.next):
            counts.duplicated += 1
        else:
            self.waiting[number] = timestamp, held
            if number > self.seq:
                self.seq, self.timestamp = number, timestamp

    def give_up(self, first: int, counts: Counts) -> int:
        """Wait no more for what is missing before this number; how many packets that is."""
        assert self.next is not None
        missing = range(self.next, first)
        counts.lost += len(missing)
        self.given_up = {number for number in (*self.given_up, *missing) if number > first - MAX_MISORDER}
        return len(missing)

    def span(self) -> int:
        """How much time the waiting packets span, from start to start."""
        times = [timestamp for timestamp, _ in self.waiting.values()]
        return max(times) - min(times)


def unwrapped(value: int, near: int, bits: int) -> int:
    """The whole number nearest to `near` that is `value` modulo 2**bits."""
    half = 1 << bits - 1
    return near + ((value - near + half) % (1 << bits)) - half


def same_sequence(packet: Packet, other: Packet) -> bool:
    """Whether two packets can be of the same numbering."""
    distance = abs(unwrapped(packet.seq, other.seq, 16) - other.seq)
    return packet.ssrc == other.ssrc and distance < MAX_MISORDER
