"""The published starting weights: read whole, or refused by name."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.encoders.compact_audio import AudioTrunk, CompactAudioConfig
from bcaf_stream.errors import DataError
from training.compact import starts
from training.compact.converted import read_converted

SMALL = CompactAudioConfig(width=16, heads=2, blocks=2, pooled=(1, 2))
FLOAT16, INT32 = 4, 3


def variable(name: str, shape: tuple[int, ...], kind: int, values: bytes) -> bytes:
    head = struct.pack("<H", len(name) + 1) + name.encode() + b"\0" + struct.pack("<B", len(shape))
    return head + struct.pack(f"<{len(shape)}I", *shape) + struct.pack("<BI", kind, len(values)) + values


def file_of(tensors: dict[str, torch.Tensor], version: int = 6) -> bytes:
    """A converted model: the tensors in float16 behind a number that is no weight, as such files have it."""
    parts = [variable("encoder/num_heads", (), INT32, struct.pack("<i", 2))]
    for name, tensor in tensors.items():
        parts.append(variable(name, tuple(tensor.shape), FLOAT16, tensor.numpy().astype("<f2").tobytes()))
    head = (
        struct.pack("<I", version) + struct.pack("<H", 12) + b"WhisperSpec\0" + struct.pack("<II", 3, len(parts))
    )
    return head + b"".join(parts) + struct.pack("<I", 0)


def converted(trunk: AudioTrunk) -> dict[str, torch.Tensor]:
    """The trunk's weights under the names that the converter gives them."""
    found: dict[str, torch.Tensor] = {}
    own = trunk.state_dict()
    for conv in ("conv1", "conv2"):
        found |= {f"encoder/{conv}/{leaf}": own[f"{conv}.{leaf}"] for leaf in ("weight", "bias")}
    for number in range(SMALL.blocks):
        ours, theirs = f"blocks.{number}", f"encoder/layer_{number}"
        no_bias = torch.zeros(SMALL.width)
        for leaf in ("weight", "bias"):
            rows = [own.get(f"{ours}.{name}.{leaf}", no_bias) for name in ("query", "key", "value")]
            found[f"{theirs}/self_attention/linear_0/{leaf}"] = torch.cat(rows)
            found[f"{theirs}/self_attention/linear_1/{leaf}"] = own[f"{ours}.out.{leaf}"]
            found[f"{theirs}/ffn/linear_0/{leaf}"] = own[f"{ours}.feed_in.{leaf}"]
            found[f"{theirs}/ffn/linear_1/{leaf}"] = own[f"{ours}.feed_out.{leaf}"]
        for leaf, their_leaf in (("weight", "gamma"), ("bias", "beta")):
            found[f"{theirs}/self_attention/layer_norm/{their_leaf}"] = own[f"{ours}.attention_norm.{leaf}"]
            found[f"{theirs}/ffn/layer_norm/{their_leaf}"] = own[f"{ours}.feed_norm.{leaf}"]
    return found


@pytest.fixture
def trunk() -> AudioTrunk:
    torch.manual_seed(0)
    trunk = AudioTrunk(SMALL)
    for value in trunk.state_dict().values():
        value.copy_(torch.randn_like(value).half())  # norms too: all ones would hide a mix-up
    return trunk


def test_the_trunk_is_what_was_converted(
    trunk: AudioTrunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(file_of(converted(trunk)))
    monkeypatch.setattr(starts, "TRUNK", SMALL)
    monkeypatch.setattr(starts, "WHISPER_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    read = starts.whisper_trunk(path).state_dict()
    assert read.keys() == trunk.state_dict().keys()
    for name, value in trunk.state_dict().items():
        torch.testing.assert_close(read[name], value, rtol=0, atol=0, msg=name)


def test_another_file_is_refused_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(file_of({}))
    with pytest.raises(DataError, match="not the published weights"):
        starts.whisper_trunk(path)
    with pytest.raises(DataError, match="cannot be read"):
        starts.whisper_trunk(tmp_path / "nothing.bin")


def test_another_version_of_the_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(file_of({}, version=7))
    with pytest.raises(DataError, match="version 6"):
        read_converted(path)


@given(st.data())
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    values = torch.from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
    whole = file_of({"weight": values})
    path = tmp_path_factory.mktemp("cut") / "model.bin"
    path.write_bytes(whole)
    torch.testing.assert_close(read_converted(path), {"weight": values}, rtol=0, atol=0)
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 5))])  # behind it only the (empty) aliases
    with pytest.raises(DataError, match="download it again"):
        read_converted(path)
