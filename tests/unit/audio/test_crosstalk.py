"""One voice, one utterance: the demo call, its channels leaking into each other, and both talking at once."""

import av
import numpy as np
import pytest

from bcaf_stream.audio.crosstalk import PER_MS, CrosstalkConfig, History, decimated, image
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.demo import CALL
from bcaf_stream.types import AudioChunk, Call, Channel, PcmN, SpeechSegment

TWO = Call("two", (Channel("customer", "customer"), Channel("agent", "agent")))
OFF = AudioConfig(crosstalk=CrosstalkConfig(enabled=False))


@pytest.fixture(scope="module")
def call() -> tuple[PcmN, PcmN]:
    """The first 16 s of customer and agent, at 16 kHz."""
    return part(0, 16)


@pytest.fixture(scope="module")
def argument() -> tuple[PcmN, PcmN]:
    """24 s of the demo call in which the customer talks into the agent's words."""
    return part(20, 44)


def part(start_s: int, end_s: int) -> tuple[PcmN, PcmN]:
    with av.open(str(CALL)) as container:
        resampler = av.AudioResampler(format="s16p", layout="stereo", rate=16_000)
        blocks = [f.to_ndarray() for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    sound = np.concatenate(blocks, axis=1)[:, start_s * 16_000 : end_s * 16_000]
    return sound[0], sound[1]


def leaking(sound: PcmN, other: PcmN, db: float, delay_ms: int) -> PcmN:
    """`sound` with the other's echo: delayed, through a small loudspeaker and a room, compressed as on a line."""
    echo = np.convolve(other.astype(float), [1, 0, -0.6, 0, 0.2], "same")
    echo += 0.4 * np.roll(echo, 200) + 0.2 * np.roll(echo, 731)
    echo = 8000 * np.tanh(echo / 8000) * np.sqrt((other.astype(float) ** 2).mean() / (echo**2).mean())
    echo = np.concatenate([np.zeros(delay_ms * 16), echo])[: len(sound)]
    mixed = np.clip((sound + echo * 10 ** (db / 20)) / 32768, -1, 1)
    steps = np.round(127 * np.log1p(255 * np.abs(mixed)) / np.log(256)) / 127  # mu-law
    return (np.sign(mixed) * (256**steps - 1) / 255 * 32767).astype(np.int16)


def cut(
    customer: PcmN, agent: PcmN, config: AudioConfig | None = None, step: int = 16_000, **more: list[str]
) -> tuple[list[SpeechSegment], list[str]]:
    """Segments, and everything that is said of the call, in order."""
    cutter, segments = CallCutter(TWO, config, **more), []
    for start in range(0, len(customer), step):
        for name, sound in (("customer", customer), ("agent", agent)):
            segments += cutter.push(AudioChunk(name, start, 16_000, sound[start : start + step]))
    segments += cutter.flush()
    return segments, [note for segment in segments for note in segment.notes] + [*cutter.take_notes()]


def places(segments: list[SpeechSegment]) -> list[tuple[str, int, int]]:
    return [(segment.channel, segment.start_ms, segment.end_ms) for segment in segments]


def test_channels_apart_are_left_as_they_are(call):
    segments, notes = cut(*call)
    assert places(segments) == places(cut(*call, OFF)[0])
    assert notes == []


@pytest.mark.parametrize(("db", "delay_ms"), [(-12, 20), (-18, 0), (-24, 300), (-30, 60)])
def test_an_echo_is_no_utterance(call, db: int, delay_ms: int):
    customer, agent = call
    clean = places(cut(customer, agent)[0])
    heard = leaking(customer, agent, db, delay_ms)
    segments, notes = cut(heard, agent)
    assert len(cut(heard, agent, OFF)[0]) > len(clean)  # the echo is loud enough to matter
    assert [channel for channel, *_ in places(segments)] == [channel for channel, *_ in clean]
    for (_, start, end), (_, expected_start, expected_end) in zip(places(segments), clean, strict=True):
        assert abs(start - expected_start) <= 600
        assert abs(end - expected_end) <= 600
    (note,) = notes
    assert note.startswith("crosstalk: channel customer also carries the sound of agent (")


def test_a_leak_both_ways_is_said_of_both(call):
    customer, agent = call
    clean = [channel for channel, *_ in places(cut(customer, agent)[0])]
    segments, notes = cut(leaking(customer, agent, -18, 80), leaking(agent, customer, -21, 40))
    assert [segment.channel for segment in segments] == clean
    assert len(notes) == 2


@pytest.mark.parametrize("step", [160, 4321, 128_000])
def test_any_chunks_give_the_same_segments_and_notes_in_the_same_place(call, step: int):
    customer, agent = (sound[: 8 * 16_000] for sound in call)
    heard = leaking(customer, agent, -18, 120)
    whole, notes = cut(heard, agent)
    again, notes_again = cut(heard, agent, step=step)
    assert (places(again), [s.notes for s in again], notes_again) == (
        places(whole),
        [s.notes for s in whole],
        notes,
    )
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(again, whole, strict=True))


