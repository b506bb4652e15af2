"""TranscriberActor: one recogniser in a process of its own, on any node, on a GPU or CPU."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from actors import metrics
from actors.batching import BatchConfig
from actors.replica_actor import ReplicaActor
from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.asr import AsrConfig, load_transcriber
from bcaf_stream.transcripts.transcriber import BatchTranscriber, Transcriber, Transcription
from bcaf_stream.types import SAMPLE_RATE, PcmN


class TranscriberActor(ReplicaActor[Transcriber, PcmN, Transcription]):
    """One replica of the recogniser."""

    def __init__(self, asr: AsrConfig, batch: BatchConfig) -> None:
        self._most = batch.max_utterances
        super().__init__("recognition", partial(_transcriber, asr), _audio_seconds, batch, metrics.RECOGNITION)

    async def transcribe(self, samples: PcmN) -> Transcription:
        """The words in mono PCM at SAMPLE_RATE.

        Raises:
            NotReadyError: the recogniser is not loaded yet.
            AsrError: it failed.
        """
        return await self._ask(samples)

    def _describe(self, model: Transcriber) -> dict[str, Any]:
        """`at_once`: how many requests keep it busy: while one batch runs, the next one waits here."""
        return {"asr": model.name, "at_once": 2 * (self._most if isinstance(model, BatchTranscriber) else 1)}

    def _answer(self, model: Transcriber, requests: Sequence[PcmN]) -> Sequence[Transcription]:
        if isinstance(model, BatchTranscriber):
            return model.transcribe_all(requests)
        return [model.transcribe(samples) for samples in requests]


def _transcriber(asr: AsrConfig) -> Transcriber:
    transcriber = load_transcriber(asr)
    if transcriber is None:
        raise AsrError("recognition.replicas: analyzer.text.asr.kind is none, so there is nothing to run")
    return transcriber


def _audio_seconds(samples: PcmN) -> float:
    return len(samples) / SAMPLE_RATE
