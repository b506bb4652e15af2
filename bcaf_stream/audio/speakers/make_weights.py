"""Make the weight files of checkpoints/speakers from the published ones; run once, needs `pip install onnx`.

    python -m bcaf_stream.audio.speakers.make_weights segmentation-3.0.onnx wespeaker_en_voxceleb_resnet34.onnx

The convolutions of the voice model are stored in 8 bits, one scale for each output channel, and computed in 32
bits: ONNX Runtime turns them back when it loads the file. The last layer is a file of its own, because the
statistics before it are taken over the frames of one speaker, which only the program knows.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bcaf_stream.audio.speakers.models import FOLDER

PUBLISHED = {
    "segmentation": "057ee564753071c0b09b5b611648b50ac188d50846bff5f01e9f7bbf1591ea25",
    "voice": "5ef208a9da1453335308a6b6f4e6dfbd7e183a38b604de0a57664f45d257fe94",
}
POOLED = "onnx::ReduceMean_343"  # what the statistics are taken of: (batch, 256, 10, frames / 8)


def main(segmentation: Path, voice: Path) -> None:
    for name, path in (("segmentation", segmentation), ("voice", voice)):
        if hashlib.sha256(path.read_bytes()).hexdigest() != PUBLISHED[name]:
            sys.exit(f"{path}: not the published {name} model")
    (FOLDER / "segmentation.onnx").write_bytes(segmentation.read_bytes())
    head = {one.name: numpy_helper.to_array(one) for one in onnx.load(str(voice)).graph.initializer}
    weight = head["model.seg_1.weight"]
    scale = np.abs(weight).max(1, keepdims=True) / 127
    np.savez(
        FOLDER / "voice_head.npz",
        weight=np.round(weight / scale).astype(np.int8),
        scale=scale.astype(np.float32),
        bias=head["model.seg_1.bias"] - head["mean_vec"],
    )
    trunk = FOLDER / "voice_trunk.onnx"
    onnx.utils.extract_model(str(voice), str(trunk), ["feats"], [POOLED])
    model = onnx.load(str(trunk))
    shrink(model)
    onnx.save(model, str(trunk))


def shrink(model: onnx.ModelProto) -> None:
    graph = model.graph
    stored, restored = [], []
    for tensor in graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.ndim != 4:
            stored.append(tensor)
            continue
        scale = np.abs(weight).reshape(len(weight), -1).max(1).reshape(-1, 1, 1, 1) / 127
        whole = np.round(weight / scale).astype(np.int8)
        name = tensor.name
        stored += [
            numpy_helper.from_array(whole, f"{name}.int8"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"),
        ]
        restored += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
        ]
    nodes = [*restored, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(stored)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
