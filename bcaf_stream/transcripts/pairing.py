"""Joins speech segments with the words said in them: segments in, utterances out, in the same order.

`Pairing` is a pure machine: it hears nothing, reads no file and no clock. What speech recognition heard comes
with the segment, live text by `push_words`; a segment waits for live text at most `wait_ms` of stream time, then
goes out on audio alone. `TextStage` is the same with a transcriber in front, which works while it is pushed.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.errors import AsrError, TranscriptError
from bcaf_stream.transcripts.asr import AsrConfig, Transcriber
from bcaf_stream.transcripts.channels import resolve_channel
from bcaf_stream.transcripts.timeline import Timeline, Zone
from bcaf_stream.types import Call, Policy, Role, SpeechSegment, TextSource, Utterance, Words

logger = logging.getLogger(__name__)


class TextConfig(Config):
    """Who recognises speech, how long live words are waited for, and what each role permits.

    `in_order` says that a live source sends each channel's words in order of time, so that a later word lets an
    earlier segment go before its wait is over; a source labels either all of its words with a channel or none.
    A role that `policy` does not name is `fused`.
    """

    asr: AsrConfig = AsrConfig()
    tolerance_ms: Annotated[int, Field(ge=0, le=5000)] = 500
    wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 1500
    in_order: bool = True
    max_held: Annotated[int, Field(ge=1)] = 64  # segments; beyond it the oldest goes out with what it has
    max_words: Annotated[int, Field(ge=1)] = 20_000  # live words; beyond it the oldest count as unpaired
    policy: dict[Role, Policy] = Field(default_factory=dict)


@dataclass(slots=True)
class PairingCounts:
    """What became of everything that came in; the words of a segment that a policy drops are `withheld`."""

    utterances: int = 0
    without_text: int = 0  # utterances that went out on audio alone
    words_paired: int = 0
    words_withheld: int = 0
    segments_off: int = 0  # of roles whose policy is off
    segments_wordless: int = 0  # of text_only roles, with no words: nothing is left to judge
    timed_out: int = 0  # waited wait_ms for words in vain
    forced_out: int = 0  # pushed out by max_held


class Held(NamedTuple):
    segment: SpeechSegment
    zone: Zone
    heard: str | None


class Pairing:
    """The words and segments of one call.

    Args:
        call: its channels, whose names the words must carry (or "A"/"1", "B"/"2", or None for unknown).
        config: see TextConfig.
        words: all words of the call, known up front: nothing waits. An empty sequence means that they come
            live by `push_words`. None means that there are none but those heard.

    Raises:
        TranscriptError: a word's channel is not in the call.
    """

    def __init__(self, call: Call, config: TextConfig, words: Sequence[Words] | None = None) -> None:
        self.call = call
        self.config = config
        self._channels = [channel.name for channel in call.channels]
        self._given = None if words is None else self._resolved(words)
        self.reset()

    @property
    def unpaired(self) -> int:
        """Words that no segment can claim any more; after `flush`, all that no segment has claimed."""
        return self._timeline.unpaired

    @property
    def held(self) -> int:
        """Segments that wait for words."""
        return len(self._held)

    @property
    def pending_words(self) -> int:
        return len(self._timeline)

    def reset(self) -> None:
        """Begin the call again, with the words that were given up front."""
        self.counts = PairingCounts()
        self._live = self._given == []
        limit = self.config.max_words if self._live else None
        self._timeline = Timeline(self.config.tolerance_ms, limit)
        self._timeline.add(self._given or ())
        self._held: deque[Held] = deque()
        self._now_ms = 0
        self._heard_to: dict[str | None, int] = {}  # latest start of a live word, by channel
        self._waits = self._live

    def permits(self, channel: str) -> bool:
        """Say whether the policy of the channel's role lets anybody listen at all (asr included)."""
        return self._policy(channel) != "off"

    def push(self, segment: SpeechSegment, heard: str | None = None) -> list[Utterance]:
        """Take the next segment, in segment order, with what speech recognition heard in it."""
        self._now_ms = max(self._now_ms, segment.closed_ms)
        self._held.append(Held(segment, self._timeline.zone(segment), heard))
        return self._release()

    def push_words(self, words: Sequence[Words]) -> list[Utterance]:
        """Take live words.

        Raises:
            TranscriptError: a channel is not in the call, or this call takes no live words.
        """
        if not self._live:
            known = (
                "was opened without given text" if self._given is None else "was given all of its words up front"
            )
            raise TranscriptError(f"call {self.call.id} {known}: open it for live text to send it words")
        resolved = self._resolved(words)
        self._timeline.add(resolved)
        for word in resolved:
            self._heard_to[word.channel] = max(self._heard_to.get(word.channel, 0), word.start_ms)
        return self._release()

    def end_words(self) -> list[Utterance]:
        """Learn that no more live words will come: nothing waits from here on."""
        self._waits = False
        return self._release()

    def advance(self, now_ms: int) -> list[Utterance]:
        """Learn that the stream has got to `now_ms`; releases what has waited long enough."""
        self._now_ms = max(self._now_ms, now_ms)
        return self._release()

    def flush(self) -> list[Utterance]:
        """Release everything that is held, and count the words that are left over."""
        done = self._release(everything=True)
        self._timeline.close()
        return done

    def close(self) -> None:
        """Let go of what is held; flush first if it is wanted."""
        self._held.clear()
        self._timeline.close()

    def _resolved(self, words: Sequence[Words]) -> list[Words]:
        fitting = []
        for word in words:
            channel = resolve_channel([] if word.channel is None else [word.channel], self._channels)
            fitting.append(Words(word.start_ms, word.end_ms, word.text, channel))
        return fitting

    def _policy(self, channel: str) -> Policy:
        return self.config.policy.get(self.call.role_of(channel), "fused")

    def _release(self, everything: bool = False) -> list[Utterance]:
        done = []
        while self._held and (everything or self._is_ready(self._held[0])):
            utterance = self._utterance(self._held.popleft())
            done += [] if utterance is None else [utterance]
        return done

    def _is_ready(self, head: Held) -> bool:
        if not self._waits:
            return True
        heard_to = max(self._heard_to.get(head.segment.channel, -1), self._heard_to.get(None, -1))
        if self.config.in_order and heard_to >= head.zone.to_ms:
            return True
        if self._now_ms - head.segment.closed_ms >= self.config.wait_ms:
            self.counts.timed_out += 1
            return True
        if len(self._held) > self.config.max_held:
            self.counts.forced_out += 1
            return True
        return False

    def _utterance(self, head: Held) -> Utterance | None:
        segment, policy = head.segment, self._policy(head.segment.channel)
        text, source = self._text(head)
        words = len(text.split()) if text and source == "given" else 0
        if policy == "off" or (policy == "text_only" and text is None):
            self.counts.segments_off += policy == "off"
            self.counts.segments_wordless += policy != "off"
            self.counts.words_withheld += words
            return None
        self.counts.utterances += 1
        self.counts.without_text += text is None
        self.counts.words_paired += words
        return Utterance(
            call=self.call.id,
            channel=segment.channel,
            role=self.call.role_of(segment.channel),
            index=segment.index,
            start_ms=segment.start_ms,
            end_ms=segment.end_ms,
            samples=None if policy == "text_only" else segment.samples,
            text=text,
            text_source=source,
            speech_ended_at=segment.speech_ended_at,
        )

    def _text(self, head: Held) -> tuple[str | None, TextSource]:
        if self._given is not None:
            # Claimed even if the role is off: what the agent said must not fall to the customer.
            claimed = self._timeline.claim(head.segment, head.zone)
            return (" ".join(claimed), "given") if claimed else (None, "none")
        heard = (head.heard or "").strip()
        return (heard, "asr") if heard else (None, "none")


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
