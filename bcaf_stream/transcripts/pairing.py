"""Joins speech segments with the words said in them: segments in, utterances out, in the same order.

`Pairing` is a pure machine: it hears nothing, reads no file and no clock. What speech recognition heard comes
with the segment, live text by `push_words`; a segment waits for live text at most `wait_ms` of stream time, then
goes out on audio alone. Text that comes or changes later gives the utterance once more, as its next `revision`.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, get_args

import numpy as np
from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.asr import AsrConfig
from bcaf_stream.transcripts.channels import resolve_channel
from bcaf_stream.transcripts.timeline import Key, Timeline, Zone
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import (
    FOREIGN,
    UNSURE,
    Call,
    Modality,
    PcmN,
    Policy,
    Redacted,
    Role,
    SpeechSegment,
    TextSource,
    Utterance,
    Words,
)

ENGLISH = "en"
# The recogniser's confidence over the latest words of a channel: in English calls 0.34 and more, in clips of
# German, Polish, Italian, Urdu and Amharic nine times in ten below 0.3 (tests/benchmarks/asr_confidence.py).
LANGUAGE_WORDS = 20
UNDERSTOOD = 0.3
MS_PER_WORD = 400  # of speech in which the recogniser finds no word at all
NOT_UNDERSTOOD = "text: hardly a word is understood (another language than English, or a poor line)"


class TextConfig(Config):
    """Who recognises speech, how long live words are waited for, and what each role permits.

    `in_order` says that a live source sends each channel's words in order of time, so that a later word lets an
    earlier segment go before its wait is over; a source labels either all of its words with a channel or none.
    Recognised words of less than `min_confidence` are no evidence: they are shown, marked as unsure, and the
    utterance is judged by its sound alone; so is everybody where the `language` is not "en". Live text may change
    the last `revisable` utterances of a call. A role that `policy` does not name is `fused`. What `redact` names
    is taken out of the words of every event, before it is stored or sent; the model still reads it.
    """

    asr: AsrConfig = AsrConfig()
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.45
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] = "en"
    tolerance_ms: Annotated[int, Field(ge=0, le=5000)] = 500
    wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 1500
    in_order: bool = True
    max_held: Annotated[int, Field(ge=1)] = 64  # segments; beyond it the oldest goes out with what it has
    max_words: Annotated[int, Field(ge=1)] = (
        100_000  # live words that wait; beyond it the oldest count as unpaired
    )
    revisable: Annotated[int, Field(ge=0)] = 16
    policy: dict[Role, Policy] = Field(default_factory=dict)
    redact: list[Redacted] = Field(default_factory=list)

    def for_model(self, modalities: Sequence[Modality]) -> "TextConfig":
        """The same with a model that was trained on these alone: nobody is judged by anything else.

        A role stays as it is (both are known), is judged by its words at most (no sound is), or by its sound if
        the policy permits that (no words are).
        """
        if len(modalities) > 1:
            return self
        known: dict[Policy, Policy] = {
            "fused": "fused" if "audio" in modalities else "text_only",
            "text_only": "text_only" if "text" in modalities else "off",
            "off": "off",
        }
        roles: tuple[Role, ...] = get_args(Role)
        return self.model_copy(update={"policy": {role: known[self.policy.get(role, "fused")] for role in roles}})


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
    revised: int = 0


class BufferedSegment(NamedTuple):
    segment: SpeechSegment
    zone: Zone
    heard: Transcription | None
    degraded: tuple[str, ...] = ()


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
        revisable = self.config.revisable if self._live else 0
        self._timeline = Timeline(self._channels, self.config.tolerance_ms, limit, revisable)
        self._timeline.add(self._given or ())
        self._out: dict[Key, tuple[BufferedSegment, Utterance | None]] = {}  # as long as they can still change
        self._held: deque[BufferedSegment] = deque()
        self._now_ms = 0
        self._heard_to: dict[str | None, int] = {}  # latest start of a live word, by channel
        self._waits = self._live
        self._understood: dict[str, deque[tuple[int, float]]] = {}  # of each channel's latest: words, confidence

    def policy(self, channel: str) -> Policy:
        """What the channel's role permits."""
        return self.config.policy.get(self.call.role_of(channel), "fused")

    @property
    def precedence(self) -> list[str]:
        """The channels, those with the strictest policy first: a sound of two of them is judged by that one."""
        strictness: tuple[Policy, ...] = ("off", "text_only", "fused")
        return sorted(self._channels, key=lambda channel: strictness.index(self.policy(channel)))

    def policy_of(self, segment: SpeechSegment) -> Policy:
        """What the role of the segment's speaker permits: an enrolled voice's, or else the channel's."""
        return (
            self.policy(segment.channel) if segment.role is None else self.config.policy.get(segment.role, "fused")
        )

    def recognises(self, segment: SpeechSegment) -> bool:
        """Say whether words heard in the segment are of any use."""
        return self.permits(segment) and self.config.language == ENGLISH

    def permits(self, segment: SpeechSegment) -> bool:
        """Say whether anybody may listen to the segment at all (asr included)."""
        return self.policy_of(segment) != "off"

    def push(
        self, segment: SpeechSegment, heard: Transcription | None = None, degraded: tuple[str, ...] = ()
    ) -> list[Utterance]:
        """Take the next segment, in segment order, with what speech recognition heard in it, or why it did not."""
        self._held.append(BufferedSegment(segment, self._timeline.zone(segment), heard, degraded))
        return self.advance(segment.closed_ms)

    def preview(self, segment: SpeechSegment, number: int) -> Utterance | None:
        """The utterance that an open segment would be now, as the `number`th look at it; changes nothing.

        None where the policy permits no look, or leaves nothing to look at.
        """
        policy = self.policy_of(segment)
        words = " ".join(self._timeline.peek(segment)) or None
        if policy == "off" or (policy == "text_only" and words is None):
            return None
        samples = None if policy == "text_only" else segment.samples
        return replace(self._built(segment, samples, words, "given" if words else "none"), revision=number)

    def with_words(self, segment: SpeechSegment, heard: Transcription) -> Utterance | None:
        """The utterance of a segment that went out before it was heard; None where there are no words in it.

        It is the first revision, or the utterance itself where the policy let nothing out without words.
        """
        text, withheld = heard.text.strip(), self.policy_of(segment) == "text_only"
        doubts = self._doubts(segment.channel, len(text.split()), heard.confidence) if text else ()
        if not text or not self.permits(segment) or (withheld and doubts):
            return None
        utterance = self._built(segment, None if withheld else segment.samples, text, "asr")
        return replace(utterance, revision=int(not withheld), text_confidence=heard.confidence, degraded=doubts)

    def push_words(self, words: Sequence[Words]) -> list[Utterance]:
        """Take live words, or new versions of some; return what they complete, and what they change.

        Raises:
            TranscriptError: a channel is not in the call, or this call takes no live words.
        """
        if not self._live:
            known = (
                "was opened without given text" if self._given is None else "was given all of its words up front"
            )
            raise TranscriptError(f"call {self.call.id} {known}: open it for live text to send it words")
        resolved = self._resolved(words)
        changed = self._timeline.add(resolved)
        for word in resolved:
            if word.final:  # what may still change says nothing about what is to come
                self._heard_to[word.channel] = max(self._heard_to.get(word.channel, 0), word.start_ms)
        return self._changed(changed) + self._release()

    def end_words(self) -> list[Utterance]:
        """Learn that no more live words will come: nothing waits from here on."""
        self._waits = False
        return self._release()

    def advance(self, now_ms: int) -> list[Utterance]:
        """Learn that the stream has got to `now_ms`; releases what has waited long enough."""
        self._now_ms = max(self._now_ms, now_ms)
        return self._changed(self._timeline.advance(now_ms)) + self._release()

    def flush(self) -> list[Utterance]:
        """Release everything that is held, and count the words that are left over."""
        done = self._changed(self._timeline.settle()) + self._release(everything=True)
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
            fitting.append(replace(word, channel=channel))
        return fitting

    def _release(self, everything: bool = False) -> list[Utterance]:
        done = []
        while self._held and (everything or self._is_ready(self._held[0])):
            head = self._held.popleft()
            done += self._changed(self._timeline.hasten(head.zone))
            utterance = self._utterance(head)
            done += [] if utterance is None else [utterance]
            if self._live:
                self._remember(head, utterance)
        return done

    def _changed(self, keys: Collection[Key]) -> list[Utterance]:
        """The utterances that are out and have other words now."""
        revised = [self._revised(key) for key in self._out if key in keys]
        return [utterance for utterance in revised if utterance is not None]

    def _remember(self, head: BufferedSegment, utterance: Utterance | None) -> None:
        silent = replace(head.segment, samples=np.zeros(0, np.int16))  # an utterance has its own, if it may
        self._out[head.segment.channel, head.segment.index] = (head._replace(segment=silent), utterance)
        while len(self._out) > self.config.revisable:
            del self._out[next(iter(self._out))]

    def _revised(self, key: Key) -> Utterance | None:
        """The utterance of a segment that is out, with the words it has now; None where nothing is to be said."""
        head, before = self._out[key]
        text = " ".join(self._timeline.words_of(key)) or None
        if before is None:
            if text is None or self.policy_of(head.segment) == "off":
                return None
            self.counts.segments_wordless -= 1
            self._count(text, "given")
            utterance = self._built(head.segment, None, text, "given")
        elif text == before.text or (text is None and before.samples is None):
            return None  # without sound and words nothing is left to judge: the last version stands
        else:
            words = [len((one or "").split()) for one in (before.text, text)]
            self.counts.words_paired += words[1] - words[0]
            self.counts.without_text += (text is None) - (before.text is None)
            source: TextSource = "given" if text else "none"
            utterance = replace(before, text=text, text_source=source, revision=before.revision + 1)
            self.counts.revised += 1
        self._out[key] = (head, utterance)
        return utterance

    def _is_ready(self, head: BufferedSegment) -> bool:
        undecided = self._timeline.is_open(head.zone)
        if not self._waits:
            return not undecided or len(self._held) > self.config.max_held
        heard_to = max(self._heard_to.get(head.segment.channel, -1), self._heard_to.get(None, -1))
        if self.config.in_order and heard_to >= head.zone.to_ms and not undecided:
            return True
        if self._now_ms - head.segment.closed_ms >= self.config.wait_ms:
            self.counts.timed_out += 1
            return True
        if len(self._held) > self.config.max_held:
            self.counts.forced_out += 1
            return True
        return False

    def _utterance(self, head: BufferedSegment) -> Utterance | None:
        segment, policy = head.segment, self.policy_of(head.segment)
        text, source = self._text(head)
        confidence = head.heard.confidence if head.heard and source == "asr" else None
        doubts: tuple[str, ...] = ()
        if text is not None:
            doubts = self._doubts(segment.channel, len(text.split()), confidence)
        elif head.heard and source == "none":
            unheard = (segment.end_ms - segment.start_ms) // MS_PER_WORD
            doubts = tuple(d for d in self._doubts(segment.channel, unheard, 0.0) if d != UNSURE)
        words = len(text.split()) if text and source == "given" else 0
        if policy == "off" or (policy == "text_only" and (text is None or doubts)):
            self.counts.segments_off += policy == "off"
            self.counts.segments_wordless += policy != "off"
            self.counts.words_withheld += words
            return None
        self._count(text, source)
        samples = None if policy == "text_only" else segment.samples
        utterance = self._built(segment, samples, text, source)
        return replace(utterance, degraded=(*head.degraded, *doubts), text_confidence=confidence)

    def _doubts(self, channel: str, words: int, confidence: float | None) -> tuple[str, ...]:
        """Why so many words are no evidence; () where they are."""
        if self.config.language != ENGLISH:
            return (FOREIGN,)
        if confidence is None:
            return ()
        latest = self._understood.setdefault(channel, deque())
        latest.append((words, confidence))
        while sum(words for words, _ in latest) - latest[0][0] >= LANGUAGE_WORDS:
            latest.popleft()
        if confidence >= self.config.min_confidence:
            return ()
        total = sum(words for words, _ in latest)
        understood = sum(words * sure for words, sure in latest) / max(1, total)
        return (UNSURE, NOT_UNDERSTOOD) if total >= LANGUAGE_WORDS and understood < UNDERSTOOD else (UNSURE,)

    def _count(self, text: str | None, source: TextSource) -> None:
        self.counts.utterances += 1
        self.counts.without_text += text is None
        self.counts.words_paired += len(text.split()) if text and source == "given" else 0

    def _built(
        self, segment: SpeechSegment, samples: PcmN | None, text: str | None, source: TextSource
    ) -> Utterance:
        return Utterance(
            call=self.call.id,
            channel=segment.channel,
            role=segment.role or self.call.role_of(segment.channel),
            index=segment.index,
            start_ms=segment.start_ms,
            end_ms=segment.end_ms,
            samples=samples,
            text=text,
            text_source=source,
            speech_ended_at=segment.speech_ended_at,
            speaker=segment.speaker,
            speaker_confidence=segment.speaker_confidence,
            overlap=segment.overlap,
        )

    def _text(self, head: BufferedSegment) -> tuple[str | None, TextSource]:
        if self._given is not None:
            # Claimed even if the role is off: what the agent said must not fall to the customer.
            claimed = self._timeline.claim(head.segment, head.zone)
            return (" ".join(claimed), "given") if claimed else (None, "none")
        heard = head.heard.text.strip() if head.heard else ""
        return (heard, "asr") if heard else (None, "none")
