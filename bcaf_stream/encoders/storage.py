"""Encoder weights on disk: safetensors, large matrices as int8 with one scale per row, the rest as float16.

A tensor `x` in int8 is followed by `x::scale` (float16, one per row of the first axis); its value is
`x * scale`. A file of a 27 M parameter encoder is 27 MB instead of 108. Loading always gives float32.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bcaf_stream.errors import EncoderError

SCALE = "::scale"
SMALLEST_QUANTISED = 4096  # elements; below that int8 saves nothing worth its error


class Uninitialised(TorchFunctionMode):
    """While it is entered, modules are built without numbers in their weights, for whoever loads them all at once.

    What is never written takes no memory. torch's own `skip_init` goes by the meta device, which imports a second
    of Python here.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def save_weights(path: Path, weights: Mapping[str, Tensor], int8: bool = True) -> None:
    """Write `weights`; with `int8`, tensors of two or more axes and SMALLEST_QUANTISED elements are quantised."""
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensor = weight.detach().float().cpu()
        if int8 and tensor.dim() >= 2 and tensor.numel() >= SMALLEST_QUANTISED:
            stored[name], stored[name + SCALE] = quantise(tensor)
        else:
            stored[name] = tensor.half().contiguous()
    save_file(stored, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read what `save_weights` wrote, as float32.

    Raises:
        EncoderError: the file is missing or is no safetensors file.
    """
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EncoderError(f"{path}: encoder weights cannot be read: {error}") from None
    return {
        name: dequantise(tensor, stored[name + SCALE]) if name + SCALE in stored else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(SCALE)
    }


def quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one float16 scale per row of the first axis."""
    rows = tensor.flatten(1)
    scale = (rows.abs().amax(1) / 127).clamp(min=1e-7).half()
    whole = (rows / scale.float().unsqueeze(1)).round().clamp(-127, 127)
    return whole.to(torch.int8).view(tensor.shape).contiguous(), scale


def dequantise(tensor: Tensor, scale: Tensor) -> Tensor:
    return tensor.flatten(1).float().mul_(scale.float().unsqueeze(1)).view(tensor.shape)


def hash_of(module: torch.nn.Module) -> str:
    """SHA-256 (hex) over the names and the values of all weights, in the precision in which they run."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
