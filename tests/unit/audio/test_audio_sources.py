import contextlib
import functools
import gc
import http.server
import io
import os
import socket
import struct
import threading
import tracemalloc

import numpy as np
import pytest

from bcaf_stream.audio.decoder import Decoder, probe
from bcaf_stream.audio.sources import FileSource, default_channels, parse_inputs
from bcaf_stream.errors import SourceError, UsageError
from bcaf_stream.types import Channel
from tests.unit.audio.signals import babble, decode, tone, write

RATE = 8000


def collect(source):
    """Samples by channel, after checking that the chunks of each channel follow on each other."""
    parts = {channel.name: [] for channel in source.channels}
    for chunk in source:
        assert chunk.samples.dtype == np.int16
        assert chunk.start == sum(map(len, parts[chunk.channel]))
        parts[chunk.channel].append(chunk.samples)
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


def collect_until_error(source):
    """Number of samples that came before the error, and its message."""
    sizes = []
    with pytest.raises(SourceError) as caught:
        sizes.extend(len(chunk.samples) for chunk in source)
    message = str(caught.value)
    assert "\n" not in message
    return sum(sizes), message


@pytest.fixture
def stereo(tmp_path):
    sound = np.stack([tone(1.234, RATE, 300), tone(1.234, RATE, 700)])
    return write(tmp_path / "call.wav", sound, RATE), sound


def test_channels_of_a_file_are_kept_apart_bit_for_bit(stereo):
    path, sound = stereo
    with FileSource(path) as source:
        assert [(c.name, c.role) for c in source.channels] == [("customer", "customer"), ("agent", "agent")]
        assert source.duration_ms == 1234
        got = collect(source)
    np.testing.assert_array_equal(got["customer"], sound[0])
    np.testing.assert_array_equal(got["agent"], sound[1])


def test_each_slice_of_time_has_one_chunk_per_channel(stereo):
    chunks = list(FileSource(stereo[0], slice_ms=100, clock=lambda: 42))
    assert [c.channel for c in chunks] == ["customer", "agent"] * 13
    assert [c.start for c in chunks[::2]] == list(range(0, 9873, 800))
    assert {c.received_at for c in chunks} == {42}


@pytest.mark.parametrize("slice_ms", [10, 33, 1000, 100_000])
def test_the_slice_does_not_change_the_samples(stereo, slice_ms):
    got = collect(FileSource(stereo[0], slice_ms=slice_ms))
    np.testing.assert_array_equal(np.stack(list(got.values())), stereo[1])


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.flac", "flac", 11025),
        ("a.mp3", "libmp3lame", 44100),
        ("a.opus", "libopus", 48000),
        ("a.m4a", "aac", 22050),
        ("a.mkv", "flac", 16000),
        ("u.wav", "pcm_mulaw", 8000),
        ("h.wav", "pcm_s24le", 8000),
    ],
)
def test_formats_keep_rate_and_samples(tmp_path, name, codec, rate):
    path = write(tmp_path / name, np.stack([tone(2, rate)]), rate, codec)
    info = probe(path)
    assert (info.rate, info.channels) == (rate, 1)
    assert info.duration_ms == pytest.approx(2000, abs=60)
    assert info.samples == pytest.approx(2 * rate, abs=0.06 * rate)
    np.testing.assert_array_equal(collect(FileSource(path))["mono"], decode(path)[0])


@pytest.mark.parametrize(
    ("name", "codec", "error"),
    [
        ("a.w64", "pcm_s16le", 0),
        ("a.aifc", "pcm_mulaw", 300),
        ("a.aiff", "pcm_s16be", 0),
        ("a.au", "pcm_alaw", 300),
        ("eight.wav", "pcm_u8", 256),
        ("double.wav", "pcm_f64le", 1),
        ("a.caf", "pcm_s24be", 0),
        ("a.mka", "flac", 0),
        ("sp ace \N{HEADPHONE} call#1.wav", "pcm_s16le", 0),
        ("-dash.wav", "pcm_s16le", 0),
    ],
)
def test_what_was_written_is_read_channel_by_channel(tmp_path, name, codec, error):
    sides_CN = np.stack([tone(1, 8000, 440), tone(1, 8000, 700, peak=5000)])
    got = collect(FileSource(write(tmp_path / name, sides_CN, 8000, codec)))
    assert list(got) == ["customer", "agent"]
    assert np.abs(np.stack(list(got.values())).astype(int) - sides_CN).max() <= error


