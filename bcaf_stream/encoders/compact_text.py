"""The compact text encoder: a small BERT (MiniLM-L6 by descent), fine-tuned on emotion in dialogue.

The vector is the mean of the last four layers, then the mean over all tokens of the utterance, the two
marks at its ends included (so the empty string has a vector). Shape, weights and word list come from the
checkpoint folder; nothing is ever downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from torch import Tensor

from bcaf_stream.encoders.base import TextEncoderConfig, VectorsBD
from bcaf_stream.encoders.bert import BertShape, BertTrunk
from bcaf_stream.encoders.pooling import length_groups, masked_mean, pad_rows
from bcaf_stream.encoders.storage import Uninitialised, hash_of, load_weights
from bcaf_stream.errors import EncoderError

MEAN_OF_LAYERS = 4
MOST_TOKENS = 128  # of one utterance, marks included; about 40 s of speech


class CompactTextEncoder:
    """A TextEncoder on the checkpoint's own weights."""

    def __init__(self, model: BertTrunk, tokenizer: Tokenizer, config: TextEncoderConfig) -> None:
        self.name = "minilm-l6"
        self.width = model.shape.hidden_size
        self.weights_hash = hash_of(model)
        self.truncated = 0
        self._batch = config.batch
        self._device = config.device
        self._model = model.to(config.device, getattr(torch, config.dtype)).eval()
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(min(MOST_TOKENS, model.shape.max_position_embeddings))

    @classmethod
    def load(cls, folder: Path, config: TextEncoderConfig) -> "CompactTextEncoder":
        """Read `config.json`, `tokenizer.json` and `weights.safetensors` of `folder`.

        Raises:
            EncoderError: a file is missing, broken, or does not fit the others.
        """
        try:
            shape = BertShape.model_validate_json((folder / "config.json").read_text())
        except (OSError, ValueError, ValidationError) as error:
            raise EncoderError(
                f"{folder}/config.json: no compact text encoder: {str(error).splitlines()[0]}"
            ) from None
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise EncoderError(f"{folder}/tokenizer.json: cannot be read: {error}") from None
        with Uninitialised():
            model = BertTrunk(shape)
        try:
            model.load_state_dict(load_weights(folder / "weights.safetensors"), assign=True)
        except RuntimeError:
            raise EncoderError(f"{folder}: the weights do not fit config.json; the checkpoint is broken") from None
        return cls(model, tokenizer, config)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> VectorsBD:
        """B texts to (B, width), float32."""
        tokens = self._tokenizer.encode_batch([spoken(text) for text in texts])
        self.truncated += sum(bool(token.overflowing) for token in tokens)
        out_BW = np.zeros((len(texts), self.width), dtype=np.float32)
        for group in length_groups([len(token.ids) for token in tokens], self._batch):
            ids_BT, mask_BT = pad_rows([torch.tensor(tokens[i].ids) for i in group])
            ids_BT, mask_BT = ids_BT.to(self._device), mask_BT.to(self._device)
            out_BW[group] = pooled_text(self._model(ids_BT, mask_BT), mask_BT).cpu().numpy()
        return out_BW


def spoken(text: str) -> str:
    """The text with one kind of apostrophe: corpora and speech recognisers write several."""
    return text.replace("\u2019", "'").replace("\u2018", "'").replace("\x92", "'")


def pooled_text(hidden: Sequence[Tensor], mask_BT: Tensor) -> Tensor:
    """Mean of the last MEAN_OF_LAYERS hidden states (B, T, W), then over the valid tokens: (B, W), float32."""
    return masked_mean(torch.stack(list(hidden[-MEAN_OF_LAYERS:])).float().mean(0), mask_BT)
