"""The compact audio encoder against the original it descends from, and against its own batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from bcaf_stream.encoders import compact_audio
from bcaf_stream.encoders.base import AudioEncoderConfig
from bcaf_stream.encoders.compact_audio import AudioTrunk, CompactAudioConfig, CompactAudioEncoder, sinusoids
from bcaf_stream.encoders.load import load_audio_encoder
from bcaf_stream.encoders.logmel import SHORTEST, LogMel
from bcaf_stream.encoders.storage import save_weights
from bcaf_stream.errors import EncoderError

SMALL = CompactAudioConfig(width=32, heads=4, blocks=2, pooled=(2, 1))
OF_WHISPER = {
    "self_attn_layer_norm": "attention_norm",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.out_proj": "out",
    "final_layer_norm": "feed_norm",
    "fc1": "feed_in",
    "fc2": "feed_out",
}


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loudness = np.abs(np.sin(np.linspace(0, 9, round(16_000 * seconds))))
    return (rng.normal(0, 3000, len(loudness)) * loudness).clip(-32768, 32767).astype(np.int16)


@pytest.fixture(scope="module")
def encoder() -> CompactAudioEncoder:
    torch.manual_seed(0)
    return CompactAudioEncoder(AudioTrunk(SMALL), AudioEncoderConfig(batch=4))


@pytest.fixture(scope="module")
def whisper() -> WhisperEncoder:
    torch.manual_seed(1)
    shape = WhisperConfig(d_model=32, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=128)
    return WhisperEncoder(shape).eval()


def trunk_of(whisper: WhisperEncoder) -> AudioTrunk:
    state = {}
    for their_name, value in whisper.state_dict().items():
        name = their_name
        for theirs, ours in OF_WHISPER.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        state[name.replace("layers.", "blocks.", 1)] = value
    trunk = AudioTrunk(SMALL)
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict()})
    return trunk.eval()


def test_the_trunk_equals_whispers_own_layers(whisper):
    torch.set_num_threads(1)
    mel_BMT = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        theirs = whisper(mel_BMT, output_hidden_states=True).hidden_states
        ours, _ = trunk_of(whisper)(mel_BMT.transpose(1, 2), torch.ones(2, 3000, dtype=torch.bool))
    assert len(ours) == SMALL.blocks == 2
    for ours_BTW, theirs_BTW in zip(ours, theirs[1:3], strict=True):
        assert theirs_BTW.std() > 0.1
        assert torch.allclose(ours_BTW, theirs_BTW, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.1, 0.7351, 3.0])
def test_the_log_mel_equals_whispers_own(seconds):
    extractor = WhisperFeatureExtractor()
    samples_N = wave(seconds).astype(np.float32) / 32768
    ours_TM = LogMel()(torch.from_numpy(samples_N)).numpy()
    alone_TM = extractor(samples_N, sampling_rate=16_000, padding="longest").input_features[0].T
    padded_TM = extractor(samples_N, sampling_rate=16_000).input_features[0].T
    assert ours_TM.shape == alone_TM.shape == (len(samples_N) // 160, 80)
    np.testing.assert_allclose(ours_TM, alone_TM, atol=1e-4)
    # Against 30 s of padding, only the last frames differ: those whose window reaches over the end.
    np.testing.assert_allclose(ours_TM[:-2], padded_TM[: len(ours_TM) - 2], atol=1e-4)


def test_a_vector_does_not_depend_on_the_batch(encoder):
    waves = [wave(seconds, seed) for seed, seconds in enumerate([0.02, 2.0, 0.5, 1.31, 1.3, 0.9, 3.1])]
    together_BW = encoder.encode(waves)
    alone_BW = np.concatenate([encoder.encode([w]) for w in waves])
    assert together_BW.shape == (7, encoder.width)
    assert np.std(alone_BW, axis=0).max() > 0.01
    np.testing.assert_allclose(together_BW, alone_BW, atol=1e-5)


def test_padding_inside_a_batch_leaves_no_trace(encoder):
    mels = [LogMel()(torch.from_numpy(wave(s).astype(np.float32) / 32768)) for s in (0.5, 1.7, 0.51)]
    with torch.inference_mode():
        together_BW = encoder._trunk.pooled(mels)
        alone_BW = torch.cat([encoder._trunk.pooled([mel]) for mel in mels])
    assert torch.allclose(together_BW, alone_BW, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2 * SHORTEST))
def test_any_short_length_has_a_finite_vector(encoder, samples):
    vector_W = encoder.encode([np.ones(samples, dtype=np.int16)])[0]
    assert np.isfinite(vector_W).all()


def test_silence_and_no_utterances(encoder):
    assert np.isfinite(encoder.encode([np.zeros(16_000, dtype=np.int16)])).all()
    assert encoder.encode([]).shape == (0, encoder.width)


def test_long_utterances_are_cut_and_pooled_as_one(encoder, monkeypatch):
    long_N = wave(2.0)
    monkeypatch.setattr(compact_audio, "LONGEST", 16_000)
    whole_W = encoder.encode([long_N, wave(0.3)])[0]
    mel_TM = LogMel()(torch.from_numpy(long_N.astype(np.float32) / 32768))
    with torch.inference_mode():
        parts = [encoder._trunk(part[None], torch.ones(1, 100, dtype=torch.bool))[0] for part in mel_TM.split(100)]
    expected = []
    for block in (2, 1):  # the order of `pooled`
        frames_TW = torch.cat([outputs[block - 1][0] for outputs in parts])
        expected += [frames_TW.mean(0), frames_TW.std(0, unbiased=False)]
    expected_W = torch.cat(expected)
    np.testing.assert_allclose(whole_W, expected_W.numpy(), atol=1e-5)


def test_positions_are_whispers_and_go_on_past_1500(whisper):
    theirs_TW = whisper.embed_positions.weight
    assert torch.allclose(sinusoids(2000, 32)[:1500], theirs_TW, atol=1e-4)


def test_saved_and_loaded_through_the_checkpoint_folder(encoder, tmp_path):
    folder = tmp_path / "encoders" / "audio"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(SMALL.model_dump_json())
    save_weights(folder / "weights.safetensors", encoder._trunk.state_dict(), int8=False)
    loaded = load_audio_encoder(AudioEncoderConfig(), tmp_path)
    x = [wave(1.0)]
    np.testing.assert_allclose(loaded.encode(x), encoder.encode(x), atol=5e-3)
    assert loaded.weights_hash == load_audio_encoder(AudioEncoderConfig(), tmp_path).weights_hash
    assert loaded.weights_hash != encoder.weights_hash  # float16 on disk


def test_a_broken_folder_says_so(encoder, tmp_path):
    with pytest.raises(EncoderError, match="none was given"):
        load_audio_encoder(AudioEncoderConfig())
    with pytest.raises(EncoderError, match="no compact audio encoder here"):
        load_audio_encoder(AudioEncoderConfig(), tmp_path)
    folder = tmp_path / "encoders" / "audio"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"pooled": [9]}')
    with pytest.raises(EncoderError, match=r"config\.json"):
        load_audio_encoder(AudioEncoderConfig(), tmp_path)
    (folder / "config.json").write_text(SMALL.model_dump_json())
    with pytest.raises(EncoderError, match="cannot be read"):
        load_audio_encoder(AudioEncoderConfig(), tmp_path)
    save_weights(folder / "weights.safetensors", {"conv1.weight": torch.zeros(2, 2)})
    with pytest.raises(EncoderError, match="do not fit"):
        load_audio_encoder(AudioEncoderConfig(), tmp_path)
