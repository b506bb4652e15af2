"""RTP's packets: order, wrapping, loss, silence, other senders, and any nonsense."""

import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.codecs import decode_alaw, decode_ulaw
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart, ChannelConfig, Degraded, MissingSound, contiguous
from bcaf_stream.ingest.protocols.rtp import FormatConfig, Item, RtpConfig, RtpParser
from bcaf_stream.ingest.protocols.rtp_source import Counts
from bcaf_stream.types import AudioChunk, Channel, Gap

MS = 1_000_000
AT = 1_700_000_000_000 * MS
SIZE = 160  # samples of a packet of 20 ms
COUNT = 60
CODES = np.random.default_rng(0).integers(0, 256, COUNT * SIZE, np.uint8)
SAMPLES = decode_ulaw(CODES.tobytes())
SIDES = (ChannelConfig(name="customer", role="customer"), ChannelConfig(name="agent", role="agent"))


def packet(
    number: int,
    *,
    ssrc: int = 7,
    seq: int = 65_520,
    timestamp: int = 2**32 - 1000,
    kind: int = 0,
    marker: bool = False,
) -> bytes:
    """Packet `number` of the sound; numbers and timestamps wrap within the test's packets."""
    payload = CODES[number * SIZE : (number + 1) * SIZE].tobytes()
    return raw(kind | marker << 7, seq + number, timestamp + number * SIZE, ssrc, payload)


def raw(second: int, seq: int, timestamp: int, ssrc: int, payload: bytes, first: int = 0x80) -> bytes:
    return struct.pack(">BBHII", first, second, seq % 2**16, timestamp % 2**32, ssrc) + payload


def goodbye(*sources: int) -> bytes:
    report = struct.pack(">BBHI5I", 0x80, 200, 6, 7, 0, 0, 0, 0, 0)  # a sender's report without blocks
    return report + struct.pack(f">BBH{len(sources)}I", 0x80 | len(sources), 203, len(sources), *sources)


def hear(packets: Iterable[bytes], parser: RtpParser | None = None, at: int = AT) -> list[Item]:
    """Everything that the packets say, all of them arriving at once."""
    parser = parser or RtpParser(RtpConfig())
    items: list[Item] = [item for data in packets for item in parser.push(data, at)]
    return items + parser.flush()


def media(items: Sequence[Item], channel: str = "customer") -> list[AudioChunk | Gap]:
    found = [item for item in items if isinstance(item, AudioChunk | Gap) and item.channel == channel]
    assert contiguous(found)
    return found


def sound(items: Sequence[Item], channel: str = "customer") -> np.ndarray:
    """The samples, with silence where they never came."""
    parts = [
        np.zeros(item.end - item.start, np.int16) if isinstance(item, Gap) else item.samples
        for item in media(items, channel)
    ]
    return np.concatenate(parts)


def gaps(items: Sequence[Item], channel: str = "customer") -> list[tuple[int, int, str]]:
    return [(item.start, item.end, item.reason) for item in media(items, channel) if isinstance(item, Gap)]


def test_a_call_over_the_wrapping_of_numbers_and_timestamps():
    items = hear(map(packet, range(COUNT)))
    assert items[0] == CallStart("rtp-20231114-221319-980", (Channel("customer", "customer"),), 8000)
    np.testing.assert_array_equal(sound(items), SAMPLES)
    assert not gaps(items)


@given(data=st.data(), seq=st.integers(0, 65_535), timestamp=st.integers(0, 2**32 - 1))
def test_any_order_and_doubling_within_the_bound_gives_the_same_samples(
    data: st.DataObject, seq: int, timestamp: int
):
    late = data.draw(st.lists(st.integers(0, 2), min_size=COUNT, max_size=COUNT))
    twice = data.draw(st.lists(st.integers(0, COUNT - 1), max_size=10))
    arrivals = sorted([*range(COUNT), *twice], key=lambda number: (number + late[number], late[number]))
    parser = RtpParser(RtpConfig())
    items = hear((packet(n, seq=seq, timestamp=timestamp) for n in arrivals), parser)
    np.testing.assert_array_equal(sound(items), SAMPLES)
    assert not gaps(items)
    assert parser.counts == Counts(duplicated=len(twice))


