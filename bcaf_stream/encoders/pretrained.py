"""Encoders of the wav2vec 2.0 / HuBERT / WavLM and of the RoBERTa / BERT families, through transformers.

The paper's pair is wav2vec 2.0 large and RoBERTa-large (section III-A): the masked mean over frames of the
last hidden state, and the mean of the last four layers, then the masked mean over tokens (end marks included).
What is unusual: audio models with `feat_extract_norm: group` normalise over the whole padded length, so they
get batches of equal length only; with `layer`, padding plus attention mask is exact. A model is downloaded
only if the configuration names a hub id.

Shape letters: B utterances, N samples, T frames or tokens, W width.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import cached_file

from bcaf_stream.encoders.base import AudioEncoderConfig, EncoderConfig, TextEncoderConfig, VectorsBD
from bcaf_stream.encoders.hub import find_model, first_line
from bcaf_stream.encoders.pooling import length_groups, masked_mean, pad_rows
from bcaf_stream.encoders.storage import hash_of
from bcaf_stream.errors import EncoderError

AUDIO_FAMILIES = ("wav2vec2", "hubert", "wavlm")
log = logging.getLogger(__name__)


class PretrainedAudioEncoder:
    """An AudioEncoder; utterances shorter than one frame (400 samples) are padded with silence to one frame."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        where, shape = find_model(str(config.model))
        if shape.model_type not in AUDIO_FAMILIES:
            raise EncoderError(
                f"{config.model}: a {shape.model_type} model; audio takes {', '.join(AUDIO_FAMILIES)}"
            )
        if config.layer is not None and config.layer > shape.num_hidden_layers:
            raise EncoderError(
                f"{config.model}: has {shape.num_hidden_layers} layers; layer {config.layer} is none"
            )
        self.name = str(config.model)
        self.width = int(shape.hidden_size)
        self._config = config
        self._model = load_model(where, config)
        self.weights_hash = hash_of(self._model)
        # WavLM's attention takes no boolean padding mask without a deprecation warning of torch.
        self._needs_equal_lengths = shape.feat_extract_norm == "group" or shape.model_type == "wavlm"
        self._normalises = _wants_unit_variance(where)
        self._convolutions = tuple(zip(shape.conv_kernel, shape.conv_stride, strict=True))
        self._shortest = receptive_field(self._convolutions)

    @torch.inference_mode()
    def encode(self, waves: Sequence[NDArray[np.int16]]) -> VectorsBD:
        """B waves (int16, 16 kHz) to (B, width), float32."""
        ready = [self._prepare(wave) for wave in waves]
        out_BW = np.zeros((len(ready), self.width), dtype=np.float32)
        for group in length_groups([len(wave) for wave in ready], self._config.batch, self._needs_equal_lengths):
            out_BW[group] = self._vectors([ready[i] for i in group]).cpu().numpy()
        return out_BW

    def _prepare(self, wave_N: NDArray[np.int16]) -> Tensor:
        x_N = torch.from_numpy(np.asarray(wave_N, dtype=np.float32) / 32768)
        if len(x_N) < self._shortest:
            x_N = torch.nn.functional.pad(x_N, (0, self._shortest - len(x_N)))
        if self._normalises:
            x_N = (x_N - x_N.mean()) / (x_N.var(unbiased=False) + 1e-7).sqrt()
        return x_N

    def _vectors(self, waves: list[Tensor]) -> Tensor:
        wave_BN, mask_BN = pad_rows(waves)
        wave_BN = wave_BN.to(self._config.device, self._model.dtype)
        mask_BN = mask_BN.to(self._config.device).long()
        padded = not bool(mask_BN.all())
        layer = self._config.layer
        output = self._model(
            wave_BN, attention_mask=mask_BN if padded else None, output_hidden_states=layer is not None
        )
        hidden_BTW = output.last_hidden_state if layer is None else output.hidden_states[layer]
        if not padded:
            return hidden_BTW.float().mean(1)
        frames_B = mask_BN.sum(1)
        for kernel, stride in self._convolutions:
            frames_B = (frames_B - kernel) // stride + 1
        mask_BT = torch.arange(hidden_BTW.shape[1], device=hidden_BTW.device) < frames_B.unsqueeze(1)
        return masked_mean(hidden_BTW, mask_BT)


