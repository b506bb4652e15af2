"""One RTP source: whole numbers from those of the wire, its jitter buffer, and what became of its packets."""

from dataclasses import dataclass

from bcaf_stream.ingest.jitter import MAX_MISORDER, Arrival, BufferedPacket, JitterBuffer, unwrapped
from bcaf_stream.ingest.protocols.rtp_packets import Packet, PcmNC

MAX_DROPOUT = 3000  # packets ahead that are still of the same numbering (RFC 3550, appendix A.1)


@dataclass(slots=True)
class Counts:
    """What became of packets; a late one was counted as lost before."""

    lost: int = 0
    late: int = 0
    duplicated: int = 0
    foreign: int = 0  # of other sources, beside the one that is heard
    restarts: int = 0
    unknown: int = 0  # in no format that can be heard


@dataclass(frozen=True, slots=True, eq=False)
class RtpMedia:
    """A packet and what is in it: `samples_NC` None if no sound, `quiet` if it says that there is none.

    `unheard`: why what may be sound in it cannot be heard.
    """

    packet: Packet
    samples_NC: PcmNC | None
    quiet: bool
    received_at: int
    unheard: str | None = None


@dataclass(slots=True)
class Source:
    """One numbering, unwrapped: `seq` and `timestamp` are those of the newest packet."""

    ssrc: int
    seq: int
    timestamp: int
    buffer: JitterBuffer[RtpMedia]
    offset: int = 0  # what to add to a timestamp to get a position in the call

    def knows(self, packet: Packet) -> bool:
        ahead = unwrapped(packet.seq, self.seq, 16) - self.seq
        return packet.ssrc == self.ssrc and -MAX_MISORDER < ahead < MAX_DROPOUT

    def take(self, media: RtpMedia, counts: Counts) -> None:
        number = unwrapped(media.packet.seq, self.seq, 16)
        timestamp = unwrapped(media.packet.timestamp, self.timestamp, 32)
        length = 0 if media.samples_NC is None else len(media.samples_NC)
        arrival = self.buffer.push(BufferedPacket(number, timestamp, length, media, media.received_at))
        counts.late += arrival is Arrival.LATE
        counts.duplicated += arrival is Arrival.DUPLICATE
        if arrival is Arrival.NEW and number > self.seq:
            self.seq, self.timestamp = number, timestamp


def same_sequence(packet: Packet, other: Packet) -> bool:
    """Whether two packets can be of the same numbering."""
    distance = abs(unwrapped(packet.seq, other.seq, 16) - other.seq)
    return packet.ssrc == other.ssrc and distance < MAX_MISORDER
