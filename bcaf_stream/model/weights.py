"""Safetensors files as strict as the code that reads them: every tensor known, shaped and finite, or an error."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from bcaf_stream.errors import CheckpointError

WEIGHTS_NAME = "model.safetensors"
FORMER_NAMES = {".rise.": ".up.", ".fall.": ".down."}  # tensors, as the first releases named them
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def pack(model: nn.Module, dtype: torch.dtype) -> bytes:
    """The model's tensors as a safetensors file in `dtype`.

    Raises:
        CheckpointError: a weight is not finite, or not in `dtype`.
    """
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise CheckpointError(f"{name} holds numbers that are not finite in {dtype}; nothing was saved")
    return bytes_of(tensors)


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file as float32, and the file's sha256.

    Raises:
        CheckpointError: the file is missing, broken, or holds anything but finite floats.
    """
    try:
        data = path.read_bytes()
        tensors = tensors_of(data)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: {path.name} is missing; save or fetch the checkpoint again"
        ) from None
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path.parent}: {path.name} cannot be read ({reason}); save or fetch the checkpoint again"
        ) from None
    for name, value in tensors.items():
        if value.dtype not in FLOATS or not value.isfinite().all():
            raise CheckpointError(
                f"{path.parent}: {path.name}: {name} is not made of finite floats; train it again"
            )
    return {_today(name): value.float() for name, value in tensors.items()}, hashlib.sha256(data).hexdigest()


def _today(name: str) -> str:
    for former, current in FORMER_NAMES.items():
        name = name.replace(former, current)
    return name


def assign(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Give the model its weights; the tensors become its own.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for problem, names in (
        ("missing", expected.keys() - found.keys()),
        ("left over", found.keys() - expected.keys()),
        ("of another shape", {n for n in expected.keys() & found.keys() if expected[n] != found[n]}),
    ):
        if names:
            first, more = min(names), f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{folder}: {WEIGHTS_NAME} does not fit config.json: {first}{more} {problem};"
                " use the config.json it was saved with"
            )
    model.load_state_dict(tensors, strict=True, assign=True)


def lay_out_for_steps(model: nn.Module) -> None:
    """Store the matrices of nn.Linear by columns, as ParallelLinear has them; shapes, values, what is saved stay.

    A step multiplies them with a row or a few, and MKL does that faster by columns.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.t().contiguous().t()
