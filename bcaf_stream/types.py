"""The records that travel between the stages: frozen; the lowest layer, which imports no other.

Time is stream time: whole milliseconds from the first sample of the channel, counted in samples. Wall
clock stands only in fields named `*_at` (unix time in nanoseconds).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz; the one rate behind audio/resample

PcmN = NDArray[np.int16]  # mono PCM, N samples
VectorD = NDArray[np.float32]

Role = Literal["customer", "agent", "speaker"]
Policy = Literal["fused", "text_only", "off"]
TextSource = Literal["given", "asr", "none"]
Modality = Literal["audio", "text"]
Redacted = Literal["card", "account", "phone", "email", "id_number"]  # what may be taken out of words

# Of `degraded`: words that are shown, and are no evidence.
UNSURE = "text: unsure"  # likelier wrong than right
FOREIGN = "text: not English"  # which is all that the models of words know


@dataclass(frozen=True, slots=True)
class Channel:
    """One side of a call; its name is unique in the call."""

    name: str
    role: Role = "speaker"


@dataclass(frozen=True, slots=True)
class Call:
    """A conversation and its channels, in the order in which ties in time are resolved.

    `protocol` is how its sound comes in, in the name of its server; "" where it comes by none.
    """

    id: str
    channels: tuple[Channel, ...]
    protocol: str = ""

    def role_of(self, channel: str) -> Role:
        return next(c.role for c in self.channels if c.name == channel)


@dataclass(frozen=True, slots=True, eq=False)
class AudioChunk:
    """Consecutive PCM of one channel.

    `start` is the index of the first sample in the channel's stream at `rate` Hz; `received_at` (unix ns)
    is when the last sample arrived.
    """

    channel: str
    start: int
    rate: int
    samples: PcmN
    received_at: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples from `start` to before `end` of a channel that never came; `reason` in a few words.

    They are counted at `rate` Hz; 0 stands for the one rate of a live call.
    """

    channel: str
    start: int
    end: int
    reason: str
    rate: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SpeechSegment:
    """A stretch of one channel that the VAD took for speech, at SAMPLE_RATE.

    `index` counts the channel's segments from 0. `closed_ms` is the stream time at which the segmenter
    could know the end (end plus hang-over): segments of a call are ordered by (closed_ms, channel order).
    `speech_ended_at` is the wall clock (unix ns) of `end_ms`. `split` says that the segment was cut at the
    longest allowed length, so that the next one continues the same breath. `notes` are what is to be said of the
    call before this segment, each once in a call.

    Where people are told apart on one channel: `speaker` is the name of the one who speaks, `speaker_confidence`
    the probability that it is right, `overlap` the share of the speech in which others speak too, `role` that of
    an enrolled voice, and `relabelled` has the names that turn out, by now, to be another one's.
    """

    channel: str
    index: int
    start_ms: int
    end_ms: int
    closed_ms: int
    samples: PcmN
    speech_ended_at: int = 0
    split: bool = False
    notes: tuple[str, ...] = ()
    speaker: str | None = None
    speaker_confidence: float | None = None
    overlap: float | None = None
    role: Role | None = None
    relabelled: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Words:
    """Text with its time in one channel, of any length from one word to a whole cue; `channel` None fits all.

    Live text may be revised: what comes later with the same `id` replaces it, and `final` False says that it will.
    """

    start_ms: int
    end_ms: int
    text: str
    channel: str | None = None
    id: str | None = None
    final: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """A speech segment with the words that were said in it.

    `text` is None where nobody knows the words; then `text_source` is "none". `samples` is None where the
    policy of the role forbids listening (`text_only`). `revision` above 0 replaces what went out before: the words
    came later, or were changed. `degraded` names what should have been there and was not ("asr").
    `text_confidence` is the probability that recognised words are right; None for given ones, and where the
    recogniser knows none. `speaker`, `speaker_confidence` and `overlap` are those of the segment.
    """

    call: str
    channel: str
    role: Role
    index: int
    start_ms: int
    end_ms: int
    samples: PcmN | None
    text: str | None
    text_source: TextSource
    speech_ended_at: int = 0
    revision: int = 0
    degraded: tuple[str, ...] = ()
    text_confidence: float | None = None
    speaker: str | None = None
    speaker_confidence: float | None = None
    overlap: float | None = None

    @property
    def voice(self) -> str:
        """Whose it is, inside its call: a channel's, or one of those who share it."""
        return self.channel if self.speaker is None else f"{self.channel} {self.speaker}"

    @property
    def judged_text(self) -> str | None:
        """The words as far as they are evidence."""
        return None if UNSURE in self.degraded or FOREIGN in self.degraded else self.text


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The encoders' vectors of one utterance; None is an absent modality (never a vector of zeros).

    `voice` names whose it is inside its call: what is learned of one voice is not used for another.
    """

    audio: VectorD | None
    text: VectorD | None
    voice: str = ""


@dataclass(frozen=True, slots=True)
class EmotionPrediction:
    """Calibrated probabilities of one utterance, in the order of `labels`.

    `audio_probs` and `text_probs` are the unimodal heads' own; None where the modality was absent.
    `confidence` is the probability of `emotion`, the most probable label. `decided` is False where the
    probabilities are so near chance that they say nothing. `valence` and `arousal`, in [-1, 1], are None where the
    checkpoint does not know where its labels lie. `model` is what judged, where that is known.
    """

    labels: tuple[str, ...]
    probs: tuple[float, ...]
    audio_probs: tuple[float, ...] | None
    text_probs: tuple[float, ...] | None
    modalities: tuple[Modality, ...]
    decided: bool = True
    valence: float | None = None
    arousal: float | None = None
    model: str = ""

    @property
    def emotion(self) -> str:
        return self.labels[self.probs.index(max(self.probs))]

    @property
    def confidence(self) -> float:
        return max(self.probs)
