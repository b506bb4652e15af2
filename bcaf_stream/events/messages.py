"""Event v1: one frozen record per thing that subscribers are told, its topic, and the sequencer of a call.

Unusual: `id` is not random. The same utterance processed twice, on any machine, has the same id, so that the
journal and every subscriber can drop what they already know. What can happen more than once in a call
without an utterance (a gap, a degradation) counts its occurrences in `revision`.
"""

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import unquote_to_bytes

from bcaf_stream.errors import EventError
from bcaf_stream.types import Call, EmotionPrediction, Modality, Role, TextSource, Utterance

VERSION = 1
DIGITS = 6  # decimals of a probability

EventType = Literal[
    "call.start",
    "emotion.interim",
    "emotion.final",
    "emotion.revised",
    "audio.gap",
    "degraded",
    "alert",
    "call.end",
    "heartbeat",
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message of event v1.

    What does not apply is None, and an empty string (`channel`), map (`probs`) or tuple (`modalities`): an
    event of the whole call has channel "" and utterance None; a heartbeat has call "" as well. `seq` is dense
    per call from 0; `offset` is the journal's, None until journalled. `start_ms` and `end_ms` are stream
    time; `speech_ended_at` and `emitted_at` unix ns. `degraded` names what was missing when this event was
    made; `reason` says why for call.end, audio.gap and degraded.
    """

    v: int = VERSION
    type: EventType
    id: str
    call: str
    channel: str = ""
    role: Role | None = None
    utterance: int | None = None
    revision: int = 0
    offset: int | None = None
    seq: int
    start_ms: int | None = None
    end_ms: int | None = None
    speech_ended_at: int | None = None
    emitted_at: int
    text: str | None = None
    text_source: TextSource = "none"
    emotion: str | None = None
    confidence: float | None = None
    probs: Mapping[str, float] = field(default_factory=dict)
    audio_probs: Mapping[str, float] | None = None
    text_probs: Mapping[str, float] | None = None
    modalities: tuple[Modality, ...] = ()
    model: str = ""
    degraded: tuple[str, ...] | None = None
    reason: str | None = None


def event_id(call: str, channel: str, utterance: int | None, type: EventType, revision: int) -> str:
    """The deterministic id: BLAKE2b-128, in hex, of the JSON list of the five values."""
    key = json.dumps([call, channel, utterance, type, revision], separators=(",", ":"))
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


class Topic(NamedTuple):
    """What a topic says; `call` and `channel` are the decoded names."""

    call: str
    channel: str
    type: EventType


def topic(event: Event) -> str:
    """`emo.v1.<call>.<channel>.<type>`, the names percent-encoded."""
    return f"{topic_prefix(event.call)}{_quote(event.channel)}.{event.type}"


@lru_cache(maxsize=4096)
def topic_of(call: str, channel: str, type: EventType) -> bytes:
    """The topic's bytes, as they are sent."""
    return f"{topic_prefix(call)}{_quote(channel)}.{type}".encode()


def topic_prefix(call: str | None = None, channel: str | None = None) -> str:
    """The prefix to subscribe to: everything, one call, or one channel of a call.

    It ends in a dot, so that call "7" does not bring call "77" along.

    Raises:
        EventError: a channel without its call, which no prefix can express.
    """
    if call is None:
        if channel is not None:
            raise EventError(
                f"channel {channel!r} without a call: a subscription by prefix needs the call as well"
            )
        return f"emo.v{VERSION}."
    prefix = f"emo.v{VERSION}.{_quote(call)}."
    return prefix if channel is None else f"{prefix}{_quote(channel)}."


def call_of_prefix(prefix: bytes) -> str | None:
    """The one call whose topics begin with this prefix; None where it may be any, or none."""
    parts = prefix.decode("ascii", "replace").split(".")
    if len(parts) < 4 or parts[:2] != ["emo", f"v{VERSION}"]:
        return None
    try:
        return _unquote(parts[2])
    except EventError:
        return None


def parse_topic(text: str) -> Topic:
    """The inverse of `topic`.

    Raises:
        EventError: not the topic of an event v1.
    """
    parts = text.split(".", 4)
    if len(parts) != 5 or parts[:2] != ["emo", f"v{VERSION}"] or parts[4] not in EVENT_TYPES:
        raise EventError("topic: must be emo.v1.<call>.<channel>.<type>")
    return Topic(_unquote(parts[2]), _unquote(parts[3]), parts[4])


@lru_cache(maxsize=4096)
def _quote(name: str) -> str:
    # urllib's quote would leave the dot, which separates here
    try:
        return re.sub(r"[^A-Za-z0-9_-]", lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), name)
    except UnicodeEncodeError:
        raise EventError("topic: a name of a call or channel is not valid Unicode") from None


