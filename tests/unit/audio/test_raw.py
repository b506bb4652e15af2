"""Files without a header: read at what the name or the user says, and never at a guess."""

import av
import numpy as np
import pytest

from bcaf_stream.audio.decoder import Decoder
from bcaf_stream.audio.raw import parse_raw, raw_by_name
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.errors import SourceError, UsageError
from tests.unit.audio.signals import babble, write

SOUND = babble(3, 8000)


def encode(codec, sound_N=SOUND, rate=8000):
    """The bytes of a codec's packets, without a container."""
    context = av.CodecContext.create(codec, "w")
    context.sample_rate, context.layout, context.format = rate, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(sound_N[None], format="s16", layout="mono")
    frame.sample_rate = rate
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def read(path, raw=None):
    decoder = Decoder(path, raw=parse_raw(raw) if raw else None)
    sound = decoder.read(10**6)
    decoder.close()
    assert not decoder.notes
    return sound, decoder.info


def alike(one_N, other_N):
    count = min(len(one_N), len(other_N))
    return np.corrcoef(one_N[:count], other_N[:count])[0, 1]


@pytest.mark.parametrize(
    ("extension", "codec", "rate"),
    [
        *[(name, "pcm_mulaw", 8000) for name in ("ul", "ulaw", "mulaw", "pcmu", "UL")],
        *[(name, "pcm_alaw", 8000) for name in ("al", "alaw", "pcma")],
        *[("sln", "pcm_s16le", 8000), ("sln16", "pcm_s16le", 16_000), ("sln48", "pcm_s16le", 48_000)],
        ("g722", "g722", 16_000),
    ],
)
def test_the_name_says_what_it_is(tmp_path, extension, codec, rate):
    sound_N = babble(2, rate)
    path = tmp_path / f"rec.{extension}"
    path.write_bytes(encode(codec, sound_N, rate))
    (heard_N,), info = read(path)
    assert (info.rate, info.channels) == (rate, 1)
    assert len(heard_N) == pytest.approx(2 * rate, abs=100)
    assert alike(heard_N[22:], sound_N) > 0.9 if codec == "g722" else alike(heard_N, sound_N) > 0.99


