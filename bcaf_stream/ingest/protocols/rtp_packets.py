"""One RTP packet and what its payload means; and of RTCP the goodbye and the sender's clock.

Specifications: RFC 3550 (RTP and RTCP: the header is section 5.1, sender reports 6.4.1, BYE 6.6), RFC 3551
(payload types: 0 is G.711 mu-law, 8 A-law, 10 and 11 linear 16 bit big endian at 44.1 kHz in stereo and mono),
RFC 3389 (13 is comfort noise), RFC 5761 (RTP and RTCP on one port).
"""

import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.codecs import decode_alaw, decode_ulaw
from bcaf_stream.errors import LinkError

VERSION = 2
HEADER = struct.Struct(">BBHII")
COMFORT_NOISE = (13, 19)  # 19 is its number in old equipment
RTCP_TYPES = range(192, 224)  # of the second byte, which holds no RTP payload type there (RFC 5761, section 4)
SENDER_REPORT, BYE = 200, 203

Codec = Literal["pcmu", "pcma", "l16"]
PcmNC = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Format:
    """What a payload type stands for; its clock counts at the sampling rate."""

    codec: Codec
    rate: int
    channels: int = 1

    def decode(self, payload: bytes) -> PcmNC:
        """The samples, N of C channels.

        Raises:
            LinkError: they are not whole.
        """
        width = (2 if self.codec == "l16" else 1) * self.channels
        if len(payload) % width:
            raise LinkError(f"RTP: {len(payload)} bytes are not whole samples of {width}")
        match self.codec:
            case "pcmu":
                samples_N = decode_ulaw(payload)
            case "pcma":
                samples_N = decode_alaw(payload)
            case "l16":
                samples_N = np.frombuffer(payload, ">i2").astype(np.int16)
        return samples_N.reshape(-1, self.channels)


STATIC_FORMATS = {
    0: Format("pcmu", 8_000),
    8: Format("pcma", 8_000),
    10: Format("l16", 44_100, 2),
    11: Format("l16", 44_100, 1),
}


@dataclass(frozen=True, slots=True)
class Packet:
    """`seq` counts packets modulo 2**16, `timestamp` samples modulo 2**32; both start anywhere."""

    ssrc: int
    seq: int
    timestamp: int
    payload_type: int
    payload: bytes


def parse_packet(data: bytes) -> Packet:
    """Take an RTP packet apart; extensions, contributing sources and padding are passed over.

    Raises:
        LinkError: it is none, or shorter than it says.
    """
    if len(data) < HEADER.size:
        raise LinkError(f"RTP: a packet has at least {HEADER.size} bytes, not {len(data)}")
    first, second, seq, timestamp, ssrc = HEADER.unpack_from(data)
    if first >> 6 != VERSION:
        raise LinkError(f"RTP: version {first >> 6} is not spoken here")
    begin = HEADER.size + 4 * (first & 0x0F)
    if first & 0x10:  # an extension: 2 bytes for its profile, 2 for its length in words
        words = int.from_bytes(data[begin + 2 : begin + 4], "big")
        begin += 4 + 4 * words
    end = len(data)
    if first & 0x20:
        padding = data[-1]
        if not padding:
            raise LinkError("RTP: padding of no bytes")
        end -= padding
    if begin > end:
        raise LinkError("RTP: the headers are longer than the packet")
    return Packet(ssrc, seq, timestamp, second & 0x7F, data[begin:end])


def is_rtcp(data: bytes) -> bool:
    return len(data) > 1 and data[1] in RTCP_TYPES


@dataclass(frozen=True, slots=True)
class Control:
    """What RTCP says: the sources that leave, and the timestamp that each sender has reached by now."""

    leaving: frozenset[int]
    clocks: dict[int, int]


def parse_control(data: bytes) -> Control:
    """Take a compound RTCP packet apart.

    Raises:
        LinkError: it is none, or shorter than it says.
    """
    leaving: set[int] = set()
    clocks: dict[int, int] = {}
    while data:
        if len(data) < 4 or data[0] >> 6 != VERSION or data[1] not in RTCP_TYPES:
            raise LinkError("RTCP: not a compound packet")
        size = 4 + 4 * int.from_bytes(data[2:4], "big")
        kind, sources = data[1], data[0] & 0x1F
        needed = {BYE: 4 + 4 * sources, SENDER_REPORT: 28}.get(kind, 4)
        if len(data) < size or size < needed:
            raise LinkError("RTCP: a packet is shorter than it says")
        if kind == BYE:
            leaving.update(struct.unpack_from(f">{sources}I", data, 4))
        if kind == SENDER_REPORT:
            ssrc, timestamp = struct.unpack_from(">I8xI", data, 4)
            clocks[ssrc] = timestamp
        data = data[size:]
    return Control(frozenset(leaving), clocks)
