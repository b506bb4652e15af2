"""The two networks that tell voices apart, run by ONNX Runtime on one thread, with no state of their own.

`activity` is pyannote's segmentation-3.0 (Plaquet and Bredin 2023): who of up to three local speakers is active
in each frame of a window, as a powerset of them. `frame_features` and `vector` are WeSpeaker's ResNet34 (Wang et
al. 2023), cut in two where it pools over time: the mean and deviation over the frames of one speaker make that
speaker's vector, so that sound runs once through the network however many people it holds.

Legend: N samples, F frames of 20 ms, K local speakers, T feature frames of 80 ms, D values of one.
"""

import functools
import hashlib
import io
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bcaf_stream.audio.frames import FRAME_SAMPLES
from bcaf_stream.errors import CheckpointError
from bcaf_stream.types import SAMPLE_RATE, PcmN

FOLDER = Path(__file__).parents[2] / "checkpoints" / "speakers"
SHA256 = {
    "segmentation.onnx": "057ee564753071c0b09b5b611648b50ac188d50846bff5f01e9f7bbf1591ea25",
    "voice_trunk.onnx": "05a16296addfe8ad5087177e419263f66d809863a271f93d7a0de7e87af0514f",
    "voice_head.npz": "d8c3522aa9b118a26e892cc6dfa9d4cf1a5eab0ce05a899ab6a6034d9ad8c8d5",
}
LOCAL = 3  # speakers in one window
FEATURE_FRAMES = 4  # frames of 20 ms in one of the features
_CLASSES_CK = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32)
_STEP, _FIRST = 270, 495  # of the segmentation, in samples: between two frames, to the middle of the first one
_SHORTEST = SAMPLE_RATE  # samples of a window; what is shorter has silence in front

# Kaldi's filter bank, as the voice model was trained with: 25 ms every 10 ms, 80 filters from 20 Hz to 8 kHz
_LENGTH, _SHIFT, _FFT, _FILTERS = 400, 160, 512, 80
BEFORE = _LENGTH - _SHIFT  # samples before a block that its first filter-bank frame sees

ActivityFK = NDArray[np.float32]
FeaturesTD = NDArray[np.float32]
VectorD = NDArray[np.float32]


def load() -> None:
    """Read the weights, which is done once.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for name in SHA256:
        _head() if name.endswith(".npz") else _session(name)


def activity(sound_N: PcmN) -> tuple[ActivityFK, NDArray[np.bool_]]:
    """Probability of each local speaker in each frame, and the most probable set of them."""
    padding = max(0, _SHORTEST - len(sound_N))
    padded_N = np.concatenate([np.zeros(padding, np.float32), sound_N.astype(np.float32) / 32768.0])
    (logits,) = _session("segmentation.onnx").run(None, {"input_values": padded_N[None, None]})
    probs_FC = np.exp(logits[0] - logits[0].max(-1, keepdims=True))
    probs_FC /= probs_FC.sum(-1, keepdims=True)
    middles = padding + FRAME_SAMPLES * np.arange(len(sound_N) // FRAME_SAMPLES) + FRAME_SAMPLES // 2
    probs_FC = probs_FC[np.clip(np.rint((middles - _FIRST) / _STEP).astype(int), 0, len(probs_FC) - 1)]
    return probs_FC @ _CLASSES_CK, _CLASSES_CK[probs_FC.argmax(-1)] > 0


def frame_features(sound_N: PcmN) -> FeaturesTD:
    """What the voice model pools over; `sound_N` has BEFORE samples in front of the first frame.

    The level of each filter is taken off over the sound given here: give blocks of about a second.
    """
    bank = _filter_bank(sound_N)
    (features,) = _session("voice_trunk.onnx").run(None, {"feats": (bank - bank.mean(0))[None]})
    return np.ascontiguousarray(features[0].transpose(2, 0, 1).reshape(features.shape[3], -1))


def vector(features_TD: FeaturesTD, weights_T: NDArray[np.float32]) -> VectorD:
    """The unit vector of the voice in these feature frames, each with its weight."""
    weight, bias = _head()
    share_T = weights_T / weights_T.sum()
    mean_D = share_T @ features_TD
    variance_D = np.maximum(share_T @ np.square(features_TD) - np.square(mean_D), 0)
    found: VectorD = weight @ np.concatenate([mean_D, np.sqrt(variance_D + 1e-7)]) + bias
    return found / np.linalg.norm(found)


def _filter_bank(sound_N: PcmN) -> NDArray[np.float32]:
    frames = np.lib.stride_tricks.sliding_window_view(sound_N.astype(np.float32), _LENGTH)[::_SHIFT].copy()
    frames -= frames.mean(1, keepdims=True)
    frames[:, 1:] -= np.float32(0.97) * frames[:, :-1].copy()
    frames[:, 0] *= np.float32(0.03)
    power = np.square(np.abs(np.fft.rfft(frames * _window(), _FFT))).astype(np.float32)
    return np.log(np.maximum(power @ _filters().T, np.finfo(np.float32).eps))


@functools.cache
def _window() -> NDArray[np.float32]:
    return np.hamming(_LENGTH).astype(np.float32)


@functools.cache
def _filters() -> NDArray[np.float32]:
    """Triangles on the mel scale, over the bins of the spectrum; the last bin has none."""
    mel_B = 1127.0 * np.log1p(np.arange(_FFT // 2) * SAMPLE_RATE / _FFT / 700.0)
    lowest, highest = (float(1127.0 * np.log1p(hz / 700.0)) for hz in (20.0, SAMPLE_RATE / 2))
    edges = np.linspace(lowest, highest, _FILTERS + 2)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (mel_B - low) / (middle - low), (high - mel_B) / (high - middle)
    return np.pad(np.maximum(0, np.minimum(rise, fall)), ((0, 0), (0, 1))).astype(np.float32)


@functools.cache
def _session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(_bytes(name), options, providers=["CPUExecutionProvider"])


@functools.cache
def _head() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with np.load(io.BytesIO(_bytes("voice_head.npz")), allow_pickle=False) as head:
        return head["weight"].astype(np.float32) * head["scale"], head["bias"]


def _bytes(name: str) -> bytes:
    """Raises CheckpointError: a weight file is missing or is not the one that the thresholds were fitted with."""
    path = FOLDER / name
    try:
        content = path.read_bytes()
    except OSError:
        raise CheckpointError(f"{path}: missing; install bcaf-stream again, or set audio.speakers=off") from None
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise CheckpointError(f"{path}: damaged; install bcaf-stream again, or set audio.speakers=off")
    return content