class PretrainedTextEncoder:
    """A TextEncoder; a text over the model's maximum loses its end, and `truncated` counts it."""

    def __init__(self, config: TextEncoderConfig) -> None:
        where, shape = find_model(str(config.model))
        if config.layers > getattr(shape, "num_hidden_layers", 0):
            raise EncoderError(f"{config.model}: has fewer than {config.layers} layers; set layers lower")
        self.name = str(config.model)
        self.width = int(shape.hidden_size)
        self.truncated = 0
        self._config = config
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(where)
        except Exception as error:  # transformers and tokenizers raise OSError, ValueError, and bare Exception
            raise EncoderError(f"{config.model}: no usable tokenizer: {first_line(error)}") from None
        self._model = load_model(where, config)
        self.weights_hash = hash_of(self._model)
        self._most = most_tokens(shape, self._tokenizer.model_max_length)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> VectorsBD:
        """B texts to (B, width), float32."""
        rows = [self._tokens(text) for text in texts]
        out_BW = np.zeros((len(rows), self.width), dtype=np.float32)
        for group in length_groups([len(row) for row in rows], self._config.batch):
            ids_BT, mask_BT = pad_rows([rows[i] for i in group])
            ids_BT, mask_BT = ids_BT.to(self._config.device), mask_BT.to(self._config.device)
            # RoBERTa counts positions from the padding id, so padding must carry it, not merely be masked.
            ids_BT = ids_BT.masked_fill(~mask_BT, self._tokenizer.pad_token_id or 0).long()
            hidden = self._model(ids_BT, attention_mask=mask_BT.long(), output_hidden_states=True).hidden_states
            last_BTW = torch.stack(hidden[-self._config.layers :]).float().mean(0)
            out_BW[group] = masked_mean(last_BTW, mask_BT).cpu().numpy()
        return out_BW

    def _tokens(self, text: str) -> Tensor:
        ids = self._tokenizer(text, verbose=False)["input_ids"]
        if len(ids) > self._most:
            self.truncated += 1
            ids = self._tokenizer(text, truncation=True, max_length=self._most, verbose=False)["input_ids"]
        return torch.tensor(ids)


def load_model(where: str, config: EncoderConfig) -> Any:
    """The transformers model of `where`, in the asked precision: a checkpoint's own float16 is never kept.

    Raises:
        EncoderError: the weights are missing, broken, or do not fit their configuration.
    """
    log.info("loading %s on %s", where, config.device)
    try:
        model = AutoModel.from_pretrained(where, dtype=getattr(torch, config.dtype))
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError and safetensors' own
        raise EncoderError(f"{config.model}: its weights cannot be loaded: {first_line(error)}") from None
    return model.to(config.device).eval()


def receptive_field(convolutions: Sequence[tuple[int, int]]) -> int:
    """Samples that one frame needs: 400 for wav2vec 2.0."""
    samples = 1
    for kernel, stride in reversed(convolutions):
        samples = (samples - 1) * stride + kernel
    return samples


def most_tokens(shape: Any, tokenizer_says: int) -> int:
    """The longest input in tokens; RoBERTa's positions start behind the padding id and so hold two fewer."""
    positions = int(shape.max_position_embeddings)
    if shape.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= int(shape.pad_token_id) + 1
    return min(positions, int(tokenizer_says))


def _wants_unit_variance(where: str) -> bool:
    """`do_normalize` of the model's preprocessor_config.json; transformers' default, true, if there is none."""
    folder = Path(where)
    path = folder / "preprocessor_config.json" if folder.is_dir() else None
    if path is None:
        found = cached_file(where, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
        path = Path(found) if found else None
    if path is None or not path.is_file():
        return True
    return bool(json.loads(path.read_text(encoding="utf-8")).get("do_normalize", True))
