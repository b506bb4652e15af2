"""The compact audio encoder: the convolutions and first blocks of a Whisper encoder.

Whisper's first layers hear how something is said, its last ones know what was said: three blocks of base
(10 M parameters) beat the whole encoder. Unlike Whisper's own code it runs at the utterance's own length;
utterances over LONGEST are cut into equal parts whose frames are pooled together, so that memory is bounded.
The vector is, for each pooled block, the mean and the standard deviation over time of its output (no final
LayerNorm).

Shape letters: B utterances, P parts of utterances, N samples, M mels, T frames (20 ms), W width, H heads.
Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from bcaf_stream.config import Config
from bcaf_stream.encoders.base import AudioEncoderConfig, VectorsBD
from bcaf_stream.encoders.logmel import HOP, MELS, LogMel
from bcaf_stream.encoders.pooling import length_groups, pad_rows
from bcaf_stream.encoders.storage import Uninitialised, hash_of, load_weights
from bcaf_stream.errors import EncoderError

LONGEST = 480_000  # samples: 30 s, the length that the positions were trained for


class CompactAudioConfig(Config):
    """The shape of the encoder; it stands in `encoders/audio/config.json` of a checkpoint.

    `pooled`: the blocks, counted from 1, whose outputs make the vector, in this order.
    """

    name: str = "whisper-trunk"
    width: int = Field(default=512, ge=2)
    heads: int = Field(default=8, ge=1)
    blocks: int = Field(default=3, ge=1)
    pooled: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)

    @model_validator(mode="after")
    def _pools_what_there_is(self) -> "CompactAudioConfig":
        if min(self.pooled) < 1 or max(self.pooled) > self.blocks:
            raise ValueError(f"pooled must name blocks from 1 to {self.blocks}")
        return self

    @property
    def vector_width(self) -> int:
        return 2 * self.width * len(self.pooled)


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward, as in Whisper (its key projection has no bias)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)

    def forward(self, x_PTW: Tensor, mask_P11T: Tensor | None) -> Tensor:
        normed_PTW = self.attention_norm(x_PTW)
        query, key, value = (
            layer(normed_PTW).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed_PHTV = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_P11T)
        x_PTW = x_PTW + self.out(mixed_PHTV.transpose(1, 2).flatten(2))
        return x_PTW + self.feed_out(nn.functional.gelu(self.feed_in(self.feed_norm(x_PTW))))


class AudioTrunk(nn.Module):
    """Log-mel frames to block outputs, and to the pooled vector."""

    def __init__(self, config: CompactAudioConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(MELS, config.width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, kernel_size=3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.blocks))

    def forward(self, mel_PTM: Tensor, mask_PT: Tensor) -> tuple[list[Tensor], Tensor]:
        """Frames of 10 ms in; the output (P, ceil(T / 2), W) of every block and their mask out.

        Padded frames are set to zero before each convolution, as the convolution's own padding would be.
        """
        x_PMT = (mel_PTM * mask_PT.unsqueeze(-1)).transpose(1, 2)
        x_PWT = nn.functional.gelu(self.conv1(x_PMT)) * mask_PT.unsqueeze(1)
        x_PTW = nn.functional.gelu(self.conv2(x_PWT)).transpose(1, 2)
        mask_PT = mask_PT[:, ::2]
        x_PTW = x_PTW + sinusoids(x_PTW.shape[1], self.config.width).to(x_PTW)
        mask_P11T = None if bool(mask_PT.all()) else mask_PT[:, None, None, :]
        outputs = []
        for block in self.blocks:
            x_PTW = block(x_PTW, mask_P11T)
            outputs.append(x_PTW)
        return outputs, mask_PT

    def pooled(self, mels: Sequence[Tensor], owner: Sequence[int] | None = None) -> Tensor:
        """Mean and standard deviation over all frames of each utterance, block after block: (B, vector_width).

        `mels` are P spectrograms (T, M); `owner` says which utterance each belongs to (default: its own).
        """
        mel_PTM, mask_PT = pad_rows(mels)
        device = self.conv1.weight.device
        outputs, mask_PT = self(mel_PTM.to(self.conv1.weight), mask_PT.to(device))
        owner_P = (torch.arange(len(mels)) if owner is None else torch.tensor(owner)).to(device)
        parts = [mean_and_deviation(outputs[block - 1], mask_PT, owner_P) for block in self.config.pooled]
        return torch.cat(parts, dim=1)


def mean_and_deviation(x_PTW: Tensor, mask_PT: Tensor, owner_P: Tensor) -> Tensor:
    """Pool the frames of the parts of each utterance together, in float32: (B, 2W)."""
    x_PTW, weight_PT1 = x_PTW.float(), mask_PT.unsqueeze(-1).float()
    many = int(owner_P.max()) + 1

    def total(part_PX: Tensor) -> Tensor:
        return part_PX.new_zeros(many, part_PX.shape[1]).index_add(0, owner_P, part_PX)

    count_B1 = total(weight_PT1.sum(1))
    mean_BW = total((x_PTW * weight_PT1).sum(1)) / count_B1
    spread_PTW = (x_PTW - mean_BW[owner_P].unsqueeze(1)).square() * weight_PT1
    # The small constant keeps the gradient of the root finite where an utterance never varies.
    return torch.cat([mean_BW, (total(spread_PTW.sum(1)) / count_B1 + 1e-8).sqrt()], dim=1)


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's positions, for any length: (length, width)."""
    half = width // 2
    rate_K = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angle_TK = torch.arange(length).unsqueeze(1) * rate_K
    return torch.cat([angle_TK.sin(), angle_TK.cos()], dim=1)


