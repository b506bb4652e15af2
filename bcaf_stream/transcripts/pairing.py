"""Joins speech segments with the words said in them: segments in, utterances out, in the same order.

A pure machine: it hears nothing, reads no file and no clock. Speech recognition is somebody else's work
(`stage.TextStage` in one process, a thread in an ingest actor), whose result comes with the segment. Live text
comes by `push_words`; a segment waits for it at most `wait_ms` of stream time, then goes out on audio alone.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.channels import resolve_channel
from bcaf_stream.transcripts.timeline import Timeline, Zone
from bcaf_stream.types import Call, Policy, Role, SpeechSegment, TextSource, Utterance, Words


class PairingConfig(Config):
    """Where the words come from, how long they are waited for, and what each role permits.

    `in_order` says that a live source sends each channel's words in order of time, so that a later word lets an
    earlier segment go before its wait is over; a source labels either all of its words with a channel or none.
    A role that `policy` does not name is `fused`.
    """

    text: Literal["given", "asr", "none"] = "asr"
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
        config: see PairingConfig.
        call: its channels, whose names the words must carry (or "A"/"1", "B"/"2", or None for unknown).
        words: with `text: given`, all words of the call, known up front: nothing waits then. None means live
            words by `push_words`.

    Raises:
        TranscriptError: a word's channel is not in the call, or words are given although `text` is not "given".
    """

    def __init__(self, config: PairingConfig, call: Call, words: Sequence[Words] | None = None) -> None:
        self.config = config
        self.call = call
        if words is not None and config.text != "given":
            raise TranscriptError(
                f"call {call.id}: a transcript is given, but text is {config.text}: set text: given"
            )
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
        limit = self.config.max_words if self._given is None else None
        self._timeline = Timeline(self.config.tolerance_ms, limit)
        self._timeline.add(self._given or ())
        self._held: deque[Held] = deque()
        self._now_ms = 0
        self._heard_to: dict[str | None, int] = {}  # latest start of a live word, by channel
        self._ended = self._given is not None

    def permits(self, channel: str) -> bool:
        """Say whether the policy of the channel's role lets anybody listen at all (asr included)."""
        return self._policy(channel) != "off"

    def push(self, segment: SpeechSegment, heard: str | None = None) -> list[Utterance]:
        """Take the next segment, in segment order, with what speech recognition heard in it (`text: asr`)."""
        self._now_ms = max(self._now_ms, segment.closed_ms)
        self._held.append(Held(segment, self._timeline.zone(segment), heard))
        return self._release()

    def push_words(self, words: Sequence[Words]) -> list[Utterance]:
        """Take live words.

        Raises:
            TranscriptError: a channel is not in the call, or this call takes no live words.
        """
        if self.config.text != "given" or self._given is not None:
            known = "its words were given up front" if self._given is not None else f"text is {self.config.text}"
            raise TranscriptError(f"call {self.call.id}: takes no live words, for {known}: set text: given")
        resolved = self._resolved(words)
        self._timeline.add(resolved)
        for word in resolved:
            self._heard_to[word.channel] = max(self._heard_to.get(word.channel, 0), word.start_ms)
        return self._release()

    def end_words(self) -> list[Utterance]:
        """Learn that no more live words will come: nothing waits from here on."""
        self._ended = True
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
        if self.config.text != "given" or self._ended:
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
        # Claimed in every mode: words of a segment that is off must not fall to somebody else's.
        claimed = self._timeline.claim(head.segment, head.zone)
        if self.config.text == "given" and claimed:
            return " ".join(claimed), "given"
        heard = (head.heard or "").strip()
        if self.config.text == "asr" and heard:
            return heard, "asr"
        return None, "none"
