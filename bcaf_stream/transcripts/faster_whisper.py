"""A Whisper that CTranslate2 runs, from a folder as faster-whisper publishes them: greedy, int8 on the CPU.

Its confidence is the geometric mean of its tokens' probabilities, which is what the model itself says.
"""

import math
import threading
from pathlib import Path

import numpy as np

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.transcriber import Transcription, joined
from bcaf_stream.types import PcmN

NEEDED = ("model.bin", "config.json", "tokenizer.json")  # without the last, a tokenizer would be downloaded


class FasterWhisperTranscriber:
    """See transcriber.Transcriber; a multilingual model finds the language of each piece itself.

    Raises:
        AsrError: the package is absent, there is no such model, or the device is not to be had.
    """

    def __init__(self, model: str, device: str = "cpu", threads: int = 1) -> None:
        self.name = f"faster-whisper {model}"
        self._lock = threading.Lock()
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise AsrError(
                "asr.kind: faster_whisper needs the extra of that name: pip install 'bcaf-stream[faster-whisper]'"
            ) from None
        folder = Path(model).expanduser()
        absent = [name for name in NEEDED if folder.is_dir() and not (folder / name).is_file()]
        if absent:
            raise AsrError(
                f"asr.model {model}: holds no {absent[0]}; give a folder as faster-whisper publishes them"
            )
        try:
            self._model = WhisperModel(
                str(folder) if folder.is_dir() else model,
                device=device,
                compute_type="int8" if device == "cpu" else "default",
                cpu_threads=threads,
            )
        except Exception as error:  # CTranslate2 raises RuntimeError and ValueError, the hub's client its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise AsrError(
                f"asr.model {model}: cannot be loaded on {device} by faster-whisper: {reason}: "
                "give a folder or name of one of its models, or set asr.kind: moonshine or none"
            ) from None

    def transcribe(self, samples: PcmN) -> Transcription:
        return joined(samples, self._hear)

    def close(self) -> None:
        with self._lock:
            self._model.model.unload_model()

    def _hear(self, samples: PcmN) -> Transcription:
        with self._lock:
            try:
                # One temperature: with several, a doubtful piece would be heard again by drawing at random.
                segments, _ = self._model.transcribe(
                    samples.astype(np.float32) / 32768,
                    beam_size=1,
                    temperature=0.0,
                    condition_on_previous_text=False,
                    without_timestamps=True,
                )
                heard = list(segments)
            except (RuntimeError, ValueError) as error:
                raise AsrError(f"{self.name} failed: {str(error).strip().splitlines()[0]}") from None
        tokens = sum(len(one.tokens) for one in heard)
        said = sum(len(one.tokens) * one.avg_logprob for one in heard)
        return Transcription("".join(one.text for one in heard), math.exp(said / tokens) if tokens else None)