class CompactAudioEncoder:
    """An AudioEncoder on the checkpoint's own weights."""

    def __init__(self, trunk: AudioTrunk, config: AudioEncoderConfig) -> None:
        self.name = trunk.config.name
        self.width = trunk.config.vector_width
        self.weights_hash = hash_of(trunk)
        self._batch = config.batch
        self._mel = LogMel()
        self._trunk = trunk.to(config.device, getattr(torch, config.dtype)).eval()

    @classmethod
    def load(cls, folder: Path, config: AudioEncoderConfig) -> "CompactAudioEncoder":
        """Read `config.json` and `weights.safetensors` of `folder`.

        Raises:
            EncoderError: a file is missing, broken, or does not fit the other.
        """
        try:
            shape = CompactAudioConfig.model_validate_json((folder / "config.json").read_text())
        except (OSError, ValueError, ValidationError) as error:
            raise EncoderError(
                f"{folder}/config.json: no compact audio encoder: {str(error).splitlines()[0]}"
            ) from None
        with Uninitialised():
            trunk = AudioTrunk(shape)
        try:
            trunk.load_state_dict(load_weights(folder / "weights.safetensors"), assign=True)
        except RuntimeError:
            raise EncoderError(f"{folder}: the weights do not fit config.json; the checkpoint is broken") from None
        return cls(trunk, config)

    @torch.inference_mode()
    def encode(self, waves: Sequence[NDArray[np.int16]]) -> VectorsBD:
        """B waves of any length to (B, width), float32; under 100 ms they are padded with silence."""
        out_BW = np.zeros((len(waves), self.width), dtype=np.float32)
        for group in length_groups([len(wave) for wave in waves], self._batch):
            mels: list[Tensor] = []
            owner: list[int] = []
            for position, index in enumerate(group):
                parts = self._spectrograms(waves[index])
                mels += parts
                owner += [position] * len(parts)
            out_BW[group] = self._trunk.pooled(mels, owner).cpu().numpy()
        return out_BW

    def _spectrograms(self, wave_N: NDArray[np.int16]) -> list[Tensor]:
        mel_TM = self._mel(torch.from_numpy(np.asarray(wave_N, dtype=np.float32) / 32768))
        parts = -(-len(mel_TM) // (LONGEST // HOP))
        return list(mel_TM.tensor_split(parts))
