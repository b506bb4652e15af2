"""Silero VAD as a stream of probabilities, run by ONNX Runtime straight from the wheel of `silero-vad`.

Unusual: the package itself is never imported, because it imports torch and torchaudio; only its model file
is used. One session, with one thread, serves every channel of the process; the state of the recurrent
network and the last samples are kept per stream. Windows are run one at a time, so that the numbers cannot
depend on how many of them arrived together.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bcaf_stream.errors import SourceError
from bcaf_stream.types import SAMPLE_RATE, PcmN

WINDOW_SAMPLES = 512  # the model's own window at 16 kHz: 32 ms
CONTEXT_SAMPLES = 64  # the end of the window before, which the model sees again
_RATE = np.array(SAMPLE_RATE, dtype=np.int64)


def _model_path() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0], "data", "silero_vad.onnx") if places else Path("silero_vad.onnx")
    if not path.is_file():
        raise SourceError(
            "the Silero VAD model is not installed: pip install 'silero-vad>=6', or set vad.mode=webrtc"
        )
    return path


@functools.cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # the exported graph holds unused initializers, which it warns about
    return onnxruntime.InferenceSession(str(_model_path()), options, providers=["CPUExecutionProvider"])


class SileroStream:
    """Speech probability of each consecutive window of WINDOW_SAMPLES samples."""

    def __init__(self) -> None:
        self._run = _session().run
        self.reset()

    def reset(self) -> None:
        self._state: NDArray[np.float32] = np.zeros((2, 1, 128), np.float32)
        self._pending: PcmN = np.zeros(CONTEXT_SAMPLES, np.int16)

    def push(self, samples_N: PcmN) -> list[float]:
        """Take samples at SAMPLE_RATE; return the probabilities of the windows that became complete."""
        self._pending = np.concatenate([self._pending, samples_N])
        count = (len(self._pending) - CONTEXT_SAMPLES) // WINDOW_SAMPLES
        if count <= 0:
            return []
        sound = self._pending.astype(np.float32) / 32768.0
        starts = range(0, count * WINDOW_SAMPLES, WINDOW_SAMPLES)
        probs = [self._window(sound[start : start + CONTEXT_SAMPLES + WINDOW_SAMPLES]) for start in starts]
        self._pending = self._pending[count * WINDOW_SAMPLES :]
        return probs

    def flush(self) -> list[float]:
        """Return the probability of the last, incomplete window, if there is one, filled up with silence."""
        missing = WINDOW_SAMPLES + CONTEXT_SAMPLES - len(self._pending)
        return self.push(np.zeros(missing, np.int16)) if missing < WINDOW_SAMPLES else []

    def close(self) -> None:
        self.reset()

    def _window(self, sound_N: NDArray[np.float32]) -> float:
        prob, self._state = self._run(None, {"input": sound_N[None], "state": self._state, "sr": _RATE})
        return float(prob[0, 0])
