"""Moonshine tiny-en, the recogniser whose weights come with its package: English, CPU, nothing to download.

Unusual: the package itself is never imported. Its native library runs the same two networks and gives their words
alone; ONNX Runtime gives the probability of each token as well, and takes a third less time. The decoding is
greedy, as the library's own, and bounded as there (the model's limit for English, in tokens per second).
"""

import importlib.util
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.transcriber import Transcription, joined
from bcaf_stream.types import SAMPLE_RATE, PcmN

FAINT_PEAK = 0.1  # of full scale; fainter speech is lifted to LIFTED_PEAK, as the model mishears it otherwise
LIFTED_PEAK = 0.25
BEGIN, END = 1, 2  # tokens
TOKENS_PER_SECOND = 6.5
HEADS, HEAD_WIDTH = 8, 36
SPACE = b"\xe2\x96\x81"  # SentencePiece's mark of a word's beginning
# P(a word is right) = 1 / (1 + exp(-(INTERCEPT + SLOPE * the tokens' geometric mean probability))): fitted by
# tests/benchmarks/asr_confidence.py on six calls with human transcripts, as they are and in noise.
INTERCEPT, SLOPE = -4.65, 7.70
WAY_OUT = "let the call bring its words, or judge it by its sound alone"


class Decoded(NamedTuple):
    text: str
    log_probs: list[float]  # natural, of each token and of the end, where it was reached


class MoonshineTranscriber:
    """See transcriber.Transcriber.

    Raises:
        AsrError: the package is absent, or carries no model that runs here.
    """

    def __init__(self, threads: int = 1) -> None:
        self._lock = threading.Lock()
        try:
            self.name = f"moonshine-tiny-en {version('moonshine-voice')}"
            folder = _folder()
        except PackageNotFoundError:
            raise AsrError(
                f"speech recognition needs moonshine-voice 0.1.0, which is not installed: install it, {WAY_OUT}"
            ) from None
        try:
            # The larger one first: while it is loaded, its file is in memory as well.
            self._decoder = _session(folder / "decoder_model_merged.ort", threads)
            self._encoder = _session(folder / "encoder_model.ort", threads)
            self._vocabulary = list(_tokens((folder / "tokenizer.bin").read_bytes()))
        except Exception as error:  # ONNX Runtime raises its own, by the dozen
            reason = " ".join(str(error).split())
            raise AsrError(
                f"moonshine-voice cannot run here ({reason}): it needs its bundled model: {WAY_OUT}"
            ) from None
        self._past = [one.name for one in self._decoder.get_inputs() if one.name.startswith("past")]
        self._present = [name.replace("past_key_values", "present") for name in self._past]
        self._closed = False

    def transcribe(self, samples: PcmN) -> Transcription:
        return joined(samples, self.recognise)

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def recognise(self, samples: PcmN) -> Transcription:
        """One piece of sound as it is, whatever comes of it; raises AsrError."""
        wave = samples.astype(np.float32) / np.float32(32768)
        peak = float(np.abs(wave).max())
        if peak < FAINT_PEAK:
            wave *= np.float32(LIFTED_PEAK / peak)
        with self._lock:
            if self._closed:
                raise AsrError(f"{self.name} failed: it was closed")
            try:
                text, log_probs = self._decode(wave)
            except Exception as error:
                raise AsrError(f"{self.name} failed: {' '.join(str(error).split())}") from None
        geometric_mean = float(np.exp(np.mean(log_probs)))
        return Transcription(text, float(1 / (1 + np.exp(-(INTERCEPT + SLOPE * geometric_mean)))))

    def _decode(self, wave: NDArray[np.float32]) -> Decoded:
        """Greedy decoding, with the keys and values of what was decoded kept."""
        mask = np.ones((1, len(wave)), np.int64)  # by samples, in both networks
        (hidden,) = self._encoder.run(None, {"input_values": wave[None], "attention_mask": mask})
        feed = dict.fromkeys(self._past, np.zeros((1, HEADS, 0, HEAD_WIDTH), np.float32)) | {
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": mask,
        }
        token, tokens, log_probs = BEGIN, [], []
        for step in range(int(len(wave) / SAMPLE_RATE * TOKENS_PER_SECOND) + 1):
            feed["input_ids"] = np.array([[token]], np.int64)
            feed["use_cache_branch"] = np.array([step > 0])
            logits, *present = self._decoder.run(["logits", *self._present], feed)
            for name, value in zip(self._past, present, strict=True):
                if step == 0 or ".decoder." in name:  # the encoder's are made once
                    feed[name] = value
            scores = logits[0, -1]
            token = int(scores.argmax())
            log_probs.append(-float(np.log(np.exp(scores - scores[token]).sum())))
            if token == END:
                break
            tokens.append(token)
        text = b"".join(self._vocabulary[token] for token in tokens).replace(SPACE, b" ")
        return Decoded(text.decode("utf-8", "replace").strip(), log_probs)


def _folder() -> Path:
    spec = importlib.util.find_spec("moonshine_voice")
    if spec is None or not spec.submodule_search_locations:
        raise PackageNotFoundError("moonshine-voice")
    return Path(spec.submodule_search_locations[0], "assets", "tiny-en")


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and logged by whoever called
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _tokens(data: bytes) -> Iterator[bytes]:
    """The vocabulary: each token after its length, in one byte below 128 or two."""
    at = 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128:
            length, at = data[at] * 128 + length - 128, at + 1
        yield data[at : at + length]
        at += length
