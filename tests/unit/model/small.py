"""A BCAF small enough for every test, with weights that matter: norms and lambda off their initial values."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import EncoderSpec, EncoderSpecs
from bcaf_stream.model.config import BCAFConfig

LABELS = ("anger", "joy", "neutral", "sadness")


def small_config(**changes: Any) -> BCAFConfig:
    defaults: dict[str, Any] = {
        "labels": LABELS,
        "audio_width": 12,
        "text_width": 10,
        "width": 8,
        "latent": 6,
        "layers": 2,
        "heads": 2,
        "feed_forward": 12,
        "context": 4,
    }
    return BCAFConfig(**(defaults | changes))


def small_model(seed: int = 0, **changes: Any) -> BCAF:
    torch.manual_seed(seed)
    model = BCAF(small_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class Batch(NamedTuple):
    audio_BUA: Tensor
    text_BUT: Tensor
    mask_BU: Tensor
    audio_present_BU: Tensor
    text_present_BU: Tensor


def batch(
    model: BCAF, lengths: list[int], seed: int = 1, absent: float = 0.0, dtype: torch.dtype = torch.float32
) -> Batch:
    """Right-padded random dialogues; each utterance lacks one modality with probability `absent`."""
    generator = torch.Generator().manual_seed(seed)
    B, U = len(lengths), max(lengths)
    mask = torch.arange(U) < torch.tensor(lengths)[:, None]
    lacks = torch.rand(B, U, generator=generator) < absent
    which = torch.rand(B, U, generator=generator) < 0.5
    return Batch(
        torch.randn(B, U, model.config.audio_width, generator=generator, dtype=dtype),
        torch.randn(B, U, model.config.text_width, generator=generator, dtype=dtype),
        mask,
        ~(lacks & which),
        ~(lacks & ~which),
    )


def small_specs() -> EncoderSpecs:
    return EncoderSpecs(
        audio=EncoderSpec(kind="fake", name="twelve", width=12),
        text=EncoderSpec(kind="fake", name="ten", width=10),
    )


def assert_close(got: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    """Equal to an absolute tolerance (torch.testing takes four seconds to import)."""
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), atol=atol, rtol=0)
