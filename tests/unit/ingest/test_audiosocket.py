"""AudioSocket's bytes: the specification's frames, any cutting, and any nonsense."""

import struct
from contextlib import suppress
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart, contiguous
from bcaf_stream.ingest.protocols.audiosocket import RATES, AudioSocketParser, Item, hang_up
from bcaf_stream.types import AudioChunk, Channel, Gap

CALL = UUID("40325ec2-5efd-4bd3-805f-53576e581d13")
CUSTOMER = Channel("customer", "customer")
SAMPLES = np.random.default_rng(0).integers(-32768, 32767, 960, np.int16, endpoint=True)


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(payload)) + payload


def call(kind: int = 0x10, samples: np.ndarray = SAMPLES, size: int = 160) -> bytes:
    audio = [frame(kind, samples[at : at + size].astype("<i2").tobytes()) for at in range(0, len(samples), size)]
    return frame(0x01, CALL.bytes) + b"".join(audio)


def parser() -> AudioSocketParser:
    return AudioSocketParser(CUSTOMER)


def sound(items: list[Item]) -> np.ndarray:
    chunks = [item for item in items if isinstance(item, AudioChunk)]
    assert contiguous(chunks)
    return np.concatenate([chunk.samples for chunk in chunks])


@pytest.mark.parametrize(("kind", "rate"), RATES.items())
def test_a_call_at_each_rate(kind: int, rate: int):
    items = parser().push(call(kind) + hang_up(), 7)
    assert items[0] == CallStart(str(CALL), (CUSTOMER,), rate)
    assert items[-1] == CallEnd()
    assert {(c.channel, c.rate, c.received_at) for c in items if isinstance(c, AudioChunk)} == {
        ("customer", rate, 7)
    }
    np.testing.assert_array_equal(sound(items), SAMPLES)


def test_a_pause_is_a_gap_and_the_clock_stays_the_walls():
    machine, items = parser(), []
    items += machine.push(frame(0x01, CALL.bytes), 0)
    for at_ms in [*range(20, 1020, 20), *range(9020, 10_020, 20)]:
        items += machine.push(frame(0x10, SAMPLES[:160].astype("<i2").tobytes()), at_ms * 1_000_000)
    items += machine.push(hang_up(), 10_020 * 1_000_000)
    [gap] = [item for item in items if isinstance(item, Gap)]
    assert (gap.channel, gap.reason) == ("customer", "nothing sent")
    assert gap.start == 8000
    assert abs(gap.end - gap.start - 8 * 8000) <= 320
    media = [item for item in items if isinstance(item, AudioChunk | Gap)]
    assert contiguous(media)
    assert media[-1].start + 160 == gap.end + 50 * 160
    assert items[-1] == CallEnd()


def test_the_rates_of_the_specification():
    hz = [8_000, 12_000, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000]
    assert dict(zip(range(0x10, 0x19), hz, strict=True)) == RATES


def test_the_call_begins_with_its_first_sound():
    machine = parser()
    assert machine.push(frame(0x01, CALL.bytes) + frame(0x03, b"5") + frame(0x10), 0) == []
    assert isinstance(machine.push(frame(0x10, b"\1\0"), 0)[0], CallStart)


@given(cuts=st.lists(st.integers(1, 400), max_size=20))
def test_any_cutting_gives_the_same_samples(cuts: list[int]):
    data = call() + frame(0x03, b"#") + frame(0x02) + hang_up()
    machine, items = parser(), []
    for size in [*cuts, len(data)]:
        items += machine.push(data[:size], 0)
        data = data[size:]
    np.testing.assert_array_equal(sound(items), SAMPLES)
    assert items[-1] == CallEnd()
    assert machine.flush(0, closed=True) == []


def test_closing_the_connection_says_the_end():
    machine = parser()
    machine.push(call(), 0)
    assert machine.flush(0, closed=True) == [CallEnd()]
    assert machine.flush(0, closed=True) == []


def test_closing_in_the_middle_of_a_frame_does_not():
    machine = parser()
    machine.push(call()[:-1], 0)
    assert machine.flush(0, closed=True) == []


def test_nothing_after_the_end_counts():
    machine = parser()
    assert machine.push(hang_up() + call(), 0) == [CallEnd()]
    assert machine.push(call(), 0) == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"\1", "complete"), (b"\4", "AudioSocket error 04"), (b"", "AudioSocket error without a code")],
)
def test_an_error_of_the_sender_ends_the_call(payload: bytes, reason: str):
    assert parser().push(call() + frame(0xFF, payload), 0)[-1] == CallEnd(reason)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\r\n", "must be the call's UUID"),
        (frame(0x10, b"\0\0"), "must be the call's UUID"),
        (frame(0x01, b"short"), "must be the call's UUID"),
        (call() + frame(0x01, CALL.bytes), "a second UUID"),
        (call() + frame(0x10, b"\0\0\0"), "3 bytes of audio are not whole samples"),
        (call() + frame(0x12, b"\0\0"), "the rate changed within the call, to 16000 Hz"),
        (call() + frame(0x20, b"\0\0"), "type 0x20 are not known"),
    ],
)
def test_a_broken_peer(data: bytes, said: str):
    with pytest.raises(LinkError, match=said) as caught:
        parser().push(data, 0)
    assert "\n" not in str(caught.value)


FRAMES = st.one_of(
    st.binary(max_size=40),
    st.builds(frame, st.sampled_from([0, 1, 2, 3, 0x10, 0x12, 0x18, 0x19, 0xFF]), st.binary(max_size=40)),
    st.just(frame(0x01, CALL.bytes)),
)


@settings(max_examples=300)
@given(st.lists(FRAMES, max_size=8))
def test_any_bytes_are_understood_or_refused(pieces: list[bytes]):
    machine, items = parser(), []
    with suppress(LinkError):
        for piece in pieces:
            items += machine.push(piece, 0)
        items += machine.flush(0, closed=True)
    assert contiguous([item for item in items if isinstance(item, AudioChunk)])
    assert all(not isinstance(item, CallStart) for item in items[1:])
    assert all(not isinstance(item, CallEnd) for item in items[:-1])
