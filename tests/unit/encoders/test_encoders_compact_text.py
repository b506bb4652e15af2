"""The compact text encoder, on a tiny random BERT made here."""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from bcaf_stream.encoders.base import TextEncoderConfig
from bcaf_stream.encoders.bert import BertShape, BertTrunk
from bcaf_stream.encoders.load import load_text_encoder
from bcaf_stream.encoders.storage import Uninitialised, dequantise, hash_of, load_weights, quantise, save_weights
from bcaf_stream.errors import EncoderError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "oh", "my", "god", "it", "'", "s", "you", "!", "fine"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("compact")
    folder = root / "encoders" / "text"
    folder.mkdir(parents=True)
    shape = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    shape.to_json_file(folder / "config.json")
    save_weights(
        folder / "weights.safetensors", BertModel(shape, add_pooling_layer=False).state_dict(), int8=False
    )
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return root


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return load_text_encoder(TextEncoderConfig(batch=3), checkpoint)


def test_a_vector_does_not_depend_on_the_batch(encoder):
    texts = ["oh my god!", "", "it's fine", "you", "oh oh oh oh my my my my god god god", "fine fine fine!"]
    together_BW = encoder.encode(texts)
    alone_BW = np.concatenate([encoder.encode([text]) for text in texts])
    assert together_BW.shape == (6, encoder.width) == (6, 32)
    np.testing.assert_allclose(together_BW, alone_BW, atol=1e-5)
    assert np.abs(alone_BW[0] - alone_BW[2]).max() > 1e-2


def test_the_vector_is_the_mean_of_four_layers_and_all_tokens(encoder):
    ids_BT = torch.tensor([[2, 4, 5, 6, 11, 3]])
    with torch.inference_mode():
        hidden = encoder._model(ids_BT, torch.ones_like(ids_BT, dtype=torch.bool))
    assert len(hidden) == 5
    expected_W = torch.stack(hidden[1:]).mean(0)[0].mean(0)
    np.testing.assert_allclose(encoder.encode(["Oh my GOD!"])[0], expected_W.numpy(), atol=1e-5)


def test_the_trunk_is_transformers_own_bert():
    """Names of weights, and every hidden state, padding included."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48
    )
    theirs = BertModel(config, add_pooling_layer=False).eval()
    ours = BertTrunk(BertShape.model_validate(config.to_dict()))
    ours.load_state_dict(theirs.state_dict())
    assert hash_of(ours) == hash_of(theirs)
    ids_BT, mask_BT = torch.randint(0, 50, (3, 9)), torch.arange(9) < torch.tensor([[9], [4], [1]])
    with torch.inference_mode():
        expected = theirs(input_ids=ids_BT, attention_mask=mask_BT.long(), output_hidden_states=True).hidden_states
        found = ours(ids_BT, mask_BT)
    assert len(found) == len(expected) == 4
    for mine_BTW, their_BTW in zip(found, expected, strict=True):
        torch.testing.assert_close(mine_BTW[mask_BT], their_BTW[mask_BT], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changed", [{"hidden_act": "relu"}, {"model_type": "roberta"}, {"is_decoder": True}])
def test_another_kind_of_model_is_refused(checkpoint, tmp_path, changed):
    folder = tmp_path / "encoders" / "text"
    shutil.copytree(checkpoint / "encoders" / "text", folder)
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"config\.json: no compact text encoder"):
        load_text_encoder(TextEncoderConfig(), tmp_path)


def test_long_text_is_cut_and_counted(encoder):
    before = encoder.truncated
    long_B = encoder.encode(["fine " * 200, "fine " * 38, "fine"])
    assert encoder.truncated - before == 1
    np.testing.assert_allclose(long_B[0], long_B[1], atol=1e-5)  # both end up as 38 words and two marks


def test_every_apostrophe_is_the_same(encoder):
    vectors_BW = encoder.encode(["it's", "it\u2019s", "it\x92s"])
    np.testing.assert_allclose(vectors_BW[1:], vectors_BW[[0, 0]], atol=1e-6)


def test_no_texts(encoder):
    assert encoder.encode([]).shape == (0, 32)


def test_int8_rows_come_back_close(tmp_path):
    weight = torch.randn(64, 96) * torch.logspace(-3, 1, 64).unsqueeze(1)
    stored, scale = quantise(weight)
    assert stored.dtype == torch.int8
    error = (dequantise(stored, scale) - weight).abs().amax(1)
    assert (error <= 0.51 * weight.abs().amax(1) / 127 + 1e-3 * weight.abs().amax(1)).all()
    save_weights(tmp_path / "w.safetensors", {"big": weight, "small": weight[0]})
    loaded = load_weights(tmp_path / "w.safetensors")
    assert set(loaded) == {"big", "small"}
    assert loaded["big"].dtype == torch.float32
    assert torch.equal(loaded["big"], dequantise(stored, scale))
    assert (tmp_path / "w.safetensors").stat().st_size < weight.numel() * 1.2


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer.json", "{}"), ("config.json", "{"), ("weights.safetensors", "x")]
)
def test_a_broken_file_is_named(checkpoint, tmp_path, name, content):
    folder = tmp_path / "encoders" / "text"
    folder.mkdir(parents=True)
    for path in (checkpoint / "encoders" / "text").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_text(content)
    with pytest.raises(EncoderError, match=name) as caught:
        load_text_encoder(TextEncoderConfig(), tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_is_drawn_for_weights_that_are_loaded():
    """They would be thrown away at once, and cost more than reading the weights."""
    before = torch.get_rng_state()
    shape = BertShape(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
    )
    with Uninitialised():
        model = BertTrunk(shape)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = BertTrunk(shape)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in drawn.state_dict().items()
    }
