"""Silero VAD as a stream of probabilities, run by ONNX Runtime straight from the wheel of `silero-vad`.

Unusual: the package itself is never imported, because it imports torch and torchaudio; only its model file
for sequences of windows is used. One session, with one thread, serves every channel of the process; the
state of the recurrent network and the last samples are kept per stream. Windows that arrived together are run
together, which is twice as fast, but only where this machine's arithmetic gives bit for bit the same numbers
for any grouping: the decisions must not depend on how the sound was cut into chunks.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bcaf_stream.errors import SourceError
from bcaf_stream.types import PcmN

WINDOW_SAMPLES = 512  # the model's own window at 16 kHz: 32 ms
CONTEXT_SAMPLES = 64  # the end of the window before, which the model sees again
_FILE = "silero_vad_16k_sequence.onnx"
_GROUP = 32  # windows run together at most: one second

_State = tuple[NDArray[np.float32], NDArray[np.float32]]  # of the LSTM: hidden, cell


def _model_path() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0], "data", _FILE) if places else Path(_FILE)
    if not path.is_file():
        raise SourceError(
            "the Silero VAD model is not installed: pip install 'silero-vad>=6.2.3', or set vad.mode=webrtc"
        )
    return path


@functools.cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # the exported graph holds unused initializers, which it warns about
    return onnxruntime.InferenceSession(str(_model_path()), options, providers=["CPUExecutionProvider"])


def _start() -> _State:
    return np.zeros((1, 1, 128), np.float32), np.zeros((1, 1, 128), np.float32)


def _judge(windows_WN: NDArray[np.float32], state: _State, group: int) -> tuple[list[float], _State]:
    """Probabilities of consecutive windows, each with its context in front, and the state after them."""
    run, (hidden, cell), probs = _session().run, state, []
    for begin in range(0, len(windows_WN), group):
        feed = {"input": windows_WN[begin : begin + group], "h": hidden, "c": cell}
        probs_W, hidden, cell = run(None, feed)
        probs += probs_W.tolist()
    return probs, (hidden, cell)


@functools.cache
def _group() -> int:
    """How many windows may run together: 1 if on this machine the grouping shows in the numbers."""
    noise_WN = (
        np.random.default_rng(0).normal(0, 0.1, (_GROUP, CONTEXT_SAMPLES + WINDOW_SAMPLES)).astype(np.float32)
    )
    alone, _ = _judge(noise_WN, _start(), 1)
    same = all(_judge(noise_WN, _start(), size)[0] == alone for size in (2, 3, 5, 7, 13, 16, _GROUP))
    return _GROUP if same else 1


class SileroStream:
    """Speech probability of each consecutive window of WINDOW_SAMPLES samples."""

    def __init__(self) -> None:
        self._group = _group()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is the first of a channel."""
        self._state = _start()
        self._pending: PcmN = np.zeros(CONTEXT_SAMPLES, np.int16)

    def push(self, samples_N: PcmN) -> list[float]:
        """Take samples at SAMPLE_RATE; return the probabilities of the windows that became complete."""
        self._pending = np.concatenate([self._pending, samples_N])
        count = (len(self._pending) - CONTEXT_SAMPLES) // WINDOW_SAMPLES
        if count <= 0:
            return []
        sound_N = self._pending[: CONTEXT_SAMPLES + count * WINDOW_SAMPLES].astype(np.float32) / 32768.0
        windows_WN = np.lib.stride_tricks.sliding_window_view(sound_N, CONTEXT_SAMPLES + WINDOW_SAMPLES)
        probs, self._state = _judge(windows_WN[::WINDOW_SAMPLES], self._state, self._group)
        self._pending = self._pending[count * WINDOW_SAMPLES :]
        return probs

    def flush(self) -> list[float]:
        """Return the probability of the last, incomplete window, if there is one, filled up with silence."""
        missing = WINDOW_SAMPLES + CONTEXT_SAMPLES - len(self._pending)
        return self.push(np.zeros(missing, np.int16)) if missing < WINDOW_SAMPLES else []

    def close(self) -> None:
        self.reset()