@pytest.mark.parametrize("piped", [False, True])
def test_a_big_endian_wav_is_not_played_as_noise(tmp_path, piped):
    """FFmpeg takes the samples of RIFX for little-endian ones."""
    sound = tone(1, 8000).astype(">i2").tobytes()
    fmt = struct.pack(">4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16_000, 2, 16)
    body = b"WAVE" + fmt + struct.pack(">4sI", b"data", len(sound)) + sound
    path = tmp_path / "a.wav"
    path.write_bytes(struct.pack(">4sI", b"RIFX", len(body)) + body)
    with pytest.raises(SourceError, match="big-endian WAV"):
        probe(io.BytesIO(path.read_bytes()) if piped else path)


def test_the_sound_of_a_video_file(tmp_path):
    import av

    path = tmp_path / "meeting.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        audio = container.add_stream("flac", rate=16000)
        audio.layout = "mono"
        for index in range(20):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            picture.pts = index
            container.mux(video.encode(picture))
        sound = av.AudioFrame.from_ndarray(tone(1.5)[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts = 16000, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
        container.mux(video.encode(None))
    np.testing.assert_array_equal(collect(FileSource(path))["mono"], tone(1.5))


def test_float_samples_beyond_full_scale_are_clipped_not_wrapped(tmp_path):
    sound = np.array([[0.0, 0.5, 1.0, 1.5, -1.0, -7.0] * 100], np.float32)
    got = collect(FileSource(write(tmp_path / "f.wav", sound, RATE, "pcm_f32le")))["mono"]
    np.testing.assert_array_equal(got[:6], [0, 16384, 32767, 32767, -32768, -32768])


def test_default_names_and_roles():
    assert default_channels(1) == (Channel("mono", "speaker"),)
    assert default_channels(2) == (Channel("customer", "customer"), Channel("agent", "agent"))
    assert default_channels(3) == (Channel("ch1"), Channel("ch2"), Channel("ch3"))


def test_names_and_roles_can_be_given(stereo):
    named = (Channel("left", "agent"), Channel("right", "customer"))
    assert FileSource(stereo[0], named).channels == named
    with pytest.raises(SourceError, match="has 2 channels, and 1 are named"):
        FileSource(stereo[0], named[:1])


def test_six_channels(tmp_path):
    sound = np.stack([tone(0.3, RATE, 200 + 100 * i) for i in range(6)])
    got = collect(FileSource(write(tmp_path / "room.wav", sound, RATE)))
    assert list(got) == ["ch1", "ch2", "ch3", "ch4", "ch5", "ch6"]
    np.testing.assert_array_equal(np.stack(list(got.values())), sound)


class TestOneFilePerChannel:
    def test_rates_and_lengths_may_differ_and_the_shorter_goes_on_in_silence(self, tmp_path):
        agent = write(tmp_path / "agent.flac", tone(1.0, 11025)[None], 11025, "flac")
        customer = write(tmp_path / "customer.wav", tone(2.5, RATE)[None], RATE)
        with FileSource({"customer": customer, "agent": agent, "bot": agent}) as source:
            assert [c.role for c in source.channels] == ["customer", "agent", "speaker"]
            assert source.duration_ms == 2500
            got = collect(source)
        np.testing.assert_array_equal(got["customer"], tone(2.5, RATE))
        np.testing.assert_array_equal(got["agent"][:11025], tone(1.0, 11025))
        assert not got["agent"][11025:].any()
        assert len(got["agent"]) == pytest.approx(2.5 * 11025, abs=1)

    def test_lockstep_holds_between_rates(self, tmp_path):
        agent = write(tmp_path / "agent.flac", tone(1.0, 11025)[None], 11025, "flac")
        customer = write(tmp_path / "customer.wav", tone(1.0, RATE)[None], RATE)
        chunks = list(FileSource({"customer": customer, "agent": agent}))
        ends = [(c.start + len(c.samples)) / c.rate for c in chunks]
        assert [c.channel for c in chunks] == ["customer", "agent"] * 10
        assert max(abs(a - b) for a, b in zip(ends[::2], ends[1::2], strict=True)) < 1 / RATE

    def test_a_role_can_be_given(self, tmp_path):
        path = write(tmp_path / "a.wav", tone(0.2, RATE)[None], RATE)
        assert FileSource({"jo": path}, [Channel("jo", "agent")]).channels == (Channel("jo", "agent"),)
        with pytest.raises(SourceError, match="'joe' has a role but no file"):
            FileSource({"jo": path}, [Channel("joe", "agent")])

    def test_a_file_with_two_channels_is_refused(self, stereo):
        with pytest.raises(SourceError, match=r"call\.wav: has 2 channels, but is given as one"):
            FileSource({"customer": stereo[0]})


class TestInputWords:
    def test_forms(self):
        assert parse_inputs(["a.wav"]) == "a.wav"
        assert parse_inputs(["https://h/x?sig=1"]) == "https://h/x?sig=1"
        assert parse_inputs(["x/a=b.wav"]) == "x/a=b.wav"
        assert parse_inputs(["customer=/x/a.flac", "agent=b=c.wav"]) == {
            "customer": "/x/a.flac",
            "agent": "b=c.wav",
        }
        assert parse_inputs(["solo=a.flac"]) == {"solo": "a.flac"}

    def test_a_file_whose_name_has_a_sign(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a=b.wav").touch()
        assert parse_inputs(["a=b.wav"]) == "a=b.wav"

    @pytest.mark.parametrize(
        "words", [[], ["a.wav", "b.wav"], ["x=a.wav", "b.wav"], ["x=a", "x=b"], ["=a"], ["x="]]
    )
    def test_wrong_usage(self, words):
        with pytest.raises(UsageError):
            parse_inputs(words)


class TestBadFiles:
    def test_missing_directory_and_empty(self, tmp_path):
        with pytest.raises(SourceError, match=r"nope\.wav: no such file"):
            FileSource(tmp_path / "nope.wav")
        with pytest.raises(SourceError, match="is a directory"):
            FileSource(tmp_path)
        (tmp_path / "empty.wav").touch()
        with pytest.raises(SourceError, match=r"empty\.wav: is empty"):
            FileSource(tmp_path / "empty.wav")

    @pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.txt", "a.flac"])
    def test_what_is_no_audio(self, tmp_path, name):
        (tmp_path / name).write_text("Good morning, how can I help you?\n" * 200)
        with pytest.raises(SourceError, match=f"{name}: (is not an audio|holds no audio|holds no sound)"):
            list(FileSource(tmp_path / name))

    def test_a_subtitle_file(self, tmp_path):
        (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHi\n")
        with pytest.raises(SourceError, match=r"a\.srt: holds no audio stream"):
            FileSource(tmp_path / "a.srt")

    def test_no_permission(self, tmp_path):
        path = write(tmp_path / "a.wav", tone(0.1, RATE)[None], RATE)
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(SourceError, match="may not be read"):
            FileSource(path)

    def test_zero_channels_and_zero_samples(self, stereo, tmp_path):
        data = bytearray(stereo[0].read_bytes())
        data[22:24] = b"\0\0"
        (tmp_path / "zero.wav").write_bytes(data)
        with pytest.raises(SourceError, match=r"zero\.wav: holds no audio stream"):
            FileSource(tmp_path / "zero.wav")
        fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
        (tmp_path / "none.wav").write_bytes(b"RIFF" + struct.pack("<I", 36) + b"WAVE" + fmt + b"data\0\0\0\0")
        with pytest.raises(SourceError, match=r"none\.wav: (holds no sound|is not an audio)"):
            list(FileSource(tmp_path / "none.wav"))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("channel", [0, 1])
    def test_samples_that_are_no_numbers(self, tmp_path, bad, channel):
        sound = np.zeros((2, 5 * RATE), np.float32)
        sound[channel, 3 * RATE + 80] = bad
        got, message = collect_until_error(FileSource(write(tmp_path / "n.wav", sound, RATE, "pcm_f32le")))
        assert "holds NaN or infinite samples at 3.01 s" in message
        assert 0 < got <= 2 * (3 * RATE + 80)

    @pytest.mark.parametrize(
        ("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "libmp3lame")]
    )
    def test_a_truncated_file_gives_its_beginning_and_then_says_what_is_lost(self, tmp_path, name, codec):
        path = write(tmp_path / name, babble(6)[None], 16000, codec)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10])
        got, message = collect_until_error(FileSource(path))
        assert 2.5 * 16000 < got < 4.5 * 16000
        second = f"{got / 16000:.2f} s"
        assert f"beyond {second}" in message or f"ends at {second}, but its header says 6.00 s" in message

    def test_even_ten_missing_milliseconds_are_told(self, tmp_path):
        path = write(tmp_path / "a.wav", np.zeros((1, 360_000), np.int16), 1000)
        path.write_bytes(path.read_bytes()[:-20])
        with FileSource(path) as source:
            assert sum(len(chunk.samples) for chunk in source) == 359_990
            assert source.notes == [
                f"{path}: its header promises 20 bytes more than there are; it is taken for complete"
            ]

    @pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
    def test_a_live_recording_without_a_length_is_no_error(self, stereo, size):
        path, sound = stereo
        data = bytearray(path.read_bytes())
        at = data.index(b"data") + 4
        data[at : at + 4] = struct.pack("<I", size)
        path.write_bytes(data)
        np.testing.assert_array_equal(np.stack(list(collect(FileSource(path)).values())), sound)

    def test_ffmpeg_stays_silent(self, tmp_path, capfd):
        path = write(tmp_path / "a.mp3", babble(3)[None], 16000, "libmp3lame")
        path.write_bytes(path.read_bytes()[:9000] + b"\x55" * 9000)
        with contextlib.suppress(SourceError):
            list(FileSource(path))
        assert capfd.readouterr() == ("", "")

    def test_a_broken_source_leaves_no_file_open(self, stereo, tmp_path):
        gc.collect()  # what other tests left open is not counted
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
        if before is None:
            pytest.skip("no /proc to count open files in")
        for _ in range(5):
            with pytest.raises(SourceError):
                FileSource({"customer": stereo[0], "agent": tmp_path / "nope.wav"})
            with pytest.raises(SourceError):
                FileSource({"customer": stereo[0]})
        assert len(os.listdir("/proc/self/fd")) == before


class TestUrls:
    def test_a_file_over_http(self, stereo):
        handler = functools.partial(_QuietHandler, directory=str(stereo[0].parent))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                base = f"http://127.0.0.1:{server.server_port}"
                got = collect(FileSource(f"{base}/call.wav"))
                with pytest.raises(SourceError, match="cannot be opened"):
                    FileSource(f"{base}/nope.wav")
            finally:
                server.shutdown()
                thread.join()
        np.testing.assert_array_equal(np.stack(list(got.values())), stereo[1])

    def test_unreachable_and_unknown(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(SourceError, match=r"http://127.*/x.wav: cannot be opened") as caught:
            FileSource(f"http://user:secret@127.0.0.1:{port}/x.wav?token=secret")
        assert "secret" not in str(caught.value)
        with pytest.raises(SourceError, match="foo://x: cannot be opened: protocol not found"):
            FileSource("foo://x")

    def test_a_server_that_says_nothing_is_given_up(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/x.wav"
            with pytest.raises(SourceError, match="cannot be opened"):
                FileSource(url, timeout_s=0.2)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_memory_does_not_grow_with_the_length(tmp_path):
    def peak(minutes):
        path = write(tmp_path / f"{minutes}.flac", np.zeros((1, minutes * 60 * RATE), np.int16), RATE, "flac")
        tracemalloc.start()
        for _ in FileSource(path):
            pass
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(8) < 1.5 * peak(1) + 100_000


def test_reading_on_after_the_end_gives_nothing(stereo):
    decoder = Decoder(stereo[0])
    assert decoder.read(10**6).shape == stereo[1].shape
    assert decoder.read(10).shape == (2, 0)
    decoder.close()


def test_too_short_slices_are_refused(stereo):
    with pytest.raises(SourceError, match="slice of 5 ms"):
        FileSource(stereo[0], slice_ms=5)