@given(st.sets(st.integers(4, COUNT - 5), max_size=20), st.integers(1, 40))
def test_what_is_lost_is_a_gap_of_its_length(lost: set[int], size: int):
    parser = RtpParser(RtpConfig())
    items = hear((packet(n) for n in range(COUNT) if n not in lost), parser)
    expected = SAMPLES.copy().reshape(COUNT, SIZE)
    expected[sorted(lost)] = 0
    np.testing.assert_array_equal(sound(items), expected.ravel())
    assert sum(end - start for start, end, _ in gaps(items)) == SIZE * len(lost)
    assert {why for _, _, why in gaps(items)} <= {"lost"}
    assert parser.counts.lost == len(lost)


def test_what_comes_after_its_time_is_late():
    parser = RtpParser(RtpConfig())
    items = hear((packet(n) for n in [*range(10), *range(11, 20), 10, 10, 15, 20]), parser)
    assert gaps(items) == [(1600, 1760, "lost")]
    assert parser.counts == Counts(lost=1, late=1, duplicated=2)


def test_waiting_ends_by_the_clock_when_nothing_more_comes():
    parser = RtpParser(RtpConfig(jitter_ms=100))
    items: list[Item] = [item for n in (0, 1, 2, 4) for item in parser.push(packet(n), AT)]
    items += parser.advance(AT + 99 * MS)
    assert not media(items)  # not even the first ones: an earlier packet might come
    items += parser.advance(AT + 100 * MS)
    assert len(sound(items)) == 5 * SIZE
    assert gaps(items) == [(3 * SIZE, 4 * SIZE, "lost")]


def test_after_the_start_what_is_in_order_is_given_out_at_once():
    parser = RtpParser(RtpConfig())
    for n in range(4):
        parser.push(packet(n), AT)
    assert [type(item) for item in parser.push(packet(4), AT)] == [AudioChunk]


def test_silence_that_was_not_sent_is_told_from_loss():
    early = [packet(n) for n in range(10)]
    late = [packet(n, seq=65_520, timestamp=2**32 - 1000 + 4000, marker=n == 10) for n in range(10, 20)]
    items = hear([*early, *late])
    assert gaps(items) == [(1600, 5600, "silence not sent")]
    np.testing.assert_array_equal(sound(items)[5600:], SAMPLES[1600:3200])


@pytest.mark.parametrize("kind", [13, 19])
def test_comfort_noise_announces_silence(kind: int):
    noise = raw(kind, 65_530, 2**32 - 1000 + 1600, 7, b"\x40")
    late = [packet(n, seq=65_521, timestamp=2**32 - 1000 + 4000) for n in range(10, 20)]
    parser = RtpParser(RtpConfig())
    items = hear([*map(packet, range(10)), noise, *late], parser)
    assert gaps(items) == [(1600, 5600, "silence not sent")]
    assert parser.counts.lost == 0


def test_comfort_noise_lets_time_pass():
    parser, items = RtpParser(RtpConfig()), []
    for n in range(10):
        items += parser.push(packet(n), AT + 20 * n * MS)
    for n in range(5):  # one in 200 ms
        passed = parser.push(
            raw(13, 65_530 + n, 2**32 - 1000 + 1600 * (n + 1), 7, b"\x40"), AT + 200 * (n + 1) * MS
        )
        items += passed
        assert bool(passed) == (n > 0)
    late = [packet(n, seq=65_525, timestamp=2**32 - 1000 + 8000) for n in range(10, 20)]
    items += [item for data in late for item in parser.push(data, AT + 1200 * MS)] + parser.flush()
    assert gaps(items) == [(1600, 3200, "silence not sent")]  # told once
    heard = sound(items)
    assert not heard[1600:9600].any()
    np.testing.assert_array_equal(heard[9600:], SAMPLES[1600:3200])


def report(timestamp: int, ssrc: int = 7) -> bytes:
    return struct.pack(">BBHIQIII", 0x80, 200, 6, ssrc, 0, timestamp % 2**32, 0, 0)


