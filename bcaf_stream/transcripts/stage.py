"""Segments to utterances in one process: speech recognition where the policy permits it, then pairing."""

import logging
from collections.abc import Sequence

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.asr import Transcriber
from bcaf_stream.transcripts.pairing import Pairing, PairingConfig
from bcaf_stream.types import Call, SpeechSegment, Utterance, Words

logger = logging.getLogger(__name__)


class TextStage:
    """`Pairing` with a transcriber in front; see there for the arguments and errors.

    The transcriber is only borrowed: it serves many calls, and whoever loaded it closes it. Where it fails,
    the segment goes out on audio alone, and `asr_failures` counts it.
    """

    def __init__(
        self,
        config: PairingConfig,
        call: Call,
        transcriber: Transcriber | None = None,
        words: Sequence[Words] | None = None,
    ) -> None:
        self.pairing = Pairing(config, call, words)
        self.asr_failures = 0
        self._transcriber = transcriber if config.text == "asr" else None

    def push(self, segment: SpeechSegment) -> list[Utterance]:
        return self.pairing.push(segment, self._hear(segment))

    def push_words(self, words: Sequence[Words]) -> list[Utterance]:
        return self.pairing.push_words(words)

    def end_words(self) -> list[Utterance]:
        return self.pairing.end_words()

    def advance(self, now_ms: int) -> list[Utterance]:
        return self.pairing.advance(now_ms)

    def flush(self) -> list[Utterance]:
        return self.pairing.flush()

    def reset(self) -> None:
        self.asr_failures = 0
        self.pairing.reset()

    def close(self) -> None:
        self.pairing.close()

    def _hear(self, segment: SpeechSegment) -> str | None:
        if self._transcriber is None or not self.pairing.permits(segment.channel):
            return None
        try:
            return self._transcriber.transcribe(segment.samples)
        except AsrError as error:
            self.asr_failures += 1
            logger.warning(
                "channel %s at %d ms goes on without words: %s", segment.channel, segment.start_ms, error
            )
            return None
