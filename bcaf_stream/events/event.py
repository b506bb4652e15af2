"""Event v1: one frozen record per thing that subscribers are told, and its topic.

The fields of `Event` are the one table of what an event holds: from them follow its checks, msgpack, JSON, JSON
Schema, AsyncAPI, and what the journal keeps. A new field is one line at the end of that table.

Unusual: `id` is not random. The same utterance processed twice, on any machine, has the same id, so that the
journal and every subscriber can drop what they already know. What can happen more than once in a call
without an utterance (a gap, a degradation) counts its occurrences in `revision`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import unquote_to_bytes

from msgspec import Meta

from bcaf_stream.errors import EventError
from bcaf_stream.types import Modality, Role, TextSource

VERSION: Literal[1] = 1
DIGITS = 6  # decimals of a probability
UNDECIDED = "nothing to judge by"  # why an utterance that was judged has no emotion
INT64 = 2**63

EventType = Literal[
    "call.start",
    "emotion.interim",
    "emotion.final",
    "emotion.revised",
    "audio.gap",
    "speaker.relabelled",
    "degraded",
    "alert",
    "call.end",
    "heartbeat",
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
AlertState = Literal["pending", "firing", "recovering", "resolved", "retracted"]

# What a field may hold, beside str, bool, and lists and maps of these. Bounds are checked when an event is written
# and when one is read; a number that is not finite is refused by them.
Whole = Annotated[int, Meta(ge=0, le=INT64 - 1)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Signed = Annotated[float, Meta(ge=-1, le=1)]
Number = Annotated[float, Meta(ge=-1.7976931348623157e308, le=1.7976931348623157e308)]

SINCE_1_0 = frozenset({"reason"})  # always written, and absent in events of the first writers


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message of event v1.

    What does not apply is None, and an empty string (`channel`), map (`probs`) or tuple (`modalities`): an
    event of the whole call has channel "" and utterance None; a heartbeat has call "" as well. `seq` is dense
    per call from 0; `offset` is the journal's, None until journalled. `start_ms` and `end_ms` are stream
    time; `speech_ended_at` and `emitted_at` unix ns. `degraded` names what was missing when this event was
    made; `reason` says why for call.end, audio.gap and degraded, and elsewhere which `policy` a role is judged by,
    where it is not by sound and words. `text_confidence` is the recogniser's: the probability that a word of
    `text` is right; it is left out of the written map where it is None, as for given text. `redacted` is how many
    spans of `text` were replaced by what they are, as in "{card}"; None where nobody looked.

    An `alert` has the `state` of a `rule` from `end_ms` on (`start_ms`: since when its value was high enough), for
    the channel or, with "", the call; the `value` that changed it, and the `threshold` that it is held against;
    `evidence`, the utterances that it is about, each with the `id` of its event, `probability` and `weight`;
    `rule_hash` of all that the rule says; and `notify`, who is to hand it on.

    `valence` (unpleasant to pleasant) and `arousal` (calm to excited) lie in [-1, 1] and follow from `probs`: the
    rating that readers would give on average, 0 being the middle of their scale.

    Where several people share a channel, `speaker` is who speaks (S1, S2, ... in the call), `speaker_confidence`
    the probability of that, `overlap` the share of the speech in which others speak too; `relabelled` of
    speaker.relabelled has the speakers that turned out to be another one of the channel, each with that one: in
    all events so far, and from now on. `protocol` of call.start is how a live call came in.
    """

    v: Literal[1] = VERSION
    type: EventType
    id: str
    call: str
    channel: str = ""
    role: Role | None = None
    utterance: Whole | None = None
    revision: Whole = 0
    offset: Whole | None = None
    seq: Whole
    start_ms: Whole | None = None
    end_ms: Whole | None = None
    speech_ended_at: Whole | None = None
    emitted_at: Whole
    text: str | None = None
    text_source: TextSource = "none"
    emotion: str | None = None
    confidence: Probability | None = None
    probs: Mapping[str, Probability] = field(default_factory=dict)
    audio_probs: Mapping[str, Probability] | None = None
    text_probs: Mapping[str, Probability] | None = None
    modalities: tuple[Modality, ...] = ()
    model: str = ""
    degraded: tuple[str, ...] | None = None
    reason: str | None = None
    # Added since: each is None by default, and left out of the written map where it is None. Add yours at the end.
    text_confidence: Probability | None = None
    redacted: Whole | None = None
    rule: str | None = None
    state: AlertState | None = None
    value: Number | None = None
    threshold: Number | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None
    evidence: tuple[Mapping[str, str | Whole | Number | None], ...] | None = None
    rule_hash: str | None = None
    notify: tuple[str, ...] | None = None
    valence: Signed | None = None
    arousal: Signed | None = None
    speaker: str | None = None
    speaker_confidence: Probability | None = None
    overlap: Probability | None = None
    relabelled: Mapping[str, str] | None = None
    protocol: str | None = None


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


def topics_of(call: str, channel: str) -> list[str]:
    """The prefixes of one channel with what concerns its whole call."""
    return [topic_prefix(call, channel), topic_prefix(call, "")]


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


EVERYTHING = topic_prefix()
HEARTBEAT = (topic_prefix("", "") + "heartbeat").encode()  # anybody who is let in may see that the hub lives
DAMAGED = ("journal",)  # the `degraded` of an event that stands for one that cannot be read any more


def is_stand_in(event: Event) -> bool:
    """Whether an event of the journal stands for one that cannot be read."""
    return event.degraded == DAMAGED and event.offset is not None


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