@pytest.mark.parametrize("gain", [1.0, 0.6])
def test_the_same_sound_twice_is_one_channel(call, gain: float):
    mono = (call[0] // 2 + call[1] // 2).astype(np.int16)
    other = (mono * gain).astype(np.int16)
    segments, notes = cut(mono, other)
    assert {segment.channel for segment in segments} == {"customer"}
    assert notes == ["crosstalk: customer and agent carry the same sound, taken for customer's"]
    strict, notes = cut(mono, other, precedence=["agent", "customer"])
    assert {segment.channel for segment in strict} == {"agent"}  # whose policy then decides
    assert notes == ["crosstalk: agent and customer carry the same sound, taken for agent's"]


@pytest.mark.parametrize(("db", "delay_ms"), [(-18, 150), (-24, 300)])
def test_an_echo_behind_own_words_is_no_part_of_them(argument, db: int, delay_ms: int):
    """With a pause behind it, it stayed: the agent was judged by what the customer said."""
    customer, agent = argument
    late = delay_ms * 16
    echo = lambda sound: (np.concatenate([np.zeros(late), sound[:-late]]) * 10 ** (db / 20)).astype(np.int16)  # noqa: E731
    segments, _ = cut(customer + echo(agent), agent + echo(customer))
    expected, _ = cut(customer, agent)
    (clean_ms,) = (s.end_ms for s in expected if s.channel == "agent" and 6000 < s.start_ms < 8000)
    (end_ms,) = (s.end_ms for s in segments if s.channel == "agent" and 6000 < s.start_ms < 8000)
    assert abs(end_ms - clean_ms) <= 600


@pytest.mark.parametrize("delay_ms", [0, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_short_word_is_in_one_channel_too_where_they_are_known_to_be_alike(argument, delay_ms: int, sign: int):
    mono = (argument[0] // 2 + argument[1] // 2).astype(np.int16)
    other = np.concatenate([np.zeros(delay_ms * 16, np.int16), mono[: len(mono) - delay_ms * 16]])
    segments, _ = cut(mono, (sign * other).astype(np.int16))
    assert segments[-1].end_ms - segments[-1].start_ms <= 500  # the file ends in the middle of a word
    assert {segment.channel for segment in segments} == {"customer"}


@pytest.mark.parametrize("shift_s", [1.0, 4.5])
def test_two_who_talk_at_once_are_two(call, shift_s: float):
    customer, agent = call[0], np.roll(call[1], int(shift_s * 16_000))
    both, notes = cut(customer, agent)
    assert places(both) == places(cut(customer, agent, OFF)[0])
    assert notes == []
    leaky, _ = cut(leaking(customer, agent, -18, 120), agent)
    spoken = {(s.channel, t) for s in both for t in range(s.start_ms // 500 + 2, s.end_ms // 500 - 1)}
    kept = {(s.channel, t) for s in leaky for t in range(s.start_ms // 500 - 1, s.end_ms // 500 + 2)}
    assert spoken <= kept


def test_what_is_open_is_looked_at_likewise(call):
    customer, agent = call
    heard, cutter = leaking(customer, agent, -18, 120), CallCutter(TWO)
    looks = {"customer": 0, "agent": 0}
    for start in range(0, 5 * 16_000, 8000):
        for name, sound in (("customer", heard), ("agent", agent)):
            cutter.push(AudioChunk(name, start, 16_000, sound[start : start + 8000]))
            looks[name] += cutter.so_far(name) is not None
    assert looks["agent"] > 3  # who greets
    assert looks["customer"] <= 1  # the first look may come before there is enough to compare


def test_lag_gain_and_share_are_those_of_the_echo():
    rng = np.random.default_rng(0)
    other = rng.normal(0, 0.1, 20_000).astype(np.float32)
    own = 0.1 * other[4000:12_000] + rng.normal(0, 0.005, 8000).astype(np.float32)
    found = image(own, other, 5000)
    assert found is not None
    assert found.lag_ms == 1000 / PER_MS
    assert found.gain_db == pytest.approx(-20, abs=1)  # the noise counts
    assert found.coherence == pytest.approx(0.8, abs=0.05)
    assert image(rng.normal(0, 0.1, 8000).astype(np.float32), other, 5000) is None
    assert image(np.zeros(8000, np.float32), other, 5000) is None


def test_history_knows_gaps_and_forgets():
    history = History()
    sound = np.arange(1, 1002, dtype=np.int16)
    for start in range(0, 1001, 7):  # odd pieces
        history.push(sound[start : start + 7])
    history.skip(1000)
    history.push(sound[:1000])
    read = history.read(-10, 500 + 8000 + 500)
    assert np.array_equal(read[10:510], decimated(sound))
    assert not read[:10].any()
    assert not read[511:8510].any()  # the odd sample is the first of a pair
    assert np.count_nonzero(read[8510:]) > 450
    history.forget_before(1000)
    assert not history.read(0, 500).any()
