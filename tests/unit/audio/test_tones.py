"""Tones of telephones are no speech, and speech is no tone."""

import itertools

import av
import numpy as np
import pytest

from bcaf_stream.audio.noise import NoiseWatch
from bcaf_stream.audio.tones import TONAL, tonal_share
from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.audio.vad import VoiceActivityDetector
from bcaf_stream.demo import CALL
from bcaf_stream.types import AudioChunk, Call, Channel, PcmN

ONE = Call("one", (Channel("line"),))
KEYS = list(itertools.product((697, 770, 852, 941), (1209, 1336, 1477, 1633)))


def tone(frequencies: tuple[float, ...], ms: int) -> np.ndarray:
    return sum(np.sin(2 * np.pi * f * np.arange(ms * 16) / 16_000) for f in frequencies)


def silence(ms: int) -> np.ndarray:
    return np.zeros(ms * 16)


def pattern(frequencies: tuple[float, ...], on_ms: int, off_ms: int, times: int) -> np.ndarray:
    return np.tile(np.concatenate([tone(frequencies, on_ms), silence(off_ms)]), times)


TONES = {
    "keys, quick": np.concatenate([pattern(key, 100, 80, 1) for key in KEYS * 2]),
    "keys": np.concatenate([pattern(key, 200, 300, 1) for key in KEYS]),
    "dial": tone((350, 440), 5000),
    "dial, Europe": tone((425,), 5000),
    "busy": pattern((480, 620), 500, 500, 6),
    "ringing": pattern((440, 480), 2000, 2000, 2),
    "ringing, Britain": np.tile(pattern((400, 450), 400, 200, 2), 2),
    "no such number": np.tile(np.concatenate([tone((f,), 330) for f in (950, 1400, 1800)] + [silence(1000)]), 3),
    "fax calls": pattern((1100,), 500, 3000, 3),
    "fax answers": tone((2100,), 3300),
    "modem answers": tone((2100,), 3300) * (1 + 0.2 * tone((15,), 3300)),
}


@pytest.fixture(scope="module")
def speech() -> PcmN:
    """The customer of the demo call at 16 kHz, 20 s."""
    with av.open(str(CALL)) as container:
        resampler = av.AudioResampler(format="s16p", layout="stereo", rate=16_000)
        blocks = [f.to_ndarray() for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    return np.concatenate(blocks, axis=1)[0, : 20 * 16_000]


def cut(sound: np.ndarray) -> tuple[list[tuple[int, int]], list[str]]:
    cutter = CallCutter(ONE)
    samples = np.clip(sound, -32768, 32767).astype(np.int16)
    segments = cutter.push(AudioChunk("line", 0, 16_000, samples)) + cutter.flush()
    notes = [note for segment in segments for note in segment.notes] + [*cutter.take_notes()]
    return [(segment.start_ms, segment.end_ms) for segment in segments], notes


@pytest.mark.parametrize("name", TONES)
def test_tones_are_no_utterances(name: str):
    sound = np.concatenate([silence(1000), TONES[name], silence(1500)])
    line = np.random.default_rng(0).normal(0, 20, len(sound))
    for level in (300, 3000, 9000):
        assert cut(sound * level + line) == ([], [])


@pytest.mark.parametrize("name", TONES)
def test_the_measure_knows_tones_by_themselves(name: str):
    """Whether the detector of speech let them through or not."""
    assert tonal_share((TONES[name] * 3000).astype(np.int16)) >= TONAL


@pytest.mark.parametrize("snr_db", [15, 10, 5, 3])
@pytest.mark.parametrize("name", TONES)
def test_tones_in_noise_are_tones(name: str, snr_db: int):
    """Keys on a noisy line were utterances: "anger" at 5 dB."""
    sound = np.concatenate([silence(300), TONES[name], silence(300)])
    power = (TONES[name][TONES[name] != 0] ** 2).mean()
    noise = np.random.default_rng(1).normal(0, np.sqrt(power / 10 ** (snr_db / 10)), len(sound))
    assert tonal_share(((sound + noise) * 3000).astype(np.int16)) >= TONAL


@pytest.mark.parametrize("snr_db", [None, 20, 10, 5, 0])
def test_speech_is_no_tone(speech: PcmN, snr_db: int | None):
    if snr_db is not None:
        noise = np.random.default_rng(2).normal(0, speech.std() / 10 ** (snr_db / 20), len(speech))
        speech = np.clip(speech + noise, -32768, 32767).astype(np.int16)
    shares = [tonal_share(speech[at : at + 32_000]) for at in range(0, len(speech), 16_000)]
    assert max(shares) < 0.5


def test_speech_is_heard(speech: PcmN):
    assert len(cut(speech)[0]) >= 2


def test_what_is_too_short_or_silent_is_no_tone():
    for count in (0, 1, 1279, 16_000):
        assert tonal_share(np.zeros(count, np.int16)) == 0


@pytest.mark.parametrize(("snr_db", "heard"), [(0, 0.85), (-20, 0)])
def test_speech_in_noise_is_heard_or_said_to_be_lost(speech: PcmN, snr_db: int, heard: float):
    clean, _ = cut(speech)
    spoken = np.concatenate([speech[start * 16 : end * 16] for start, end in clean]).astype(float)
    noise = np.random.default_rng(0).normal(0, np.sqrt((spoken**2).mean()) * 10 ** (-snr_db / 20), len(speech))
    noise *= min(1, 8000 / noise.std())
    quieter = 8000 / max(8000, np.sqrt((spoken**2).mean()) * 10 ** (-snr_db / 20))
    found, notes = cut(speech * quieter + noise)
    share = sum(end - start for start, end in found) / sum(end - start for start, end in clean)
    assert share >= heard
    lost = ["too noisy: speech in channel line cannot be told from its noise"]
    assert notes == (lost if heard == 0 else [])


def test_noise_is_looked_at_in_any_chunks_alike():
    noise = np.random.default_rng(0).normal(0, 3000, 25 * 16_000).astype(np.int16)
    ends = set()
    for step in (777, 16_000, len(noise)):
        vad, watch = VoiceActivityDetector(), NoiseWatch()
        for start in range(0, len(noise), step):
            watch.push(vad.push(noise[start : start + step]))
        ends.add(watch.too_noisy_ms)
    assert ends == {10_000}