def _unquote(quoted: str) -> str:
    try:
        name = unquote_to_bytes(quoted).decode()
    except UnicodeError:
        raise EventError("topic: a name is not percent-encoded UTF-8") from None
    if _quote(name) != quoted:
        raise EventError("topic: a name is not percent-encoded as event v1 does it")
    return name


def heartbeat(seq: int, now: int, offset: int | None = None, epoch: int = 0) -> Event:
    """A sign of life of the publisher at `now` (unix ns), with the offset of the last journalled event.

    `revision` is the hub's epoch, which grows by one at each of its starts; `seq` counts since the last one.
    """
    return _of_the_hub("heartbeat", seq, now, epoch, offset=offset)


def hub_degraded(seq: int, now: int, epoch: int, reason: str) -> Event:
    """The hub itself cannot do its work, for instance write its journal; told to all, and never journalled."""
    return _of_the_hub("degraded", seq, now, epoch, degraded=("journal",), reason=reason)


def _of_the_hub(type: EventType, seq: int, now: int, epoch: int, **fields: Any) -> Event:
    id = event_id("", "", seq, type, epoch)
    return Event(type=type, id=id, call="", revision=epoch, seq=seq, emitted_at=now, **fields)


class EventWriter:
    """Numbers the events of one call; does no input or output, and takes its wall clock (unix ns) as given."""

    def __init__(self, call: Call, model: str, clock: Callable[[], int] = time.time_ns) -> None:
        self._call = call
        self._model = model
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Begin the call anew: the next event has seq 0 again."""
        self._seq = 0
        self._occurrences: Counter[tuple[str, EventType]] = Counter()

    def start(self) -> Event:
        return self._write("call.start")

    def final(
        self, utterance: Utterance, prediction: EmotionPrediction, degraded: Sequence[str] | None = None
    ) -> Event:
        """What was felt in an utterance of this call.

        Raises:
            EventError: the utterance is of another call, or the prediction is not finite.
        """
        return self._write(
            "emotion.final",
            **self._about(utterance),
            emotion=prediction.emotion,
            confidence=_rounded(prediction.confidence),
            probs=_labelled(prediction.labels, prediction.probs),
            audio_probs=prediction.audio_probs and _labelled(prediction.labels, prediction.audio_probs),
            text_probs=prediction.text_probs and _labelled(prediction.labels, prediction.text_probs),
            modalities=prediction.modalities,
            degraded=tuple(degraded) if degraded else None,
        )

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

    def degraded(self, reason: str, utterance: Utterance | None = None) -> Event:
        """The call, or this one utterance of it, is analysed with less than was asked for, or not at all."""
        about = self._about(utterance) if utterance is not None else {"revision": self._count("degraded")}
        return self._write("degraded", degraded=(reason,), reason=reason, **about)

    def end(self, reason: str) -> Event:
        return self._write("call.end", reason=reason)

    def _about(self, utterance: Utterance) -> dict[str, Any]:
        if utterance.call != self._call.id:
            raise EventError(f"call {self._call.id!r}: got an utterance of call {utterance.call!r}")
        return {
            "channel": utterance.channel,
            "role": utterance.role,
            "utterance": utterance.index,
            "start_ms": utterance.start_ms,
            "end_ms": utterance.end_ms,
            "speech_ended_at": utterance.speech_ended_at or None,
            "text": utterance.text,
            "text_source": utterance.text_source,
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
