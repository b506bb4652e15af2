"""One voice, one utterance: whether a segment of one channel was spoken in another, and only leaks into this one.

Channels of a call are rarely quite apart: a loudspeaker is heard by its own microphone, wires couple, and
recorders write one sound twice. A segment is compared with the sound of each other channel around the same time:
the lag at which they agree best (generalised cross-correlation, Knapp and Carter 1976, weighted so that no
frequency outweighs the rest), then, at this lag, the magnitude-squared coherence (Carter 1987): the share of the
segment's power that is a linear image of the other sound, whatever filter lies between. What both say at once
stays: its own power is not coherent with anything.

Sound is looked at up to the segment's `closed_ms` alone, so that chunks do not matter.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bcaf_stream.audio.frames import decimated
from bcaf_stream.config import Config
from bcaf_stream.types import SAMPLE_RATE, PcmN, SpeechSegment

STEP = 2
RATE = SAMPLE_RATE // STEP  # 8 kHz; what is above 4 kHz tells nothing more
PER_MS = RATE // 1000
WINDOW = 256  # of the coherence: 32 ms
BLOCK = RATE // 2  # the ends of a segment are judged in such parts: an answer after an echo is an answer
DECAY = 0.25  # of an echo's power: what is left beside it and has less is its end; own speech has 1 / DECAY
SAME_SOUND = "carry the same sound"
QUIET = 0.1  # of a segment's power: a pause before or behind an echo, in
PAUSES = 2  # blocks at most, which does not end the search for it
KNOWN_COHERENCE = 0.6  # at the lag of an echo that is known already; what is too short for MIN_PEAK may have it
MIN_PEAK = 25.0  # of the correlation, in its deviations: unrelated speech stays below 21, an echo is above 45

SoundN = NDArray[np.float32]

_HANN = np.hanning(WINDOW).astype(np.float32)


class CrosstalkConfig(Config):
    """`max_lag_ms` is the longest way of an echo; below `min_coherence` of its power a sound is the channel's own.

    An image that is less than `same_db` weaker or louder than its original is the same sound: its level does not
    say where it was spoken.
    """

    enabled: bool = True
    max_lag_ms: Annotated[int, Field(ge=0, le=1000)] = 320
    min_coherence: Annotated[float, Field(gt=0, le=1)] = 0.35
    same_db: Annotated[float, Field(ge=0)] = 6.0


class Image(NamedTuple):
    """What a sound has of another channel's sound."""

    coherence: float  # share of its power, 0 to 1
    gain_db: float  # of the image over the original
    lag_ms: float  # of the image behind the original


class History:
    """The latest sound of one channel, by its place in the stream; silence where none is known.

    It is kept as it came: only what is read, which is little of a call, is brought to RATE.
    """

    def __init__(self) -> None:
        self._parts: deque[tuple[int, PcmN]] = deque()
        self._end = 0  # in samples at SAMPLE_RATE

    @property
    def end_ms(self) -> int:
        return self._end * 1000 // SAMPLE_RATE

    def push(self, samples: PcmN) -> None:
        self._parts.append((self._end, samples.copy()))
        self._end += len(samples)

    def skip(self, ms: int) -> None:
        """Let time pass without sound."""
        self._end += ms * SAMPLE_RATE // 1000

    def read(self, start: int, end: int) -> SoundN:
        """From `start` to before `end`, in samples at RATE."""
        first, last = start * STEP, end * STEP
        sound = np.zeros(last - first, np.int16)
        for begin, part in reversed(self._parts):
            low, high = max(first, begin), min(last, begin + len(part))
            if low < high:
                sound[low - first : high - first] = part[low - begin : high - begin]
            elif begin < first:
                break
        return decimated(sound)

    def forget_before(self, ms: int) -> None:
        while self._parts and (self._parts[0][0] + len(self._parts[0][1])) * 1000 <= ms * SAMPLE_RATE:
            self._parts.popleft()


