import numpy as np
import pytest

from bcaf_stream.audio.resample import Resampler
from bcaf_stream.errors import SourceError
from bcaf_stream.types import AudioChunk
from tests.unit.audio.signals import babble, tone

RATES = [8000, 11025, 22050, 44100, 48000]


def chunks(samples, rate, size):
    for start in range(0, len(samples), size):
        yield AudioChunk("c", start, rate, samples[start : start + size], received_at=start + size)


def resample(samples, rate, size=None):
    stage = Resampler(rate)
    out = [o for chunk in chunks(samples, rate, size or max(len(samples), 1)) for o in stage.push(chunk)]
    out += stage.flush()
    assert all(o.rate == 16000 and o.channel == "c" for o in out)
    assert [o.start for o in out] == [sum(len(p.samples) for p in out[:i]) for i in range(len(out))]
    return np.concatenate([o.samples for o in out])


@pytest.mark.parametrize("rate", RATES)
def test_any_chunking_gives_the_same_samples(rate):
    samples = babble(1.03, rate)
    whole = resample(samples, rate)
    for size in (1, 7, 160, 16000):
        np.testing.assert_array_equal(resample(samples, rate, size), whole)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("count", [100, 4001, 40_000])
def test_the_length_is_kept(rate, count):
    assert len(resample(np.ones(count, np.int16), rate)) == pytest.approx(count * 16000 / rate, abs=1.01)


@pytest.mark.parametrize("rate", RATES)
def test_an_impulse_stays_at_its_time(rate):
    samples = np.zeros(rate, np.int16)
    samples[rate // 4] = 20_000
    at = np.abs(resample(samples, rate).astype(int)).argmax()
    assert at / 16000 == pytest.approx((rate // 4) / rate, abs=0.0002)


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_keeps_its_shape(rate):
    got = resample(tone(1, rate), rate)[200:-200].astype(float)
    error = got - tone(1, 16000)[200 : 200 + len(got)]
    assert 10 * np.log10(np.mean(got**2) / np.mean(error**2)) > 70


def test_16_khz_passes_untouched():
    samples = tone(0.1)
    stage = Resampler(16000)
    chunk = AudioChunk("c", 0, 16000, samples, 7)
    assert stage.push(chunk)[0] is chunk
    assert stage.flush() == []


def test_received_at_is_that_of_the_latest_chunk():
    stage = Resampler(8000)
    out = [o for chunk in chunks(tone(0.1, 8000), 8000, 160) for o in stage.push(chunk)] + stage.flush()
    assert [o.received_at for o in out] == [160, 320, 480, 640, 800, 800]


def test_reset_starts_a_new_channel():
    stage, samples = Resampler(8000), babble(0.5, 8000)
    first = [o.samples for c in chunks(samples, 8000, 333) for o in stage.push(c)] + [stage.flush()[0].samples]
    stage.reset()
    second = [o.samples for c in chunks(samples, 8000, 333) for o in stage.push(c)] + [stage.flush()[0].samples]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))
    stage.close()
    assert stage.flush() == []


def test_wrong_rates():
    with pytest.raises(SourceError, match="0 Hz is not possible"):
        Resampler(0)
    with pytest.raises(SourceError, match="'c' changed from 8000 to 16000 Hz"):
        Resampler(8000).push(AudioChunk("c", 0, 16000, tone(0.1)))
