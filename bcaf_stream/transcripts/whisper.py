"""Any Whisper that transformers loads, from a hub id or a local folder: in batches, greedy, no sampling.

Its confidence is the geometric mean of its tokens' probabilities, which is what the model itself says.
"""

import threading
from collections.abc import Sequence

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.transcriber import Transcription, joined_all
from bcaf_stream.types import SAMPLE_RATE, PcmN


class WhisperTranscriber:
    """See transcriber.BatchTranscriber; a multilingual model finds the language of each piece itself.

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
        return self.transcribe_all([samples])[0]

    def transcribe_all(self, batch: Sequence[PcmN]) -> list[Transcription]:
        return joined_all(batch, self._hear_all)

    def close(self) -> None:
        with self._lock:
            torch.nn.Module.to(self._model, "cpu")

    @torch.inference_mode()
    def _hear_all(self, pieces: Sequence[PcmN]) -> list[Transcription]:
        if not pieces:
            return []
        waves = [piece.astype(np.float32) / 32768 for piece in pieces]
        inputs = self._extractor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
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
        texts = self._tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        if not output.scores:
            return [Transcription(text) for text in texts]
        said_BT = output.sequences[:, -len(output.scores) :]  # without the prompt
        log_probs_BTV = torch.stack(output.scores, dim=1).float().log_softmax(-1)
        log_probs_BT = log_probs_BTV.gather(-1, said_BT[..., None])[..., 0]
        end_BT = (said_BT == self._model.generation_config.eos_token_id).int()
        counts_BT = end_BT.cumsum(-1) - end_BT == 0  # up to the first end; what follows fills the batch up
        means_B = torch.where(counts_BT, log_probs_BT, 0).sum(-1) / counts_BT.sum(-1)
        return [Transcription(text, float(mean)) for text, mean in zip(texts, means_B.exp(), strict=True)]
