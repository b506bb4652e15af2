import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from bcaf_stream.audio.frames import FRAME_SAMPLES
from bcaf_stream.audio.silero import SileroStream, _model_path
from bcaf_stream.audio.vad import VadConfig, VoiceActivityDetector
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, SourceError
from tests.unit.audio.signals import babble, silence, tone

MODES = ["confirmed", "webrtc", "silero"]


def noise(seconds, peak=1500):
    return (peak * np.random.default_rng(0).standard_normal(round(16000 * seconds))).astype(np.int16)


def decide(samples, config, size=None):
    detector = VoiceActivityDetector(config)
    size = size or max(len(samples), 1)
    frames = [f for i in range(0, len(samples), size) for f in detector.push(samples[i : i + size])]
    return frames + detector.flush()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [0, 1, 319, 320, 321, 511, 512, 1024, *range(1500, 1700), 10_000])
def test_every_sample_is_in_exactly_one_frame(mode, length):
    samples = babble(1)[:length]
    frames = decide(samples, VadConfig(mode=mode), 100)
    assert len(frames) == -(-length // FRAME_SAMPLES)
    assert all(len(f.samples) == FRAME_SAMPLES for f in frames[:-1])
    np.testing.assert_array_equal(np.concatenate([np.zeros(0, np.int16)] + [f.samples for f in frames]), samples)


@pytest.mark.parametrize("mode", MODES)
def test_any_chunking_gives_the_same_decisions(mode):
    samples = np.concatenate([silence(0.3), babble(1.1), noise(0.3)])
    whole = [(f.speech, f.level_db) for f in decide(samples, VadConfig(mode=mode))]
    assert 0 < sum(speech for speech, _ in whole) < len(whole)
    for size in (1, 7, 160, 512, 16000):
        assert [(f.speech, f.level_db) for f in decide(samples, VadConfig(mode=mode), size)] == whole


@pytest.mark.parametrize("mode", MODES)
def test_a_frame_waits_for_its_window_and_no_longer(mode):
    detector = VoiceActivityDetector(VadConfig(mode=mode))
    decided = 0
    for pushed in range(160, 32_001, 160):
        decided += len(detector.push(silence(0.01)))
        assert pushed - decided * FRAME_SAMPLES < FRAME_SAMPLES + (0 if mode == "webrtc" else 512)


def test_silence_and_noise_are_no_speech():
    for sound in (silence(2), noise(2), noise(2, 100), tone(2)):
        assert sum(f.speech for f in decide(sound, VadConfig())) <= 10


def test_silero_takes_back_what_webrtcvad_takes_for_speech():
    sound = tone(2, hz=300)
    assert sum(f.speech for f in decide(sound, VadConfig(mode="webrtc"))) > 50
    assert sum(f.speech for f in decide(sound, VadConfig())) < 10


def test_confirmed_is_what_both_stages_let_through():
    sound = np.concatenate([babble(2), noise(0.5), tone(1)])
    by_mode = {mode: [f.speech for f in decide(sound, VadConfig(mode=mode, aggressiveness=3))] for mode in MODES}
    both = [a and b for a, b in zip(by_mode["webrtc"], by_mode["silero"], strict=True)]
    assert by_mode["confirmed"] == both
    assert any(both)


def test_the_level_is_in_db_below_full_scale():
    assert [f.level_db for f in decide(tone(0.1, hz=1000, peak=32767), VadConfig())] == pytest.approx(
        [-3.01] * 5, abs=0.01
    )
    assert {f.level_db for f in decide(silence(0.1), VadConfig())} == {-96.0}


def test_wall_clock_is_counted_back_from_the_chunks_end():
    detector = VoiceActivityDetector(VadConfig(mode="webrtc"))
    frames = detector.push(silence(0.05), received_at=10**18)
    assert [f.ended_at for f in frames] == [10**18 - 30_000_000, 10**18 - 10_000_000]
    assert VoiceActivityDetector(VadConfig(mode="webrtc")).push(silence(0.05))[0].ended_at == 0


def test_streams_share_the_model_but_not_the_state():
    sound, other = babble(1), noise(1)
    alone = SileroStream().push(sound)
    first, second = SileroStream(), SileroStream()
    mixed = []
    for i in range(0, 16000, 500):
        mixed += first.push(sound[i : i + 500])
        second.push(other[i : i + 500])
    assert mixed == alone


def test_reset_forgets():
    detector = VoiceActivityDetector()
    first = [f.speech for f in detector.push(babble(1))]
    detector.reset()
    assert [f.speech for f in detector.push(babble(1))] == first


def test_torch_is_not_imported():
    code = "import sys, bcaf_stream.audio.vad as v; v.VoiceActivityDetector(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_settings_name_the_key():
    with pytest.raises(ConfigError, match="aggressiveness: 4 given"):
        load_config(VadConfig, overrides=["aggressiveness=4"])
    with pytest.raises(ConfigError, match="keep_threshold must not be above threshold"):
        load_config(VadConfig, overrides=["keep_threshold=0.5"])
    with pytest.raises(ConfigError, match="mode: 'energy' given"):
        load_config(VadConfig, overrides=["mode=energy"])


def test_the_grouping_of_windows_does_not_show_in_the_numbers():
    alone, together = SileroStream(), SileroStream()
    alone._group = 1
    assert alone.push(babble(2)) == together.push(babble(2))


def test_a_missing_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install 'silero-vad"):
        _model_path()
