"""What an encoder is: PCM or text in, one vector per utterance out, and how one is configured.

Shape letters: B utterances, T frames or tokens, D width of the vector.

An encoder has no state between calls, and a vector never depends on what else is in the batch (to 1e-5):
batching is a matter of speed alone. Absent modalities never reach an encoder.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bcaf_stream.config import Config

VectorsBD = NDArray[np.float32]
DType = Literal["float32", "bfloat16", "float16"]
Kind = Literal["compact", "pretrained"]


class AudioEncoder(Protocol):
    """Mono int16 PCM at 16 kHz to one vector per utterance.

    `weights_hash` is the SHA-256 (hex) of the weights: features of another hash fit no checkpoint.
    """

    name: str
    width: int
    weights_hash: str

    def encode(self, waves: Sequence[NDArray[np.int16]]) -> VectorsBD: ...


class TextEncoder(Protocol):
    """Text to one vector per utterance; the empty string has a vector too.

    `truncated` counts the texts, since loading, that were longer than the model's maximum and lost their end.
    """

    name: str
    width: int
    weights_hash: str
    truncated: int

    def encode(self, texts: Sequence[str]) -> VectorsBD: ...


class EncoderConfig(Config):
    """One encoder: `compact` reads the checkpoint's own weights, `pretrained` names `model` (hub id or folder)."""

    kind: Kind = "compact"
    model: str | None = None
    device: str = "cpu"
    dtype: DType = "float32"
    batch: int = Field(default=16, ge=1, description="utterances in one forward pass, at most")

    @model_validator(mode="after")
    def _model_goes_with_kind(self) -> "EncoderConfig":
        if (self.kind == "pretrained") != (self.model is not None):
            raise ValueError("pretrained needs `model` (a hub id or a folder); compact takes none")
        if self.dtype == "float16" and self.device == "cpu":
            raise ValueError("float16 does not run on the CPU; use float32 or bfloat16")
        return self


class AudioEncoderConfig(EncoderConfig):
    """`layer`: which hidden layer is pooled, 0 = the first layer's input; None = the last (pretrained only)."""

    layer: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _layer_goes_with_kind(self) -> "AudioEncoderConfig":
        if self.kind == "compact" and self.layer is not None:
            raise ValueError("`layer` is for pretrained; the compact encoder's depth stands in its checkpoint")
        return self


class TextEncoderConfig(EncoderConfig):
    """`layers`: how many of the last hidden layers are averaged (pretrained only)."""

    layers: int = Field(default=4, ge=1)


class EncodersConfig(Config):
    """One encoder for each modality; null where the vectors are given instead."""

    audio: AudioEncoderConfig | None = AudioEncoderConfig()
    text: TextEncoderConfig | None = TextEncoderConfig()
