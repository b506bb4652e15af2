"""Sound stands in the events where it stands in its file: late tracks, holes, drifting and odd time stamps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bcaf_stream.audio.avi_layout import places_of_chunks
from bcaf_stream.audio.decoder import Decoder
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.errors import SourceError
from bcaf_stream.types import Gap
from tests.unit.audio.signals import TrackOf, babble, late, mux, onset_s, silence, tone, without

RATE = 48_000


def heard(path, **options):
    """All samples of a file's first channel, and the decoder, which is closed."""
    decoder = Decoder(path, **options)
    blocks = []
    while (block := decoder.read(decoder.info.rate)).shape[1]:
        blocks.append(block)
    decoder.close()
    return np.concatenate(blocks, axis=1)[0], decoder


def gaps(source):
    with source:
        return [item for item in source.with_gaps() if isinstance(item, Gap)]


def beeps(seconds: int, rate: int = RATE):
    """A tone in the middle of each second: shows where on the clock one is."""
    return np.concatenate([silence(0.5, rate), tone(0.3, rate, 600), silence(0.2, rate)] * seconds)[None]


def beep_times(sound_N, rate: int = RATE):
    """When each tone begins, in s, less the half second."""
    block = rate // 200
    loud = np.abs(sound_N[: len(sound_N) // block * block].reshape(-1, block).astype(np.int32)).max(axis=1) > 2000
    return (np.flatnonzero(loud[1:] & ~loud[:-1]) + 1) / 200 - 0.5


LATE = [
    ("a.mkv", "libopus", RATE),
    ("a.mka", "flac", 16_000),
    ("a.webm", "libopus", RATE),
    ("a.mp4", "aac", 16_000),
    ("a.m4a", "aac", 16_000),
    ("a.mov", "pcm_s16le", 16_000),
    ("a.ogg", "libopus", RATE),
    ("a.ts", "aac", 16_000),
    ("a.flv", "aac", 44_100),
]


@pytest.mark.parametrize(("name", "codec", "rate"), LATE)
@pytest.mark.parametrize("start_s", [0.7, 3.87])
def test_a_track_that_starts_late_is_heard_late(tmp_path, name, codec, rate, start_s):
    video_s = 0 if name.endswith(("mka", "m4a", "ogg", "webm")) else 6.0
    path = mux(tmp_path / name, [TrackOf(tone(2, rate)[None], rate, codec, late(start_s))], video_s)
    sound_N, decoder = heard(path)
    # A container rounds to 1 ms, and an encoder without a place to write its delay is late by a frame.
    assert onset_s(sound_N, rate) == pytest.approx(start_s, abs=0.005 + 1024 / rate)
    assert not decoder.notes
    found = gaps(FileSource(path))
    if start_s < 1:
        assert not found
    else:
        assert [(gap.start, gap.reason, gap.rate) for gap in found] == [(0, "not started", rate)]
        assert found[0].end / rate == pytest.approx(start_s, abs=0.005 + 1024 / rate)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [*LATE, ("a.mp3", "libmp3lame", 16_000), ("a.aac", "aac", 16_000), ("a.wav", "pcm_s16le", 8000)],
)
def test_the_delay_of_an_encoder_is_no_gap(tmp_path, name, codec, rate):
    path = mux(tmp_path / name, [TrackOf(tone(2, rate)[None], rate, codec)])
    sound_N, decoder = heard(path)
    assert onset_s(sound_N, rate) == pytest.approx(0, abs=0.005 + 2 * 1152 / rate)
    assert not decoder.notes
    assert not gaps(FileSource(path))


@pytest.mark.parametrize("start_s", [1.4, 36_000.0])
def test_a_transport_stream_begins_with_its_earliest_picture_or_sound(tmp_path, start_s):
    track = TrackOf(tone(2, 16_000)[None], 16_000, "aac", late(2.5 + start_s))
    alone = TrackOf(tone(2, 16_000)[None], 16_000, "aac", late(start_s))
    only, _ = heard(mux(tmp_path / "only.ts", [alone]))
    assert onset_s(only, 16_000) == pytest.approx(0, abs=0.1)
    both = TrackOf(tone(1, 16_000)[None], 16_000, "aac", late(start_s))
    path = mux(tmp_path / "two.ts", [both, track])
    late_N, _ = heard(path, track=1)
    assert onset_s(late_N, 16_000) == pytest.approx(2.5, abs=0.1)


def test_times_of_day_are_no_silence_of_years(tmp_path):
    now = 1_764_326_000.0
    sound = tone(2, RATE)[None]
    one = mux(tmp_path / "one.mka", [TrackOf(sound, RATE, "libopus", late(now))])
    other = mux(tmp_path / "other.mka", [TrackOf(sound, RATE, "libopus", late(now + 5))])
    assert onset_s(heard(one)[0], RATE) == pytest.approx(0, abs=0.03)
    with FileSource({"agent": one, "customer": other}) as source:
        assert source.duration_ms == pytest.approx(7000, abs=60)
        assert [(gap.channel, round(gap.end / gap.rate, 1)) for gap in gaps(source)] == [("customer", 5.0)]


def test_a_party_that_joined_late_is_heard_late(tmp_path):
    agent = mux(tmp_path / "agent.mka", [TrackOf(tone(6, RATE)[None], RATE, "libopus")])
    customer = mux(tmp_path / "customer.webm", [TrackOf(tone(1, RATE)[None], RATE, "libopus", late(4.993))])
    parts = {"customer": [], "agent": []}
    with FileSource({"customer": customer, "agent": agent}) as source:
        for chunk in source:
            parts[chunk.channel].append(chunk.samples)
    assert onset_s(np.concatenate(parts["customer"]), RATE) == pytest.approx(4.993, abs=0.01)
    assert onset_s(np.concatenate(parts["agent"]), RATE) == pytest.approx(0, abs=0.01)


class TestHoles:
    @pytest.mark.parametrize(
        ("name", "codec", "rate"),
        [
            ("a.webm", "libopus", RATE),
            ("a.mkv", "aac", 16_000),
            ("a.ogg", "libopus", RATE),
            ("a.flv", "aac", 44_100),
        ],
    )
    def test_three_seconds_without_packets_are_a_gap(self, tmp_path, name, codec, rate):
        path = mux(tmp_path / name, [TrackOf(beeps(12, rate), rate, codec, without(4.3, 7.3))])
        sound_N, decoder = heard(path)
        times = beep_times(sound_N, rate)
        np.testing.assert_allclose(times, [0, 1, 2, 3, 7, 8, 9, 10, 11], atol=0.011 + 2048 / rate)
        (gap,) = gaps(FileSource(path))  # an Ogg page says when its last packet ends, and holds many
        assert gap.start / rate == pytest.approx(4.3, abs=0.35 if name == "a.ogg" else 0.1)
        assert gap.end / rate == pytest.approx(7.3, abs=0.35 if name == "a.ogg" else 0.1)
        assert gap.reason == "missing in the recording"
        assert "of sound are missing, the first at 4." in decoder.notes[0]

    def test_what_a_chunk_and_a_gap_hold_is_all_and_in_order(self, tmp_path):
        path = mux(tmp_path / "a.webm", [TrackOf(beeps(12), RATE, "libopus", without(4.3, 7.3))])
        for slice_ms in (10, 100, 5000):
            expected, filled = 0, []
            with FileSource(path, slice_ms=slice_ms) as source:
                for item in source.with_gaps():
                    assert item.start == expected
                    samples = np.zeros(item.end - item.start) if isinstance(item, Gap) else item.samples
                    filled.append(samples)
                    expected += len(samples)
            with FileSource(path) as source:
                np.testing.assert_array_equal(np.concatenate(filled), np.concatenate([c.samples for c in source]))

    def test_pauses_that_were_not_sent_are_silence(self, tmp_path):
        """DTX: the sound of a pause has one packet in twenty."""

        def dtx(time_s: float) -> float | None:
            pause = not 0.45 < time_s % 1 < 0.85
            return None if pause and round(time_s * 50) % 20 else time_s

        path = mux(tmp_path / "dtx.webm", [TrackOf(beeps(10), RATE, "libopus", dtx)])
        sound_N, decoder = heard(path)
        assert len(sound_N) / RATE == pytest.approx(10, abs=0.5)
        np.testing.assert_allclose(beep_times(sound_N), range(10), atol=0.02)
        assert len(decoder.notes) == 1
        assert not gaps(FileSource(path))

    def test_single_lost_packets_are_silence(self, tmp_path):
        path = mux(
            tmp_path / "a.webm",
            [TrackOf(beeps(10), RATE, "libopus", lambda t: None if round(t * 50) % 37 == 36 else t)],
        )
        sound_N, _ = heard(path)
        times = beep_times(sound_N)  # some tones have a hole
        assert all(np.abs(times - second).min() < 0.02 for second in range(10))

    def test_a_pause_at_the_end_is_no_early_stop(self, tmp_path):
        path = mux(tmp_path / "a.mkv", [TrackOf(beeps(12), RATE, "libopus", without(7.5, 11.9))])
        heard(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10])
        with pytest.raises(SourceError, match=r"ends at \d\.\d\d s, but its header says 1[12]\.\d\d s"):
            heard(path)

    def test_a_hole_of_hours_costs_no_memory(self, tmp_path):
        path = mux(
            tmp_path / "a.mkv",
            [TrackOf(beeps(4), RATE, "libopus", lambda t: t if t < 2 else t + 7200)],
        )
        with FileSource(path, slice_ms=60_000) as source:
            items = list(source.with_gaps())
        (gap,) = [item for item in items if isinstance(item, Gap)]
        assert (gap.end - gap.start) / RATE == pytest.approx(7200, abs=0.1)


