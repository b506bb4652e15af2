"""A whole checkpoint with small random weights: real files and real code, made in a second, knowing nothing."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from bcaf_stream.encoders.base import AudioEncoderConfig, TextEncoderConfig
from bcaf_stream.encoders.compact_audio import AudioTrunk, CompactAudioConfig
from bcaf_stream.encoders.load import load_audio_encoder, load_text_encoder
from bcaf_stream.encoders.storage import save_weights
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import EncoderSpec, EncoderSpecs, save_checkpoint
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.types import Modality

LABELS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def tiny_checkpoint(
    folder: Path,
    seed: int = 0,
    modalities: tuple[Modality, ...] = ("audio", "text"),
    model_seed: int | None = None,
    **changes: Any,
) -> Path:
    """Write a checkpoint with compact encoders 2 x 8 and 16 wide; `changes` go to BCAFConfig.

    With a `model_seed` the encoders are those of `seed` and the model is another.
    """
    torch.manual_seed(seed)
    scratch = folder.with_name(f"{folder.name}-encoders")
    _write_encoders(scratch / "encoders")
    audio = load_audio_encoder(AudioEncoderConfig(), scratch)
    text = load_text_encoder(TextEncoderConfig(), scratch)
    shape: dict[str, Any] = {
        "labels": LABELS,
        "audio_width": audio.width,
        "text_width": text.width,
        "width": 16,
        "latent": 8,
        "layers": 2,
        "heads": 2,
        "feed_forward": 32,
        "context": 4,
    }
    specs = {
        name: EncoderSpec(kind="compact", name=one.name, width=one.width, sha256=one.weights_hash)
        for name, one in (("audio", audio), ("text", text))
    }
    known = EncoderSpecs(**{name: specs[name] if name in modalities else None for name in specs})
    if model_seed is not None:
        torch.manual_seed(model_seed)
    model = BCAF(BCAFConfig(**(shape | changes)))
    return save_checkpoint(folder, model, encoders=known, write_encoders=_write_same(scratch / "encoders"))


def _write_same(source: Path) -> Any:
    def write(target: Path) -> None:
        for path in source.rglob("*.*"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())

    return write


def _write_encoders(folder: Path) -> None:
    audio, text = folder / "audio", folder / "text"
    audio.mkdir(parents=True)
    text.mkdir(parents=True)
    shape = CompactAudioConfig(width=8, heads=2, blocks=1, pooled=(1,))
    (audio / "config.json").write_text(shape.model_dump_json())
    save_weights(audio / "weights.safetensors", AudioTrunk(shape).state_dict())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "aeiounrst")]
    bert = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
    )
    (text / "config.json").write_text(json.dumps(bert.to_dict()))
    save_weights(text / "weights.safetensors", BertModel(bert, add_pooling_layer=False).state_dict())
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(text / "tokenizer.json"))