def test_a_sender_that_reports_its_clock_is_silent_and_not_gone():
    parser = RtpParser(RtpConfig())
    items = [item for n in range(10) for item in parser.push(packet(n), AT + 20 * n * MS)]
    base = 2**32 - 1000
    assert parser.push(report(base + 1640), AT + 200 * MS) == []  # as usual while sound comes
    assert parser.push(report(base + 1600 + 40_000, ssrc=9), AT + 5180 * MS) == []
    assert parser.push(report(base + 1600 + 80_000), AT + 5180 * MS) == []  # our clock says otherwise
    items += parser.push(report(base + 1600 + 40_000), AT + 5180 * MS)
    items += parser.push(report(base + 1600 + 80_000), AT + 10_180 * MS)
    assert gaps(items) == [(1600, 37_600, "silence not sent")]
    assert len(sound(items)) == 77_600
    late = [packet(n, timestamp=base + 80_000) for n in range(10, 20)]
    items += [item for data in late for item in parser.push(data, AT + 10_200 * MS)] + parser.flush()
    np.testing.assert_array_equal(sound(items)[81_600:], SAMPLES[1600:3200])
    assert len(gaps(items)) == 1


def test_telephone_events_between_the_sound_are_not_lost_packets():
    digit = raw(101, 65_530, 2**32 - 1000 + 1600, 7, b"\5\0\0\0")
    parser = RtpParser(RtpConfig())
    items = hear([*map(packet, range(10)), digit, *(packet(n, seq=65_521) for n in range(10, 20))], parser)
    assert not gaps(items)
    assert parser.counts.lost == 0
    np.testing.assert_array_equal(sound(items), SAMPLES[: 20 * SIZE])


def test_timestamps_that_are_rounded_make_no_gaps():
    items = hear(packet(n, timestamp=(n % 3) * 20) for n in range(COUNT))
    assert not gaps(items)
    np.testing.assert_array_equal(sound(items), SAMPLES)


@pytest.mark.parametrize("jump", [-4000, 61 * 8000, 2**31 - 1, -(2**31)])
def test_a_clock_that_was_set_is_not_a_gap_and_no_sound_is_lost(jump: int):
    items = hear(packet(n, timestamp=jump if n >= 10 else 0) for n in range(20))
    assert not gaps(items)
    np.testing.assert_array_equal(sound(items), SAMPLES[: 20 * SIZE])


def test_a_new_sender_continues_the_call():
    parser = RtpParser(RtpConfig())
    items = [item for n in range(10) for item in parser.push(packet(n), AT + 20 * n * MS)]
    after = [packet(n, ssrc=8, seq=5, timestamp=99) for n in range(10, 20)]
    items += [item for n, data in enumerate(after) for item in parser.push(data, AT + (1200 + 20 * n) * MS)]
    items += parser.push(packet(9), AT + 2000 * MS)  # the old one's last word
    items += parser.flush()
    assert gaps(items) == [(1600, 9600, "the sender changed")]
    np.testing.assert_array_equal(sound(items)[9600:], SAMPLES[1600:3200])
    assert parser.counts == Counts(restarts=1, foreign=1)
    assert parser.heard == {7, 8}


def test_a_numbering_that_starts_anew_continues_the_call():
    parser = RtpParser(RtpConfig())
    items = hear([packet(n, seq=30_000 * (n >= 10)) for n in range(20)], parser)
    assert parser.counts.restarts == 1
    np.testing.assert_array_equal(sound(items), SAMPLES[: 20 * SIZE])


def test_a_stray_packet_neither_begins_nor_changes_a_call():
    parser = RtpParser(RtpConfig())
    assert hear([packet(3, ssrc=9)], parser) == []
    parser = RtpParser(RtpConfig())
    stray = [packet(3, ssrc=9)]
    items = hear([*stray, *map(packet, range(10)), *stray, *map(packet, range(10, 20))], parser)
    np.testing.assert_array_equal(sound(items), SAMPLES[: 20 * SIZE])
    assert parser.counts.restarts == 0


def test_two_senders_at_once_are_not_mixed():
    parser = RtpParser(RtpConfig())
    both = [packet(n, ssrc=ssrc) for n in range(COUNT) for ssrc in (7, 8)]
    items = hear([packet(0), packet(1), *both], parser)
    np.testing.assert_array_equal(sound(items), SAMPLES)
    assert parser.heard == {7}


