"""Any Whisper that transformers loads, from a hub id or a local folder: batch of one, greedy, no sampling.

Its confidence is the geometric mean of its tokens' probabilities, which is what the model itself says.
"""

import threading

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.asr import Transcription
from bcaf_stream.transcripts.hearing import joined
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
        return joined(samples, self._hear)

    def close(self) -> None:
        with self._lock:
            torch.nn.Module.to(self._model, "cpu")

    @torch.inference_mode()
    def _hear(self, samples: PcmN) -> Transcription:
        wave = samples.astype(np.float32) / 32768
        inputs = self._extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
        with self._lock:
            try:
                output = self._model.generate(
                    **inputs.to(self._model.device),
                    do_sample=False,
                    num_beams=1,
                    return_dict_in_generate=True,
                    output_scores=True,
                )
            except RuntimeError as error:
                raise AsrError(f"{self.name} failed: {str(error).strip().splitlines()[0]}") from None
        text = str(self._tokenizer.batch_decode(output.sequences, skip_special_tokens=True)[0])
        said = output.sequences[0, -len(output.scores) :]  # without the prompt
        log_probs = [scores[0].log_softmax(-1)[token] for scores, token in zip(output.scores, said, strict=True)]
        return Transcription(text, float(torch.stack(log_probs).mean().exp()) if log_probs else None)