class TestDrift:
    @pytest.mark.parametrize("ppm", [1000, -1000])
    def test_a_clock_that_runs_otherwise_is_followed(self, tmp_path, ppm):
        seconds = 60
        stretch = 1 + ppm / 1e6
        path = mux(
            tmp_path / "a.webm", [TrackOf(beeps(seconds, 16_000), 16_000, "libopus", lambda t: t * stretch)]
        )
        sound_N, decoder = heard(path)
        times = beep_times(sound_N, decoder.info.rate)
        np.testing.assert_allclose(times, (np.arange(seconds) + 0.5) * stretch - 0.5, atol=0.011)
        assert not decoder.notes
        assert not gaps(FileSource(path))

    def test_packets_that_were_stamped_when_they_came_leave_no_gap(self, tmp_path):
        """A stall of two seconds, then all at once: nothing is missing, and nothing is torn."""

        def on_arrival(time_s: float) -> float:
            return max(time_s, 6.0 + (time_s - 4.0) / 1000) if 4 <= time_s < 6 else time_s

        path = mux(tmp_path / "a.mkv", [TrackOf(beeps(12), RATE, "libopus", on_arrival)])
        sound_N, decoder = heard(path)
        np.testing.assert_allclose(beep_times(sound_N), range(12), atol=0.011)
        assert not decoder.notes

    def test_jitter_is_no_gap(self, tmp_path):
        random = np.random.default_rng(3)
        path = mux(
            tmp_path / "a.mkv",
            [TrackOf(beeps(20), RATE, "libopus", lambda t: t + float(random.uniform(0, 0.0099)))],
        )
        sound_N, decoder = heard(path)
        np.testing.assert_allclose(beep_times(sound_N), range(20), atol=0.021)
        assert not decoder.notes

    def test_a_clock_that_starts_anew_goes_on(self, tmp_path):
        one = mux(tmp_path / "one.ts", [TrackOf(tone(3, 16_000)[None], 16_000, "aac", late(50.0))])
        two = mux(tmp_path / "two.ts", [TrackOf(tone(3, 16_000)[None], 16_000, "aac")])
        both = tmp_path / "both.ts"
        both.write_bytes(one.read_bytes() + two.read_bytes())
        sound_N, decoder = heard(both)
        assert len(sound_N) / 16_000 == pytest.approx(6, abs=0.4)
        assert any("its clock starts anew at" in note for note in decoder.notes)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.flac", "flac"), ("a.aac", "aac"), ("a.mp3", "libmp3lame"), ("a.ts", "aac"), ("a.webm", "libopus")],
)
def test_two_files_in_one_are_both_read(tmp_path, name, codec):
    path = mux(tmp_path / name, [TrackOf(babble(10, 16_000)[None], 16_000, codec)])
    path.write_bytes(path.read_bytes() * 2)
    sound_N, decoder = heard(path)
    assert len(sound_N) / decoder.info.rate == pytest.approx(20, abs=0.5)
    assert np.abs(sound_N[-decoder.info.rate :]).max() > 1000


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.mp3", "libmp3lame"), ("a.opus", "libopus")])
def test_damage_in_the_middle_is_told_and_the_rest_is_heard(tmp_path, name, codec):
    rate = RATE if codec == "libopus" else 16_000
    path = mux(tmp_path / name, [TrackOf(babble(6, rate)[None], rate, codec)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(5).bytes(3000)
    path.write_bytes(data)
    if codec == "libmp3lame":  # its frames have no time stamps: what is lost is missing at the end
        with pytest.raises(SourceError, match="but its header says"):
            heard(path)
        return
    sound_N, decoder = heard(path)
    assert decoder.notes
    assert len(sound_N) / rate == pytest.approx(6, abs=0.3)
    assert np.abs(sound_N[-rate:]).max() > 1000


def test_the_pauses_of_amr_are_silence(tmp_path):
    """A phone's recorder sends nothing, or a description of noise, while nobody speaks (3GPP TS 26.101)."""
    rng = np.random.default_rng(1)
    spoken = [b"\x04" + rng.bytes(12) for _ in range(50)]  # of 4.75 kbit/s; 20 ms each
    noise, nothing = b"\x44" + bytes(5), b"\x7c"
    path = tmp_path / "phone.amr"
    path.write_bytes(b"#!AMR\n" + b"".join([*spoken, noise, *[nothing] * 99, *spoken]))
    with FileSource(path) as source:
        chunks = list(source)
    assert sum(len(chunk.samples) for chunk in chunks) == pytest.approx(4 * 8000, abs=400)


def test_what_amr_did_not_send_is_no_damage(tmp_path):
    spoken = b"\x04" + bytes(12)
    path = tmp_path / "phone.amr"
    path.write_bytes(b"#!AMR\n" + spoken * 50 + b"\x7c" * 100 + spoken * 50)
    _, decoder = heard(path)
    assert not [note for note in decoder.notes if "decoded" in note]


@pytest.mark.parametrize("stamp", [late(5.0), without(2.0, 4.0)], ids=["late", "pause"])
def test_sound_that_is_late_in_an_avi_file_is_heard_late(tmp_path, stamp):
    """Its writers put empty chunks there, which FFmpeg passes over: the file seems cut then."""
    rate = 16_000
    tracks = [TrackOf(beeps(8, rate), rate, "libmp3lame", stamp), TrackOf(beeps(8, rate), rate, "libmp3lame")]
    path = mux(tmp_path / "screen.avi", tracks, video_s=14.0)
    whole_N, _ = heard(path, track=1)
    sound_N, decoder = heard(path, track=0)
    expected = [time_s for at_s in beep_times(whole_N, rate) if (time_s := stamp(at_s + 0.5)) is not None]
    assert np.array(expected) - 0.5 == pytest.approx(beep_times(sound_N, rate), abs=0.05)
    assert [note for note in decoder.notes if "missing" in note]


def test_an_avi_file_without_empty_chunks_needs_no_count(tmp_path):
    track = TrackOf(beeps(3, 16_000), 16_000, "libmp3lame")
    path = mux(tmp_path / "a.avi", [track], video_s=3.0)
    assert places_of_chunks(path, 1) is None
    assert places_of_chunks(mux(tmp_path / "b.avi", [replace(track, codec="pcm_s16le")], video_s=3.0), 1) is None


@given(cut=st.integers(0, 4000), damage=st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_damaged_avi_file_is_counted_as_far_as_it_goes(tmp_path, cut, damage):
    path = tmp_path / "a.avi"
    if not path.exists():
        mux(path, [TrackOf(beeps(1, 16_000), 16_000, "libmp3lame", late(0.5))], video_s=2.0)
    data = path.read_bytes()
    broken = tmp_path / "broken.avi"
    broken.write_bytes(data[:cut] + damage + data[cut + len(damage) : max(cut, len(data) - cut)])
    places_N = places_of_chunks(broken, 1)
    assert places_N is None or (np.diff(places_N) > 0).all()