def notes(items: Sequence[Item]) -> list[Degraded]:
    return [item for item in items if isinstance(item, Degraded)]


def at_pace(packets: Iterable[bytes], parser: RtpParser, first: int = 0, ms: int = 20) -> list[Item]:
    """Packets that come one every `ms`, the first of them in the slot `first` after AT."""
    return [item for slot, data in enumerate(packets, first) for item in parser.push(data, AT + ms * slot * MS)]


@pytest.mark.parametrize("run", [1, 2, 3, 5])
def test_of_two_senders_that_alternate_the_first_is_heard_and_the_other_is_told(run: int):
    """Not mixed, not neither of them: which side of the call each one is, packets do not say."""
    parser, order = RtpParser(RtpConfig()), []
    for at in range(0, COUNT, run):
        for ssrc in (7, 8):
            order += [packet(n, ssrc=ssrc) for n in range(at, min(at + run, COUNT))]
    items = at_pace(order, parser, ms=10) + parser.flush()
    np.testing.assert_array_equal(sound(items), SAMPLES)
    assert parser.heard == {7}
    assert parser.counts.restarts == 0
    assert parser.counts.foreign == COUNT
    [told] = notes(items)
    assert told.channel == "customer"
    assert told.reason.startswith("a second sender (SSRC) on the same port is not heard")


def test_a_sender_that_returns_after_another_is_heard_again():
    parser = RtpParser(RtpConfig())
    turns = [*(packet(n, ssrc=7) for n in range(20)), *(packet(n, ssrc=8) for n in range(20, 40))]
    turns += [packet(n, ssrc=7, seq=60_000) for n in range(40, COUNT)]
    items = at_pace(turns, parser) + parser.flush()
    np.testing.assert_array_equal(sound(items), SAMPLES)
    assert parser.counts == Counts(restarts=2)
    assert not notes(items)


def test_a_sender_that_falls_silent_gives_way_at_once():
    parser = RtpParser(RtpConfig())
    items = at_pace((packet(n) for n in range(10)), parser)
    items += at_pace((packet(n, ssrc=8) for n in range(10, 12)), parser, first=25)
    items += parser.flush()
    np.testing.assert_array_equal(sound(items)[-2 * SIZE :], SAMPLES[10 * SIZE : 12 * SIZE])


def test_what_another_sent_while_the_first_was_heard_does_not_come_later():
    parser = RtpParser(RtpConfig())
    both = [packet(n, ssrc=ssrc) for n in range(30) for ssrc in (7, 8)]
    items = at_pace(both, parser, ms=10)
    items += at_pace((packet(n, ssrc=8) for n in range(30, COUNT)), parser, first=30) + parser.flush()
    heard = sound(items)
    assert len(heard) == len(SAMPLES) + SIZE, "its last packet came after the last one of the first"
    np.testing.assert_array_equal(heard[: 30 * SIZE], SAMPLES[: 30 * SIZE])
    np.testing.assert_array_equal(heard[31 * SIZE :], SAMPLES[30 * SIZE :])


def missing(items: Sequence[Item]) -> list[MissingSound]:
    return [item for item in items if isinstance(item, MissingSound)]


@pytest.mark.parametrize("kind", [9, 3, 18, 96, 111])
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_type_without_a_format_is_told_with_the_whole_length_of_it(kind: int, comes_back: bool):
    parser, rest = RtpParser(RtpConfig()), COUNT - 10
    items = at_pace((packet(n) for n in range(10)), parser)
    others = [raw(kind, 65_530 + n, 77 + 800 * n, 7, bytes(160)) for n in range(300)]  # 6 s
    items += at_pace(others, parser, first=10)
    if comes_back:
        items += at_pace((packet(n, seq=65_820, timestamp=5) for n in range(10, COUNT)), parser, first=310)
    items += parser.flush()
    reason = f"RTP payload type {kind} has no format here (set formats)"
    assert notes(items) == [Degraded(f"{reason} and is not heard", "customer")]
    [unheard] = missing(items)
    assert unheard.reason == reason
    assert unheard.start == 10 * SIZE
    assert 6 * 8000 - 2 * SIZE <= unheard.end - unheard.start <= 6 * 8000, "a packet's time is that of its end"
    assert not gaps(items)
    heard = sound(items)
    np.testing.assert_array_equal(heard[: 10 * SIZE], SAMPLES[: 10 * SIZE])
    assert not heard[unheard.start : unheard.end].any()
    assert len(heard) == unheard.end + (rest * SIZE if comes_back else 0)
    np.testing.assert_array_equal(heard[unheard.end :], SAMPLES[10 * SIZE :] if comes_back else heard[:0])
    assert parser.counts == Counts(unknown=300)


