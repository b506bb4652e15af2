"""Speech segments in, utterances out: `Pairing` with a transcriber in front, which works while it is pushed."""

import logging
from collections.abc import Callable, Sequence

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.asr import Transcriber, Transcription
from bcaf_stream.transcripts.pairing import Pairing, TextConfig
from bcaf_stream.types import Call, Policy, SpeechSegment, Utterance, Words

logger = logging.getLogger(__name__)


class TextStage:
    """`Pairing` with a transcriber in front; see there for the other arguments and errors.

    The transcriber is used where no words are given (None: audio alone) and where the policy permits it. It is
    only borrowed: it serves many calls, and whoever loaded it closes it. Where it fails, or `may_hear` says that
    there is no time for it, the segment goes out on audio alone, as `degraded`.
    """

    def __init__(
        self,
        call: Call,
        config: TextConfig,
        transcriber: Transcriber | None = None,
        words: Sequence[Words] | None = None,
        may_hear: Callable[[], bool] = lambda: True,
    ) -> None:
        self.pairing = Pairing(call, config, words)
        self.asr_failures = 0
        self._may_hear = may_hear
        self._transcriber = transcriber if words is None else None

    @property
    def unpaired(self) -> int:
        return self.pairing.unpaired

    @property
    def policies(self) -> dict[str, Policy]:
        """Of the channels that are not judged by sound and words."""
        names = [channel.name for channel in self.pairing.call.channels]
        return {name: policy for name in names if (policy := self.pairing.policy(name)) != "fused"}

    @property
    def precedence(self) -> list[str]:
        return self.pairing.precedence

    def push(self, segment: SpeechSegment) -> list[Utterance]:
        if self._transcriber is None or not self.pairing.permits(segment.channel):
            return self.pairing.push(segment)
        heard = self._hear(self._transcriber, segment)
        return self.pairing.push(segment, heard, () if heard is not None else ("asr",))

    def glance(self, segment: SpeechSegment, number: int) -> Utterance | None:
        return self.pairing.glance(segment, number)

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

    def _hear(self, transcriber: Transcriber, segment: SpeechSegment) -> Transcription | None:
        if not self._may_hear():
            return None
        try:
            return transcriber.transcribe(segment.samples)
        except AsrError as error:
            self.asr_failures += 1
            logger.warning(
                "channel %s at %d ms goes on without words: %s", segment.channel, segment.start_ms, error
            )
            return None
