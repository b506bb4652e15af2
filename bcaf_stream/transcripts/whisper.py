"""Any Whisper that transformers loads, from a hub id or a local folder: batch of one, greedy, no sampling."""

import threading

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.asr import Transcription
from bcaf_stream.transcripts.hearing import audible_pieces, believable
from bcaf_stream.types import SAMPLE_RATE, PcmN


class WhisperTranscriber:
    """See asr.Transcriber; a multilingual model finds the language of each piece itself.

    Raises:
        AsrError: no Whisper model there, or the device is not to be had.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        self.name = f"whisper {model}"
        self._lock = threading.Lock()
        try:
            # Not WhisperProcessor, which joins these two: importing it takes as long as importing torch.
            self._extractor = WhisperFeatureExtractor.from_pretrained(model)
            self._tokenizer = WhisperTokenizer.from_pretrained(model)
            self._model = WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
            torch.nn.Module.to(self._model, device)
        except Exception as error:  # transformers raises OSError, ValueError, KeyError and others for bad folders
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise AsrError(
                f"asr.model {model}: cannot be loaded on {device} as a Whisper model: {reason}: "
                "give a folder or hub id of one, or set asr.kind: moonshine or none"
            ) from None
        self._model.eval()

    def transcribe(self, samples: PcmN) -> Transcription:
        texts = (believable(self._hear(piece)) for piece in audible_pieces(samples))
        return Transcription(" ".join(filter(None, texts)))

    def close(self) -> None:
        with self._lock:
            torch.nn.Module.to(self._model, "cpu")

    @torch.inference_mode()
    def _hear(self, samples: PcmN) -> str:
        wave = samples.astype(np.float32) / 32768
        inputs = self._extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
        with self._lock:
            try:
                tokens = self._model.generate(**inputs.to(self._model.device), do_sample=False, num_beams=1)
            except RuntimeError as error:
                raise AsrError(f"{self.name} failed: {str(error).strip().splitlines()[0]}") from None
        return str(self._tokenizer.batch_decode(tokens, skip_special_tokens=True)[0])