def test_what_is_sent_beside_the_sound_is_not_told():
    """Redundancy packets (RFC 2198) between those of sound, and keys that are pressed for a while (RFC 4733)."""
    parser = RtpParser(RtpConfig())
    order = [packet(n, kind=0 if n % 2 else 121) for n in range(20)]
    items = at_pace([packet(0), packet(1), *order[2:]], parser)
    digits = [raw(101, 65_520 + n, 2**32 - 1000 + 20 * SIZE, 7, b"\5\0\0\0") for n in range(20, 45)]
    items += at_pace(digits, parser, first=20)
    items += at_pace((packet(n) for n in range(45, COUNT)), parser, first=45) + parser.flush()
    assert not notes(items)
    assert gaps(items)[-1] == (20 * SIZE, 45 * SIZE, "silence not sent")


def test_a_sender_of_a_call_that_is_over_is_ignored():
    parser = RtpParser(RtpConfig(), ignored=frozenset({7}))
    assert hear(map(packet, range(5)), parser) == []
    assert hear((packet(n, ssrc=8) for n in range(5)), RtpParser(RtpConfig(), frozenset({7})))


def test_the_goodbye_of_the_sender_ends_the_call():
    parser = RtpParser(RtpConfig())
    items = [item for n in range(5) for item in parser.push(packet(n), AT)]
    assert parser.push(goodbye(99), AT) == []
    items += parser.push(goodbye(99, 7), AT)
    assert items[-1] == CallEnd()
    np.testing.assert_array_equal(sound(items), SAMPLES[: 5 * SIZE])
    assert parser.push(packet(5), AT) == []


def two(lag_ms: int = 1000) -> RtpParser:
    return RtpParser(RtpConfig(channels=SIDES, lag_ms=lag_ms))


def test_two_ports_are_one_call():
    parser, items = two(), []
    for n in range(COUNT):
        items += parser.push(packet(n), AT + 20 * n * MS, 0)
        items += parser.push(packet(n, ssrc=8, seq=3, timestamp=5), AT + 20 * n * MS, 1)
    items += parser.push(goodbye(7), AT + 20 * COUNT * MS, 0)
    assert not any(isinstance(item, CallEnd) for item in items)
    items += parser.push(goodbye(8), AT + 20 * COUNT * MS, 1)
    assert items[-1] == CallEnd()
    begin = items[0]
    assert isinstance(begin, CallStart)
    assert begin.channels == (Channel("customer", "customer"), Channel("agent", "agent"))
    for side in ("customer", "agent"):
        np.testing.assert_array_equal(sound(items, side), SAMPLES)
        assert not gaps(items, side)


def test_nothing_comes_after_the_end():
    parser = two(lag_ms=200)
    for n in range(20):
        parser.push(packet(n), AT + 20 * n * MS, 0)
    assert parser.push(goodbye(7), AT + 400 * MS)[-1] == CallEnd()
    assert parser.push(packet(20), AT + 500 * MS) == []
    assert parser.advance(AT + 5000 * MS) == []
    assert parser.flush() == []


def test_a_side_that_starts_later_is_placed_by_the_clock():
    parser, items = two(), []
    for n in range(COUNT):
        items += parser.push(packet(n), AT + 20 * n * MS, 0)
        if n >= 25:
            items += parser.push(packet(n - 25, ssrc=8), AT + 20 * n * MS, 1)
    items += parser.flush()
    assert gaps(items, "agent") == [(0, 4000, "not started")]
    assert len(sound(items, "agent")) == len(sound(items, "customer"))


