"""Speech segments in, utterances out: `Pairing` with a transcriber in front, which works while it is pushed."""

import logging
from collections.abc import Sequence

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.asr import Transcriber
from bcaf_stream.transcripts.pairing import Pairing, TextConfig
from bcaf_stream.types import Call, SpeechSegment, Utterance, Words

logger = logging.getLogger(__name__)


class TextStage:
    """`Pairing` with a transcriber in front; see there for the other arguments and errors.

    The transcriber is used where no words are given (None: audio alone) and where the policy permits it. It is
    only borrowed: it serves many calls, and whoever loaded it closes it. Where it fails, the segment goes out on
    audio alone, and `asr_failures` counts it.
    """

    def __init__(
        self,
        call: Call,
        config: TextConfig,
        transcriber: Transcriber | None = None,
        words: Sequence[Words] | None = None,
    ) -> None:
        self.pairing = Pairing(call, config, words)
        self.asr_failures = 0
        self._transcriber = transcriber if words is None else None

    @property
    def unpaired(self) -> int:
        return self.pairing.unpaired

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