class Crosstalk:
    """Keeps of each channel's segments what was spoken there; says once for each pair of channels what is shared.

    Args:
        channels: all of the call, in the order in which a sound that two of them share alike is given to one.
    """

    def __init__(self, channels: Sequence[str], config: CrosstalkConfig | None = None) -> None:
        self.config = config or CrosstalkConfig()
        self._channels = list(channels)
        self.reset()

    def reset(self) -> None:
        self._histories = {channel: History() for channel in self._channels}
        self._told: dict[tuple[str, str], float] = {}  # the lag, in ms, at which the first has the second's sound
        self._notes: list[str] = []

    @property
    def active(self) -> bool:
        return self.config.enabled and len(self._channels) > 1

    def push(self, channel: str, samples: PcmN) -> None:
        """Take the channel's next sound at SAMPLE_RATE."""
        if self.active:
            self._histories[channel].push(samples)

    def skip(self, channel: str, ms: int) -> None:
        self._histories[channel].skip(ms)

    def forget_before(self, ms: int) -> None:
        for history in self._histories.values():
            history.forget_before(ms)

    def take_notes(self) -> tuple[str, ...]:
        """What subscribers of the call should know by now; each is said once."""
        notes, self._notes = tuple(self._notes), []
        return notes

    def is_own(self, segment: SpeechSegment) -> bool:
        """Whether an open segment seems to be spoken in its channel, as far as the other channels have got."""
        known_ms = min((history.end_ms for history in self._histories.values()), default=0)
        known = segment.samples[: max(0, known_ms - segment.start_ms) * SAMPLE_RATE // 1000]
        so_far = replace(segment, samples=known, end_ms=known_ms, closed_ms=known_ms)
        return self.own(so_far, tell=False) is not None

    def own(self, segment: SpeechSegment, *, tell: bool = True) -> SpeechSegment | None:
        """The part of a segment that was spoken in its channel: all of it, without its ends, or nothing (None)."""
        if not self.active:
            return segment
        sound = decimated(segment.samples)
        for other in self._channels:
            if other == segment.channel:
                continue
            start, end = self._foreign(segment, sound, other, tell)
            if start >= end:
                return None
            segment, sound = _part(segment, start, end), sound[start:end]
        return segment

    def _foreign(self, segment: SpeechSegment, sound: SoundN, other: str, tell: bool) -> tuple[int, int]:
        """Where the segment's own part begins and ends, in samples at RATE, beside the other channel's sound."""
        lag = self.config.max_lag_ms * PER_MS
        begin = segment.start_ms * PER_MS - lag
        around = self._histories[other].read(begin, min(begin + len(sound) + 2 * lag, segment.closed_ms * PER_MS))
        if len(sound) < 2 * WINDOW or len(around) < len(sound):
            return 0, len(sound)
        louder = 10 ** (self.config.same_db / 10) * 2
        if float(sound @ sound) > louder * float(around @ around):
            return 0, len(sound)  # it cannot come from there: the case of a call without crosstalk
        if self._of(segment.channel, sound, around, other, tell):
            return 0, 0
        start = self._foreign_blocks(segment.channel, sound, around, other, tell)
        end = len(sound) - self._foreign_blocks(segment.channel, sound[start:], around[start:], other, tell, -1)
        if end - start == len(sound):
            return start, end
        left = sound[start:end]
        removed = np.concatenate([sound[:start], sound[end:]])
        dies_away = len(left) == 0 or float((left**2).mean()) < DECAY * float((removed**2).mean())
        if dies_away or self._of(segment.channel, left, around[start : end + 2 * lag], other, tell):
            return 0, 0
        return start, end

    def _foreign_blocks(
        self, channel: str, sound: SoundN, around: SoundN, other: str, tell: bool, direction: int = 1
    ) -> int:
        """How many samples of the sound's begin (or of its end, for -1) are the other channel's.

        A block in between that is no louder than they are does not interrupt them, nor does a pause before them.
        """
        lag = self.config.max_lag_ms * PER_MS
        quiet = QUIET * float((sound**2).mean()) * BLOCK if len(sound) else 0.0
        found, power, blocks, loudest_pause = 0, 0.0, 0, 0.0
        for number in range(len(sound) // BLOCK):
            at = number * BLOCK if direction > 0 else len(sound) - (number + 1) * BLOCK
            part = sound[at : at + BLOCK]
            own = float(part @ part)
            if self._of(channel, part, around[at : min(at + BLOCK + 2 * lag, len(around))], other, tell):
                found, power, blocks = (number + 1) * BLOCK, power + own, blocks + 1
                if loudest_pause > own:
                    return 0  # a faint answer
            elif blocks == 0 and number < PAUSES and own < quiet:
                loudest_pause = max(loudest_pause, own)
            elif blocks == 0 or own * blocks > power / DECAY:
                break
        return found

    def _of(self, channel: str, sound: SoundN, around: SoundN, other: str, tell: bool) -> bool:
        """Whether the sound was spoken in the other channel, or is in both alike and given to the other one."""
        if len(around) < len(sound):
            return False
        max_lag = self.config.max_lag_ms * PER_MS
        found, least = image(sound, around, max_lag), self.config.min_coherence
        unlike = found is None or found.gain_db > self.config.same_db  # nothing, or its own sound in the other one
        if unlike and (known_ms := self._known_lag_ms(channel, other)) is not None:
            found, least = image_at(sound, around, max_lag, round(known_ms * PER_MS)), KNOWN_COHERENCE
        if found is None or found.coherence < least or found.gain_db > self.config.same_db:
            return False
        same = found.gain_db >= -self.config.same_db
        if tell and (channel, other) not in self._told:
            self._note(channel, other, found, same)
            self._told[channel, other] = found.lag_ms
        return not same or self._channels.index(other) < self._channels.index(channel)

    def _known_lag_ms(self, channel: str, other: str) -> float | None:
        """Of an echo that was found before, or of the same sound that was found in the other direction."""
        back_ms = self._told.get((other, channel))
        return self._told.get((channel, other), None if back_ms is None else -back_ms)

    def _note(self, channel: str, other: str, found: Image, same: bool) -> None:
        if not same:
            when = "late" if found.lag_ms >= 0 else "early"
            far = f"{-found.gain_db:.0f} dB weaker, {abs(found.lag_ms):.0f} ms {when}"
            self._notes.append(f"crosstalk: channel {channel} also carries the sound of {other} ({far})")
        elif (other, channel) not in self._told:
            first, second = sorted((channel, other), key=self._channels.index)
            self._notes.append(f"crosstalk: {first} and {second} {SAME_SOUND}, taken for {first}'s")


def image(own: SoundN, other: SoundN, max_lag: int) -> Image | None:
    """What `own` has of `other`, whose sample `max_lag` is at the time of the first of `own`; None: nothing."""
    size = 1 << (len(own) + len(other) - 2).bit_length()
    own_F, other_F = np.fft.rfft(own, size), np.fft.rfft(other, size)
    cross_F = np.conj(other_F) * own_F
    level_F = np.abs(cross_F)
    # Not quite the phase transform: bands that hold next to nothing must not outvote the others.
    correlation = np.fft.irfft(cross_F / (level_F + 1e-3 * level_F.max() + 1e-12), size)
    starts = -np.arange(len(other) - len(own) + 1)  # where in `other` the original of `own` may begin
    best = int(correlation[starts].argmax())
    deviation = float(np.sqrt((correlation**2).mean()))
    if float(correlation[starts[best]]) < MIN_PEAK * deviation or deviation == 0:
        return None
    coherence, gain_db = _coherence(own, other[best : best + len(own)])
    return Image(coherence, gain_db, (max_lag - best) / PER_MS)


def image_at(own: SoundN, other: SoundN, max_lag: int, lag: int) -> Image | None:
    """The same at a lag that is known but for a millisecond; None where it is not in `other`, or where there is
    too little to tell."""
    near = range(max_lag - lag - PER_MS, max_lag - lag + PER_MS + 1)
    starts = [start for start in near if 0 <= start <= len(other) - len(own)]
    if len(own) < 4 * WINDOW or not starts:
        return None
    best = max(starts, key=lambda start: abs(float(own @ other[start : start + len(own)])))
    coherence, gain_db = _coherence(own, other[best : best + len(own)])
    return Image(coherence, gain_db, (max_lag - best) / PER_MS)


def _coherence(own: SoundN, other: SoundN) -> tuple[float, float]:
    """Share of `own` that is a linear image of `other`, and the gain of that image in dB."""
    own_WF, other_WF = _spectra(own), _spectra(other)
    cross_F = (own_WF * np.conj(other_WF)).sum(0)
    own_F, other_F = (np.abs(own_WF) ** 2).sum(0), (np.abs(other_WF) ** 2).sum(0)
    squared_F = np.abs(cross_F) ** 2 / (own_F * other_F + 1e-12)
    windows = max(len(own_WF) / 2, 2)  # they overlap by half
    squared_F = np.maximum((squared_F - 1 / windows) / (1 - 1 / windows), 0)  # unrelated sounds have 1 / windows
    shared = float((squared_F * own_F).sum())
    original = float((squared_F * other_F).sum())
    gain_db = 10 * np.log10((shared + 1e-12) / (original + 1e-12))
    return shared / (float(own_F.sum()) + 1e-12), float(gain_db)


def _spectra(sound: SoundN) -> NDArray[np.complex64]:
    windows_WN = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[:: WINDOW // 2]
    return np.fft.rfft(windows_WN * _HANN, axis=1).astype(np.complex64, copy=False)


def _part(segment: SpeechSegment, start: int, end: int) -> SpeechSegment:
    """The segment from `start` to before `end`, in samples at RATE."""
    if start == 0 and end * STEP >= len(segment.samples) // STEP * STEP:
        return segment
    shorter_ms = segment.end_ms - segment.start_ms - end // PER_MS
    spoken_at = segment.speech_ended_at and segment.speech_ended_at - shorter_ms * 1_000_000
    return replace(
        segment,
        start_ms=segment.start_ms + start // PER_MS,
        end_ms=segment.start_ms + end // PER_MS,
        samples=segment.samples[start * STEP : end * STEP],
        speech_ended_at=spoken_at,
    )