def test_a_silent_side_does_not_hold_up_the_other():
    parser, items, ends = two(lag_ms=200), [], {"customer": 0, "agent": 0}
    for n in range(COUNT):
        new = parser.push(packet(n), AT + 20 * n * MS, 0)
        if n < 10 or n >= 50:
            new += parser.push(packet(n, ssrc=8), AT + 20 * n * MS, 1)
        items += new
        for item in new:
            if isinstance(item, AudioChunk | Gap):
                ends[item.channel] = item.end if isinstance(item, Gap) else item.start + len(item.samples)
        assert ends["customer"] - ends["agent"] <= 1600
    items += parser.flush()
    assert gaps(items, "agent")[0][2] == "silence not sent"
    assert len(gaps(items, "agent")) <= 2, "one when it falls behind, and perhaps one for the rest"
    heard = sound(items, "agent")
    np.testing.assert_array_equal(heard[:1600], SAMPLES[:1600])
    np.testing.assert_array_equal(heard[-1600:], SAMPLES[-1600:])
    assert abs(len(heard) - len(SAMPLES)) <= 1600


def test_a_side_that_never_comes_is_silence():
    parser, items = two(lag_ms=200), []
    for n in range(COUNT):
        items += parser.push(packet(n), AT + 20 * n * MS, 0)
    assert not sound(items, "agent").any()
    assert len(sound(items, "agent")) >= len(SAMPLES) - 1600
    assert len(gaps(items, "agent")) == 1


def test_alaw_linear_and_configured_formats():
    for kind, decode in ((8, decode_alaw), (96, decode_ulaw)):
        parser = RtpParser(RtpConfig(formats={96: FormatConfig(codec="pcmu", rate=16_000)}))
        items = hear((packet(n, kind=kind) for n in range(5)), parser)
        np.testing.assert_array_equal(sound(items), decode(CODES[: 5 * SIZE].tobytes()))
    assert isinstance(items[0], CallStart)
    assert items[0].rate == 16_000


def test_stereo_in_one_stream():
    samples_NC = np.random.default_rng(1).integers(-32768, 32767, (2205, 2), np.int16, endpoint=True)
    parts = [samples_NC[at : at + 441] for at in range(0, 2205, 441)]
    data = [raw(10, n, 441 * n, 7, part.astype(">i2").tobytes()) for n, part in enumerate(parts)]
    items = hear(data, RtpParser(RtpConfig(channels=SIDES, interleaved=True)))
    for column, side in enumerate(SIDES):
        np.testing.assert_array_equal(sound(items, side.name), samples_NC[:, column])


def test_headers_that_are_passed_over():
    """Contributing sources, an extension and padding, all at once."""
    plain = [packet(n) for n in range(5)]
    dressed = []
    for data in plain:
        extras = struct.pack(">2I", 1, 2) + struct.pack(">HHI", 0xBEDE, 1, 5)
        dressed.append(bytes([0x80 | 0x20 | 0x10 | 2]) + data[1:12] + extras + data[12:] + b"\0\0\3")
    np.testing.assert_array_equal(sound(hear(dressed)), sound(hear(plain)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "at least 12 bytes"),
        (bytes([0x40]) + packet(0)[1:], "version 1"),
        (bytes([0x8F]) + packet(0)[1:30], "longer than the packet"),
        (raw(0, 0, 0, 7, b"\0" * 4, first=0xA0), "padding of no bytes"),
        (raw(0, 0, 0, 7, b"\xff" * 4, first=0xA0), "longer than the packet"),
        (raw(0, 0, 0, 7, b"\0\0\xff\xff", first=0x90), "longer than the packet"),
        (packet(0, kind=96), r"payload type 96 has no format here \(set formats\) and is not heard"),
        (raw(11, 0, 0, 7, b"\0\0\0"), "3 bytes are not whole samples of 2"),
        (raw(10, 0, 0, 7, b"\0\0\0\0"), "payload type 10 has 2 channels, not 1 and is not heard"),
        (raw(200, 0, 0, 7, b"")[:2] + b"\xff\xff", "shorter than it says"),
        (goodbye(7) + b"x", "not a compound packet"),
        (bytes([0x9F, 203, 0, 0]), "shorter than it says"),
        (bytes([0x80, 200, 0, 1]) + bytes(4), "shorter than it says"),
    ],
)
def test_a_broken_packet_is_refused_and_the_others_are_as_good_as_before(data: bytes, said: str):
    parser = RtpParser(RtpConfig())
    with pytest.raises(LinkError, match=said) as caught:
        parser.push(data, AT)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(sound(hear(map(packet, range(COUNT)), parser)), SAMPLES)


