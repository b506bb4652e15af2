"""Pretrained families on tiny random models made here; nothing is downloaded."""

import json
import time

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    HubertConfig,
    HubertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from bcaf_stream.config import load_config
from bcaf_stream.encoders import hub
from bcaf_stream.encoders.base import AudioEncoderConfig, EncodersConfig, TextEncoderConfig
from bcaf_stream.encoders.load import load_audio_encoder, load_text_encoder
from bcaf_stream.encoders.pooling import length_groups
from bcaf_stream.errors import ConfigError, EncoderError

AUDIO = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
}
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "oh", "my", "god", "it", "is", "fine"]
LENGTHS = [4000, 16_000, 4000, 9_001, 500, 16_000, 0, 399, 400]


def wave(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 3000, samples).astype(np.int16)


def audio_folder(path, family="wav2vec2", norm="layer", dtype=torch.float32):
    torch.manual_seed(0)
    config_class, model_class = AUDIO[family]
    shape = config_class(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        num_buckets=32,
    )
    model_class(shape).to(dtype).save_pretrained(path)
    return AudioEncoderConfig(kind="pretrained", model=str(path), batch=4)


def text_folder(path, family="roberta"):
    torch.manual_seed(0)
    config_class, model_class = (RobertaConfig, RobertaModel) if family == "roberta" else (BertConfig, BertModel)
    shape = config_class(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model_class(shape).save_pretrained(path)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(path)
    return TextEncoderConfig(kind="pretrained", model=str(path), batch=3)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("family", AUDIO)
def test_an_audio_vector_does_not_depend_on_the_batch(tmp_path, family, norm):
    torch.set_num_threads(1)
    encoder = load_audio_encoder(audio_folder(tmp_path, family, norm))
    waves = [wave(n) for n in LENGTHS]
    together_BW = encoder.encode(waves)
    alone_BW = np.concatenate([encoder.encode([w]) for w in waves])
    assert together_BW.shape == (len(LENGTHS), encoder.width) == (9, 16)
    assert np.isfinite(alone_BW).all()
    np.testing.assert_allclose(together_BW, alone_BW, atol=1e-5)


def test_group_norm_would_notice_padding(tmp_path):
    """The guard above is needed: with mixed lengths forced into one batch the numbers move."""
    encoder = load_audio_encoder(audio_folder(tmp_path, norm="group"))
    encoder._needs_equal_lengths = False
    waves = [wave(n) for n in (12_000, 16_000)]
    alone_BW = np.concatenate([encoder.encode([w]) for w in waves])
    assert np.abs(encoder.encode(waves) - alone_BW).max() > 1e-4


def test_the_vector_is_the_mean_over_frames(tmp_path):
    config = audio_folder(tmp_path)
    encoder = load_audio_encoder(config)
    x_N = torch.from_numpy(wave(8000).astype(np.float32))
    x_N = (x_N - x_N.mean()) / x_N.std(unbiased=False)
    with torch.inference_mode():
        output = Wav2Vec2Model.from_pretrained(tmp_path).eval()(x_N[None], output_hidden_states=True)
    np.testing.assert_allclose(
        encoder.encode([wave(8000)])[0], output.last_hidden_state[0].mean(0).numpy(), atol=1e-4
    )
    first = load_audio_encoder(config.model_copy(update={"layer": 1}))
    np.testing.assert_allclose(
        first.encode([wave(8000)])[0], output.hidden_states[1][0].mean(0).numpy(), atol=1e-4
    )
    with pytest.raises(EncoderError, match="has 2 layers; layer 9 is none"):
        load_audio_encoder(config.model_copy(update={"layer": 9}))


def test_a_float16_checkpoint_runs_in_float32(tmp_path):
    half = load_audio_encoder(audio_folder(tmp_path / "half", dtype=torch.float16))
    Wav2Vec2Model.from_pretrained(tmp_path / "half", dtype=torch.float32).save_pretrained(tmp_path / "single")
    single = load_audio_encoder(AudioEncoderConfig(kind="pretrained", model=str(tmp_path / "single")))
    np.testing.assert_array_equal(half.encode([wave(4000)]), single.encode([wave(4000)]))


def test_do_normalize_is_read(tmp_path):
    config = audio_folder(tmp_path)
    normalised = load_audio_encoder(config).encode([wave(4000), wave(4000) // 4])
    np.testing.assert_allclose(normalised[0], normalised[1], atol=0.02)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    as_it_is = load_audio_encoder(config).encode([wave(4000)])
    with torch.inference_mode():
        x_1N = torch.from_numpy(wave(4000).astype(np.float32) / 32768)[None]
        expected = Wav2Vec2Model.from_pretrained(tmp_path).eval()(x_1N).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(as_it_is[0], expected.numpy(), atol=1e-6)
    assert np.abs(as_it_is[0] - normalised[0]).max() > 1e-4


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_a_text_vector_does_not_depend_on_the_batch(tmp_path, family):
    encoder = load_text_encoder(text_folder(tmp_path, family))
    texts = ["oh my god", "", "it is fine it is fine", "my", "oh " * 20, "god is"]
    together_BW = encoder.encode(texts)
    alone_BW = np.concatenate([encoder.encode([text]) for text in texts])
    assert together_BW.shape == (6, 16)
    np.testing.assert_allclose(together_BW, alone_BW, atol=1e-5)


@pytest.mark.parametrize(("family", "words"), [("roberta", 30), ("bert", 32)])
def test_long_text_is_cut_at_the_models_maximum_and_counted(tmp_path, family, words):
    encoder = load_text_encoder(text_folder(tmp_path, family))
    vectors_BW = encoder.encode(["fine " * 500, "fine " * words, "fine"])
    assert encoder.truncated == 1
    np.testing.assert_allclose(vectors_BW[0], vectors_BW[1], atol=1e-5)


def test_one_hash_per_weights(tmp_path):
    config = text_folder(tmp_path)
    first, again = load_text_encoder(config), load_text_encoder(config)
    assert first.weights_hash == again.weights_hash
    changed = RobertaModel.from_pretrained(tmp_path)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1
    changed.save_pretrained(tmp_path)
    assert load_text_encoder(config).weights_hash != first.weights_hash


def no_network(*_args, **_kwargs):
    raise ConnectionError("no route")


class Answer:
    status_code = 404

    def head(self, *_args, **_kwargs):
        return self


def test_an_unreachable_hub_is_one_line_and_soon(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "get_session", no_network)
    started = time.monotonic()
    with pytest.raises(EncoderError, match="cannot be reached") as caught:
        load_audio_encoder(AudioEncoderConfig(kind="pretrained", model="nobody/no-such-model"))
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)
    assert "copy the model into a folder" in str(caught.value)


def test_an_unknown_id_is_one_line(monkeypatch):
    monkeypatch.setattr(hub, "get_session", Answer)
    with pytest.raises(EncoderError, match="unknown to the model hub"):
        load_text_encoder(TextEncoderConfig(kind="pretrained", model="nobody/no-such-model"))
    with pytest.raises(EncoderError, match="neither a folder nor a possible hub id"):
        load_text_encoder(TextEncoderConfig(kind="pretrained", model="a b/c d/e"))


def test_wrong_folders_say_so(tmp_path):
    with pytest.raises(EncoderError, match="no such folder"):
        load_audio_encoder(AudioEncoderConfig(kind="pretrained", model=str(tmp_path / "absent")))
    with pytest.raises(EncoderError, match=r"no config\.json"):
        load_audio_encoder(AudioEncoderConfig(kind="pretrained", model=str(tmp_path)))
    text_folder(tmp_path)
    with pytest.raises(EncoderError, match="a roberta model; audio takes"):
        load_audio_encoder(AudioEncoderConfig(kind="pretrained", model=str(tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="weights cannot be loaded") as caught:
        load_text_encoder(TextEncoderConfig(kind="pretrained", model=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", ["audio.kind=pretrained", "audio.model=x", "audio.layer=3", "text.dtype=float16", "text.batch=0"]
)
def test_the_configuration_refuses_what_cannot_work(wrong):
    with pytest.raises(ConfigError):
        load_config(EncodersConfig, overrides=[wrong])


def test_length_groups_keep_everyone_once():
    lengths = [5, 9, 5, 5, 100, 7, 5]
    for exact in (False, True):
        groups = length_groups(lengths, 2, exact)
        assert sorted(i for group in groups for i in group) == list(range(7))
        assert all(len(group) <= 2 for group in groups)
    assert all(len({lengths[i] for i in group}) == 1 for group in length_groups(lengths, 9, exact=True))
