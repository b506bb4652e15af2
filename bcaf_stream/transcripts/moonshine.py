"""Moonshine tiny-en, the recogniser whose weights come with its package: English, CPU, nothing to download.

What its Python wrapper does not say: one transcriber object reuses the memory of its result, so that two threads
in it read each other's freed text (hence the lock; ctypes lets other threads run meanwhile), and only the
environment variable MOONSHINE_ORT_SINGLE_THREAD, read while the model loads, keeps it to one thread.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.asr import Transcription
from bcaf_stream.transcripts.hearing import audible_pieces, believable
from bcaf_stream.types import SAMPLE_RATE, PcmN

SINGLE_THREAD = "MOONSHINE_ORT_SINGLE_THREAD"
FAINT_PEAK = 0.1  # of full scale; fainter speech is lifted to LIFTED_PEAK, as the model mishears it otherwise
LIFTED_PEAK = 0.25
# vad_threshold 0 switches off the library's own voice detection: the segmenter has decided already.
OPTIONS = {"vad_threshold": "0", "return_audio_data": "false"}
WAY_OUT = "give the words with --transcript FILE, or go on without them with --text none"


class MoonshineTranscriber:
    """See asr.Transcriber.

    Raises:
        AsrError: the package is absent, does not run on this platform, or carries no model.
    """

    def __init__(self, threads: int = 1) -> None:
        self._lock = threading.Lock()
        try:
            # Imported here: the package exists for few platforms, and its library needs glibc 2.34 or newer.
            from moonshine_voice import ModelArch, Transcriber, get_model_path

            # Where its library does not load, its destructor asks for a handle that was never set, and complains.
            quiet = type("QuietTranscriber", (Transcriber,), {"_handle": None})
            with _single_thread(threads == 1):
                self._native = quiet(get_model_path("tiny-en"), ModelArch.TINY, options=OPTIONS)
            self.name = f"moonshine-tiny-en {version('moonshine-voice')}"
        except (ImportError, PackageNotFoundError):
            raise AsrError(
                f"speech recognition needs moonshine-voice 0.1.0, which is not installed: install it, {WAY_OUT}"
            ) from None
        except Exception as error:  # the wrapper raises its own, OSError and plain Exception alike
            reason = " ".join(str(error).split())
            raise AsrError(
                f"moonshine-voice cannot run here ({reason}): it needs its bundled model and glibc 2.34: {WAY_OUT}"
            ) from None

    def transcribe(self, samples: PcmN) -> Transcription:
        texts = (believable(self._hear(piece)) for piece in audible_pieces(samples))
        return Transcription(" ".join(filter(None, texts)))

    def close(self) -> None:
        with self._lock:
            self._native.close()

    def _hear(self, samples: PcmN) -> str:
        wave = samples.astype(np.float32) / 32768
        peak = float(np.abs(wave).max())
        if peak < FAINT_PEAK:
            wave *= LIFTED_PEAK / peak
        sound = wave.tolist()
        with self._lock:
            try:
                result = self._native.transcribe_without_streaming(sound, SAMPLE_RATE)
            except Exception as error:
                raise AsrError(f"{self.name} failed: {' '.join(str(error).split())}") from None
        return " ".join(line.text for line in result.lines)


@contextmanager
def _single_thread(wanted: bool) -> Iterator[None]:
    before = os.environ.get(SINGLE_THREAD)
    if wanted:
        os.environ[SINGLE_THREAD] = "1"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ[SINGLE_THREAD]
        elif before is not None:
            os.environ[SINGLE_THREAD] = before
