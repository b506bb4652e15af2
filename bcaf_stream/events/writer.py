"""Numbers the events of one call and fills them in: `seq` is dense, and what replaces something says so."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from bcaf_stream.errors import EventError
from bcaf_stream.events.event import DIGITS, UNDECIDED, Event, EventType, event_id
from bcaf_stream.events.progress import Progress
from bcaf_stream.types import Call, EmotionPrediction, Policy, Utterance


class Redaction(Protocol):
    """Words without what must not be stored, and how many spans that were; see `bcaf_stream.redaction`."""

    def push(self, channel: str, text: str, at_ms: int) -> tuple[str, int]: ...
    def peek(self, channel: str, text: str, at_ms: int) -> tuple[str, int]: ...
    def reset(self) -> None: ...


class EventWriter:
    """Numbers the events of one call; does no input or output, and takes its wall clock (unix ns) as given.

    `policies` are those of the channels not judged by sound and words; they stand in the events' `reason`.
    All words go through `redaction`, where there is one.
    """

    def __init__(
        self,
        call: Call,
        model: str,
        clock: Callable[[], int] = time.time_ns,
        policies: Mapping[str, Policy] | None = None,
        redaction: Redaction | None = None,
    ) -> None:
        self._call = call
        self._model = model
        self._clock = clock
        self._policies = policies or {}
        self._redaction = redaction
        self.reset()

    def reset(self) -> None:
        """Begin the call anew: the next event has seq 0 again."""
        self._seq = 0
        self._occurrences: Counter[tuple[str, EventType]] = Counter()
        if self._redaction:
            self._redaction.reset()

    def resume(self, progress: Progress) -> None:
        """Go on with a call of which somebody else has written the events so far."""
        self._seq = progress.seq
        self._occurrences = Counter(progress.occurrences)
        for event in sorted(progress.evidence.values(), key=lambda event: event.seq):
            if self._redaction and event.text:
                self._redaction.push(event.channel, event.text, event.end_ms or 0)

    def shown(self, utterance: Utterance) -> str | None:
        """The words of an utterance as an event would have them."""
        if self._redaction is None or utterance.text is None:
            return utterance.text
        return self._redaction.peek(utterance.channel, utterance.text, utterance.end_ms)[0]

    def start(self) -> Event:
        """The call begins; `reason` names the channels that are not judged by sound and words."""
        told = ", ".join(f"{channel}: {policy}" for channel, policy in self._policies.items())
        protocol = self._call.protocol or None
        return self._write("call.start", reason=f"policy {told}" if told else None, protocol=protocol)

    def final(self, utterance: Utterance, prediction: EmotionPrediction) -> Event:
        """What was felt in an utterance of this call; as `emotion.revised` where it replaces what was said before.

        Where the prediction decided nothing, that is said instead, as `degraded`.

        Raises:
            EventError: the utterance is of another call, or the prediction is not finite.
        """
        if not prediction.decided:
            return self.degraded(UNDECIDED, utterance)
        kind: EventType = "emotion.revised" if utterance.revision else "emotion.final"
        return self._emotion(kind, utterance, prediction)

    def interim(self, utterance: Utterance, prediction: EmotionPrediction) -> Event:
        """What is felt while somebody still speaks; `revision` counts these. Raises as `final`."""
        return self._emotion("emotion.interim", utterance, prediction)

    def gap(self, channel: str, start_ms: int, end_ms: int, reason: str) -> Event:
        """Audio of a channel that never arrived, in stream time."""
        return self._write(
            "audio.gap",
            channel=channel,
            role=self._call.role_of(channel),
            revision=self._count("audio.gap", channel),
            start_ms=start_ms,
            end_ms=end_ms,
            reason=reason,
        )

    def relabelled(self, channel: str, speaker: str, becomes: str) -> Event:
        """A speaker of a channel turned out to be another one of it."""
        return self._write(
            "speaker.relabelled",
            channel=channel,
            role=self._call.role_of(channel),
            revision=self._count("speaker.relabelled", channel),
            relabelled={speaker: becomes},
            reason=f"{speaker} is {becomes}",
        )

    def degraded(self, reason: str, utterance: Utterance | None = None) -> Event:
        """The call, or this one utterance of it, is analysed with less than was asked for, or not at all."""
        about = (
            self._about(utterance, "degraded") if utterance is not None else {"revision": self._count("degraded")}
        )
        missing = (reason, *utterance.degraded) if utterance is not None else (reason,)
        return self._write("degraded", degraded=missing, reason=reason, **about)

    def alert(self, channel: str, **fields: Any) -> Event:
        """An alert of a channel, or of the call (""), has another state: `fields` are those of `Event`."""
        return self._write("alert", channel=channel, revision=self._count("alert", channel), **fields)

    def end(self, reason: str) -> Event:
        return self._write("call.end", reason=reason)

    def _emotion(self, kind: EventType, utterance: Utterance, prediction: EmotionPrediction) -> Event:
        self._model = prediction.model or self._model  # a running call goes on with other weights after a reload
        return self._write(
            kind,
            **self._about(utterance, kind),
            emotion=prediction.emotion,
            confidence=_rounded(prediction.confidence),
            probs=_labelled(prediction.labels, prediction.probs),
            audio_probs=prediction.audio_probs and _labelled(prediction.labels, prediction.audio_probs),
            text_probs=prediction.text_probs and _labelled(prediction.labels, prediction.text_probs),
            modalities=prediction.modalities,
            valence=None if prediction.valence is None else _rounded(prediction.valence),
            arousal=None if prediction.arousal is None else _rounded(prediction.arousal),
            degraded=utterance.degraded or None,
            reason=self._reason(utterance.channel),
        )

    def _reason(self, channel: str) -> str | None:
        return f"policy {self._policies[channel]}" if channel in self._policies else None

    def _about(self, utterance: Utterance, kind: EventType) -> dict[str, Any]:
        if utterance.call != self._call.id:
            raise EventError(f"call {self._call.id!r}: got an utterance of call {utterance.call!r}")
        confidence = utterance.text_confidence
        text, redacted = utterance.text, None
        if text is not None and self._redaction:
            redact = self._redaction.peek if kind == "emotion.interim" else self._redaction.push
            text, redacted = redact(utterance.channel, text, utterance.end_ms)
        return {
            "channel": utterance.channel,
            "role": utterance.role,
            "utterance": utterance.index,
            "revision": utterance.revision,
            "start_ms": utterance.start_ms,
            "end_ms": utterance.end_ms,
            "speech_ended_at": utterance.speech_ended_at or None,
            "text": text,
            "text_source": utterance.text_source,
            "text_confidence": None if confidence is None else _rounded(confidence),
            "redacted": redacted,
            "speaker": utterance.speaker,
            "speaker_confidence": utterance.speaker_confidence,
            "overlap": utterance.overlap,
        }

    def _count(self, type: EventType, channel: str = "") -> int:
        self._occurrences[channel, type] += 1
        return self._occurrences[channel, type] - 1

    def _write(
        self, type: EventType, channel: str = "", utterance: int | None = None, revision: int = 0, **fields: Any
    ) -> Event:
        event = Event(
            type=type,
            id=event_id(self._call.id, channel, utterance, type, revision),
            call=self._call.id,
            channel=channel,
            utterance=utterance,
            revision=revision,
            seq=self._seq,
            emitted_at=self._clock(),
            model=self._model,
            **fields,
        )
        self._seq += 1
        return event


def _labelled(labels: Sequence[str], probs: Sequence[float]) -> dict[str, float]:
    return {label: _rounded(prob) for label, prob in zip(labels, probs, strict=True)}


def _rounded(prob: float) -> float:
    if not math.isfinite(prob):
        raise EventError("prediction: a probability is not finite: the model's weights or its input are broken")
    return round(float(prob), DIGITS)
