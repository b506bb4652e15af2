"""What an encoder is: PCM or text in, one vector per utterance out; and which one the configuration asks for.

Shape letters: B utterances, T frames or tokens, D width of the vector.

An encoder has no state between calls, and a vector never depends on what else is in the batch (to 1e-5):
batching is a matter of speed alone. Absent modalities never reach an encoder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import EncoderError

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
    audio: AudioEncoderConfig = AudioEncoderConfig()
    text: TextEncoderConfig = TextEncoderConfig()


def load_audio_encoder(config: AudioEncoderConfig, checkpoint_folder: Path | str | None = None) -> AudioEncoder:
    """Build the audio encoder that `config` asks for; a compact one comes from `<checkpoint_folder>/encoders`.

    Raises:
        EncoderError: weights that are missing, broken, of another kind, or out of reach.
    """
    # Imported when chosen: transformers alone takes seconds to import.
    if config.kind == "compact":
        from bcaf_stream.encoders.compact_audio import CompactAudioEncoder

        return CompactAudioEncoder.load(_encoder_folder(checkpoint_folder, "audio"), config)
    from bcaf_stream.encoders.pretrained import PretrainedAudioEncoder

    return PretrainedAudioEncoder(config)


def load_text_encoder(config: TextEncoderConfig, checkpoint_folder: Path | str | None = None) -> TextEncoder:
    """Build the text encoder that `config` asks for; a compact one comes from `<checkpoint_folder>/encoders`.

    Raises:
        EncoderError: weights that are missing, broken, of another kind, or out of reach.
    """
    if config.kind == "compact":
        from bcaf_stream.encoders.compact_text import CompactTextEncoder

        return CompactTextEncoder.load(_encoder_folder(checkpoint_folder, "text"), config)
    from bcaf_stream.encoders.pretrained import PretrainedTextEncoder

    return PretrainedTextEncoder(config)


def _encoder_folder(checkpoint_folder: Path | str | None, modality: str) -> Path:
    if checkpoint_folder is None:
        raise EncoderError(f"the compact {modality} encoder lives in a checkpoint folder, and none was given")
    folder = Path(checkpoint_folder) / "encoders" / modality
    if not (folder / "config.json").is_file():
        raise EncoderError(
            f"{folder}: no compact {modality} encoder here; give a checkpoint with one, or kind: pretrained"
        )
    return folder
