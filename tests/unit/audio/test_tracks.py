"""Several audio tracks in one file: each is a channel, the same one is taken once, and a doubt is a question."""

import numpy as np
import pytest

from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.tracks import split_track
from bcaf_stream.errors import SourceError, UsageError
from tests.unit.audio.signals import TrackOf, babble, mux, silence

RATE = 16_000
ONE, OTHER = babble(4, seed=1), babble(4, seed=2)
MIX = ((ONE.astype(np.int32) + OTHER) // 2).astype(np.int16)


def flac(sound_N, title="", channels=1):
    return TrackOf(np.stack([sound_N] * channels), RATE, "flac", title=title)


def read(source):
    with source:
        parts = {channel.name: [] for channel in source.channels}
        for chunk in source:
            parts[chunk.channel].append(chunk.samples)
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


@pytest.mark.parametrize("channels", [1, 2])  # a screen recorder writes a microphone as two equal channels
def test_each_track_is_a_channel(tmp_path, channels):
    path = mux(tmp_path / "rec.mkv", [flac(ONE, channels=channels), flac(OTHER, channels=channels)])
    source = FileSource(path)
    assert source.source == {"ch1": f"{path}#0", "ch2": f"{path}#1"}
    assert [channel.role for channel in source.channels] == ["speaker", "speaker"]
    assert "#0 is channel ch1, #1 is channel ch2" in source.notes[0]
    assert f"--channel customer={path}#0 --channel agent={path}#1" in source.notes[0]
    heard = read(source)
    np.testing.assert_allclose(heard["ch1"], ONE, atol=1)
    np.testing.assert_allclose(heard["ch2"], OTHER, atol=1)


def test_titles_that_are_roles_name_them(tmp_path):
    path = mux(tmp_path / "rec.mkv", [flac(ONE, "Agent"), flac(OTHER, "Customer")])
    source = FileSource(path)
    assert [(channel.name, channel.role) for channel in source.channels] == [
        ("agent", "agent"),
        ("customer", "customer"),
    ]
    np.testing.assert_array_equal(read(source)["customer"], OTHER)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "flac"), ("a.mp4", "aac"), ("a.mka", "libopus")])
def test_the_same_sound_twice_is_taken_once(tmp_path, name, codec):
    sound = TrackOf(np.stack([ONE, OTHER]), RATE, codec)
    path = mux(tmp_path / name, [sound, sound])
    source = FileSource(path)
    assert [channel.name for channel in source.channels] == ["customer", "agent"]
    assert "holds the same sound as #0: left out" in source.notes[0]
    with source:
        seconds = [len(chunk.samples) / chunk.rate for chunk in source if chunk.channel == "agent"]
    assert sum(seconds) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize(
    "tracks",
    [
        [flac(MIX), flac(ONE), flac(OTHER)],
        [flac(MIX), flac(ONE)],
        [TrackOf(np.stack([ONE, OTHER]), RATE, "flac"), flac(silence(4))],
    ],
)
def test_a_mix_or_a_stereo_track_beside_others_is_a_question(tmp_path, tracks):
    path = mux(tmp_path / "rec.mka", tracks)
    with pytest.raises(UsageError, match=f"has {len(tracks)} audio tracks") as caught:
        FileSource(path)
    assert "--track N" in str(caught.value)
    assert f"--channel customer={path}#0" in str(caught.value)


def test_a_track_is_named_by_its_number(tmp_path):
    path = mux(tmp_path / "rec.mka", [flac(MIX), flac(ONE), flac(OTHER)])
    np.testing.assert_array_equal(read(FileSource(f"{path}#1"))["mono"], ONE)
    heard = read(FileSource({"customer": f"{path}#2", "agent": f"{path}#1"}))
    np.testing.assert_array_equal(heard["customer"], OTHER)
    np.testing.assert_array_equal(heard["agent"], ONE)
    with pytest.raises(SourceError, match="has no audio track 3; its tracks are #0"):
        FileSource(f"{path}#3")
    with pytest.raises(UsageError, match=f"say which one with --channel agent={path}#0"):
        FileSource({"agent": path})


def test_a_track_of_two_channels_is_mixed_for_one_party(tmp_path):
    path = mux(tmp_path / "rec.mka", [TrackOf(np.stack([ONE, OTHER]), RATE, "flac"), flac(silence(4))])
    heard = read(FileSource({"customer": f"{path}#0"}))
    np.testing.assert_allclose(heard["customer"], MIX, atol=2)
    assert list(read(FileSource(f"{path}#0"))) == ["customer", "agent"]


def test_a_name_with_a_sign_is_a_name(tmp_path):
    (tmp_path / "call#1").touch()
    assert split_track(tmp_path / "call#1") == (tmp_path / "call#1", None)
    assert split_track(tmp_path / "call#2") == (str(tmp_path / "call"), 2)
    assert split_track("https://host/a.mkv#12") == ("https://host/a.mkv", 12)
    assert split_track("a.wav") == ("a.wav", None)