def oki_adpcm(sound_N):
    """Dialogic's 4-bit ADPCM, after its application note: a small encoder, since FFmpeg only decodes it."""
    steps = [int(16 * 1.1**index) for index in range(49)]
    shifts = (-1, -1, -1, -1, 2, 4, 6, 8)
    index, last, nibbles = 0, 0, []
    for sample in sound_N.astype(int) >> 4:
        step, difference = steps[index], sample - last
        code = min(7, abs(difference) * 4 // step)
        change = (2 * code + 1) * step // 8
        last = max(-2048, min(2047, last + (change if difference >= 0 else -change)))
        nibbles.append(code | (8 if difference < 0 else 0))
        index = max(0, min(48, index + shifts[code]))
    return bytes(high << 4 | low for high, low in zip(nibbles[::2], nibbles[1::2], strict=True))


def test_dialogic_vox(tmp_path):
    path = tmp_path / "rec.vox"
    path.write_bytes(oki_adpcm(SOUND))
    (heard_N,), info = read(path)
    assert (info.rate, len(heard_N)) == (8000, len(SOUND))
    assert alike(heard_N, SOUND) > 0.95
    with FileSource(path) as source:
        assert sum(len(chunk.samples) for chunk in source) == len(SOUND)


@pytest.mark.parametrize(
    "name", ["a.raw", "a.pcm", "a.sw", "a.s16", "a.s16le", "a.u8", "a.f32", "a.lpcm", "a.bin"]
)
def test_a_name_that_says_too_little_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(SOUND.tobytes())
    with pytest.raises(SourceError, match=r"has no header, .*--raw mulaw:8000:1"):
        FileSource(tmp_path / name)


@pytest.mark.parametrize("name", ["a.raw", "a.wav", "a", "a.ul"])
def test_what_is_asked_for_goes_before_the_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(np.stack([SOUND, -SOUND]).T.astype("<i2").tobytes())
    heard_CN, info = read(path, "s16le:8000:2")
    assert (info.rate, info.channels, info.duration_ms) == (8000, 2, 3000)
    np.testing.assert_array_equal(heard_CN, [SOUND, -SOUND])


def test_a_header_goes_before_the_name_and_is_not_raw(tmp_path):
    wav = write(tmp_path / "a.wav", SOUND[None], 8000)
    for name in ("a.ul", "a.raw", "a.sln16"):
        (tmp_path / name).write_bytes(wav.read_bytes())
        (heard_N,), info = read(tmp_path / name)
        assert info.rate == 8000
        np.testing.assert_array_equal(heard_N, SOUND)
    with pytest.raises(SourceError, match=r"a\.wav: is a wav file, not raw mulaw; leave out --raw"):
        read(wav, "mulaw")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mulaw", ("mulaw", 8000, 1)),
        ("ULAW:16000", ("mulaw", 16_000, 1)),
        ("pcma:8000:2", ("alaw", 8000, 2)),
        ("s16:22050:6", ("s16le", 22_050, 6)),
        ("vox:6000", ("vox", 6000, 1)),
    ],
)
def test_the_option(text, found):
    raw = parse_raw(text)
    assert (raw.encoding, raw.rate, raw.channels) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mp3:8000", "must be one of mulaw, alaw"),
        ("s16le", "has no rate; write it as in --raw s16le:16000:1"),
        ("mulaw:8k", "must be ENCODING:RATE:CHANNELS"),
        ("mulaw:8000:x", "must be ENCODING:RATE:CHANNELS"),
        ("mulaw:8000:1:2", "must be ENCODING:RATE:CHANNELS"),
        ("mulaw:8", "1000 to 384000 Hz"),
        ("mulaw:8000:0", "with 1 to 64 channels"),
        ("g722:8000", "g722 has 16000 Hz"),
        ("vox:8000:2", "vox has one channel"),
        ("", "must be one of"),
    ],
)
def test_a_wrong_option(text, said):
    with pytest.raises(UsageError, match=said):
        parse_raw(text)


def test_other_names_say_nothing():
    for name in ("a.wav", "a.mp3", "a", "raw", "a.stereo", "a.f4v"):
        assert raw_by_name(name) is None


OTHER = babble(3, 8000, seed=2)
TURNS = np.stack([np.concatenate([SOUND, OTHER // 100]), np.concatenate([SOUND // 200, OTHER])], axis=1)


@pytest.mark.parametrize(("extension", "codec"), [("ul", "pcm_mulaw"), ("al", "pcm_alaw"), ("sln", "pcm_s16le")])
@pytest.mark.parametrize(
    "sound_NC", [TURNS, np.stack([SOUND, SOUND], axis=1)], ids=["two people", "the same twice"]
)
def test_two_channels_are_not_read_as_one(tmp_path, extension, codec, sound_NC):
    path = tmp_path / f"call.{extension}"
    path.write_bytes(encode(codec, sound_NC.reshape(-1)))
    with pytest.raises(SourceError, match=r"alternate between two channels, .* --raw \w+:8000:2"):
        Decoder(path)
    (left, right), info = read(path, f"{'s16le' if extension == 'sln' else codec[4:]}:8000:2")
    assert info.channels == 2
    assert alike(left, sound_NC[:, 0]) > 0.95
    assert alike(right, sound_NC[:, 1]) > 0.95


@pytest.mark.parametrize("kind", ["speech", "noise", "high tone", "silence", "short"])
def test_one_channel_is_not_taken_for_two(tmp_path, kind):
    rng = np.random.default_rng(3)
    sounds = {
        "speech": SOUND,
        "noise": (3000 * rng.standard_normal(24_000)).astype(np.int16),
        "high tone": (8000 * np.sin(np.arange(24_000) * 2.9)).astype(np.int16),
        "silence": rng.integers(-3, 4, 24_000).astype(np.int16),
        "short": SOUND[:800],
    }
    path = tmp_path / "call.ul"
    path.write_bytes(encode("pcm_mulaw", sounds[kind]))
    assert read(path)[1].channels == 1