@pytest.mark.parametrize("ssrc", [7, 9])
def test_a_stream_of_another_rate_is_told_in_a_call(ssrc: int):
    """A re-INVITE to another codec comes with another SSRC or with the same."""
    parser = RtpParser(RtpConfig())
    items = at_pace(map(packet, range(10)), parser)
    wide = [raw(11, 65_520 + n, 441 * n, ssrc, b"\0\0" * 882) for n in range(10, 40)]
    items += at_pace(wide, parser, first=30) + parser.flush()
    reason = "RTP payload type 11 has 44100 Hz in a call of 8000 Hz"
    assert notes(items) == [Degraded(f"{reason} and is not heard", "customer")]
    [unheard] = missing(items)
    assert (unheard.start, unheard.reason) == (10 * SIZE, reason)
    assert parser.counts.unknown == 30


def test_a_side_that_never_sent_what_can_be_heard_is_told():
    parser, items = two(), []
    for n in range(COUNT):
        items += parser.push(packet(n), AT + 20 * n * MS, 0)
        if n >= 2:
            items += parser.push(packet(n, ssrc=8, kind=9), AT + 20 * n * MS, 1)
    assert notes(items) == [
        Degraded("RTP payload type 9 has no format here (set formats) and is not heard", "agent")
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tokens=secrets", "carries no token"),
        ("formats={13: {codec: pcmu}}", "comfort noise"),
        ("formats={96: {codec: opus}}", "formats.96.codec"),
        ("channels=[{name: a}, {name: a}]", "its own name"),
        ("channels=[]", "channels"),
        ("port=65535", "port"),
        ("host=0.0.0.0", "say who may come"),
    ],
)
def test_configurations_that_are_refused(setting: str, said: str):
    with pytest.raises(ConfigError, match=said):
        load_config(RtpConfig, None, [setting])


def test_each_channel_needs_its_ports():
    with pytest.raises(ConfigError, match="not enough ports"):
        load_config(RtpConfig, None, ["port=65534", "channels=[{name: a}, {name: b}]"])


def test_a_configuration_in_yaml():
    config = load_config(RtpConfig, None, ["formats={96: {codec: l16, rate: 16000}}", "allow=[10.0.0.0/8]"])
    assert config.formats == {96: FormatConfig(codec="l16", rate=16_000)}


NUMBERS = st.sampled_from([0, 1, 2, 3, 5, 100, 2000, 30_000, 65_535])
TIMES = st.sampled_from([0, 160, 320, 480, 8000, 600_000, 2**31, 2**32 - 1])
PACKETS = st.one_of(
    st.binary(max_size=60),
    st.builds(raw, st.sampled_from([0, 8, 10, 11, 13, 96, 128, 200, 203]), NUMBERS, TIMES, st.integers(6, 8),
              st.binary(max_size=20), st.sampled_from([0x80, 0x90, 0xA0, 0xB3])),
    st.builds(goodbye, st.integers(6, 8)),
    st.builds(report, TIMES, st.integers(6, 8)),
    st.builds(packet, st.integers(0, 20), ssrc=st.integers(6, 7)),
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.tuples(PACKETS, st.integers(0, 1), st.integers(0, 3000)), max_size=30))
def test_any_packets_are_understood_or_refused(arrivals: list[tuple[bytes, int, int]]):
    parser, items, now = two(), [], AT
    for data, stream, later_ms in arrivals:
        now += later_ms * MS
        with suppress(LinkError):
            items += parser.push(data, now, stream)
        items += parser.advance(now)
    items += parser.flush()
    for side in SIDES:
        assert all(isinstance(item, Gap) or len(item.samples) for item in media(items, side.name))
        assert all(start < end for start, end, _ in gaps(items, side.name))
    assert all(not isinstance(item, CallStart) for item in items[1:])
    assert all(not isinstance(item, CallEnd) for item in items[:-1])
