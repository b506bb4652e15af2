"""From the channels' sound to speech segments in the order of the dialogue.

`TurnOrder` releases a segment once every other channel is known beyond its `closed_ms`, so that the order depends
on stream time alone, never on which channel's sound happened to come first. What follows from this: a channel
of a live call that delivers nothing holds the others back, until somebody with a clock says that it stalls.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from bcaf_stream.audio.crosstalk import Crosstalk, CrosstalkConfig
from bcaf_stream.audio.frames import FRAME_MS
from bcaf_stream.audio.noise import NoiseWatch
from bcaf_stream.audio.resample import Resampler
from bcaf_stream.audio.segmenter import Segmenter, SegmenterConfig
from bcaf_stream.audio.speakers.config import SpeakerConfig, Speakers, speakers_of
from bcaf_stream.audio.tones import are_tones
from bcaf_stream.audio.vad import VadConfig, VoiceActivityDetector
from bcaf_stream.config import Config
from bcaf_stream.errors import SourceError
from bcaf_stream.types import AudioChunk, Call, SpeechSegment

if TYPE_CHECKING:
    from bcaf_stream.audio.speakers.clustering import LocalSpeaker, Voice
    from bcaf_stream.audio.speakers.segmenter import SpeakerSegmenter

REACH_MS = 2000  # of what is compared, before the begin of the longest segment
TIDY_MS = 1000  # how often what is older is forgotten
FELT_GAP_S = 1  # silence enough to end what was said before it, and to be the pre-roll of what comes after


class AudioConfig(Config):
    vad: VadConfig = VadConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    crosstalk: CrosstalkConfig = CrosstalkConfig()
    speakers: Speakers = "auto"


class TurnOrder:
    """Merges the channels' segments by (closed_ms, order of the channels)."""

    def __init__(self, channels: Iterable[str]) -> None:
        self._rank = {name: rank for rank, name in enumerate(channels)}
        self.reset()

    def reset(self) -> None:
        self._progress: dict[str, float] = dict.fromkeys(self._rank, 0)
        self._stalled: set[str] = set()
        self._waiting: list[tuple[int, int, int, SpeechSegment]] = []

    def push(self, segments: Iterable[SpeechSegment], channel: str, progressed_ms: int) -> list[SpeechSegment]:
        """Take a channel's segments and how far it is decided; return what nothing can precede any more."""
        for segment in segments:
            heapq.heappush(self._waiting, (segment.closed_ms, self._rank[channel], segment.index, segment))
        behind = channel in self._stalled  # the others went on without it
        self._progress[channel] = progressed_ms if behind else max(self._progress[channel], progressed_ms)
        self._stalled.discard(channel)
        return self._release()

    @property
    def waiting_ms(self) -> list[int]:
        """Where the segments begin that wait for another channel."""
        return [segment.start_ms for *_, segment in self._waiting]

    def stall(self, channel: str) -> list[SpeechSegment]:
        """Do not wait for this channel until its next push; return what waited for it alone."""
        self._stalled.add(channel)
        self._progress[channel] = float("inf")
        return self._release()

    def end(self, channel: str) -> list[SpeechSegment]:
        """Take note that nothing more comes from this channel; return what waited for it alone."""
        self._progress[channel] = float("inf")
        return self._release()

    def flush(self) -> list[SpeechSegment]:
        """End all channels."""
        self._progress = dict.fromkeys(self._rank, float("inf"))
        return self._release()

    def close(self) -> None:
        self.reset()

    def _release(self) -> list[SpeechSegment]:
        released = []
        while self._waiting and self._is_next(self._waiting[0][-1]):
            released.append(heapq.heappop(self._waiting)[-1])
        return released

    def _is_next(self, segment: SpeechSegment) -> bool:
        # Not "up to": the end of a channel may still close a segment at exactly the time that is known.
        return all(
            known_ms > segment.closed_ms
            for channel, known_ms in self._progress.items()
            if channel != segment.channel
        )


class _ChannelCutter:
    """Resampling, decision and segmentation of one channel."""

    def __init__(
        self, channel: str, config: AudioConfig, crosstalk: Crosstalk, segmenter: "Segmenter | SpeakerSegmenter"
    ) -> None:
        self._channel = channel
        self._crosstalk = crosstalk
        self._resampler: Resampler | None = None  # made for the rate of the first chunk
        self._vad = VoiceActivityDetector(config.vad)
        self.segmenter = segmenter
        self.noise = NoiseWatch()
        self._next = 0  # index of the sample that must come next
        self.ended = self.stalled = False

    def push(self, chunk: AudioChunk) -> list[SpeechSegment]:
        if self.ended:
            raise SourceError(f"channel {self._channel!r} has ended; start a new call for more sound")
        if chunk.start != self._next:
            raise SourceError(
                f"channel {self._channel!r}: sample {self._next} was expected, and {chunk.start} came;"
                " send every chunk once, in order"
            )
        self.stalled = False
        if self._resampler is None:
            self._resampler = Resampler(chunk.rate)
        segments = self._cut(self._resampler.push(chunk))
        self._next += len(chunk.samples)
        return segments

    def skip(self, seconds: int, rate: int) -> list[SpeechSegment]:
        self._next += seconds * rate
        self._crosstalk.skip(self._channel, seconds * 1000)
        self.noise.skip(seconds * 1000 // FRAME_MS)
        return self.segmenter.skip(seconds * 1000 // FRAME_MS)

    def flush(self) -> list[SpeechSegment]:
        if self.ended:
            return []
        self.ended = True
        segments = self._cut(self._resampler.flush()) if self._resampler else []
        return segments + self.segmenter.push(self._vad.flush()) + self.segmenter.flush()

    def _cut(self, chunks: Iterable[AudioChunk]) -> list[SpeechSegment]:
        frames = []
        for chunk in chunks:
            self._crosstalk.push(self._channel, chunk.samples)
            frames += self._vad.push(chunk.samples, chunk.received_at)
        self.noise.push(frames)
        return self.segmenter.push(frames)


class CallCutter:
    """Sound of all channels of a call in, at any rate and in any chunks; speech segments in dialogue order out.

    What was spoken in one channel and leaks into another is given once. Where two channels carry the same sound
    alike, it is given to the one that comes first in `precedence` (default: the call's order). `voices` are those
    of the people who speak on a channel, where a first pass has found them; a `listener` is told of what each
    window on a channel gives away of its voices.
    """

    def __init__(
        self,
        call: Call,
        config: AudioConfig | None = None,
        precedence: Sequence[str] | None = None,
        voices: "Mapping[str, Sequence[Voice]]" = MappingProxyType({}),
        listener: "Callable[[str, Sequence[LocalSpeaker]], object] | None" = None,
    ) -> None:
        self.call = call
        self._voices = voices
        self._listener = listener
        self.config = config or AudioConfig()
        self._order = TurnOrder(channel.name for channel in call.channels)
        names = precedence or [channel.name for channel in call.channels]
        self._crosstalk = Crosstalk(names, self.config.crosstalk)
        self.reset()

    @property
    def progressed_ms(self) -> int:
        """Stream time up to which every channel that goes on is decided: later segments close after it."""
        cutters = self._cutters.values()
        running = [cutter for cutter in cutters if not (cutter.ended or cutter.stalled)] or cutters
        return min((cutter.segmenter.progressed_ms for cutter in running), default=0)

    @property
    def tells_speakers(self) -> bool:
        """Whether people are told apart on a channel, which takes a good part of the time of a core."""
        return bool(speakers_of(self.config.speakers, self.call.channels))

    @property
    def undecided_ms(self) -> int:
        """Stream time before which every segment is out: the next ones begin after it."""
        begins = [cutter.segmenter.undecided_ms for cutter in self._cutters.values() if not cutter.ended]
        return min([*begins, *self._order.waiting_ms], default=self.progressed_ms)

    def reset(self) -> None:
        self._order.reset()
        self._crosstalk.reset()
        self._noisy: set[str] = set()
        self._tidied_ms = 0
        speakers = speakers_of(self.config.speakers, self.call.channels)
        self._cutters = {
            c.name: _ChannelCutter(
                c.name, self.config, self._crosstalk, self._segmenter(c.name, speakers.get(c.name))
            )
            for c in self.call.channels
        }

    def _segmenter(self, channel: str, speakers: SpeakerConfig | None) -> "Segmenter | SpeakerSegmenter":
        if speakers is None:
            return Segmenter(channel, self.config.segmenter)
        # What it needs takes half a second to load: not where every channel carries one party
        from bcaf_stream.audio.speakers.segmenter import SpeakerSegmenter

        listener = partial(self._listener, channel) if self._listener else None
        return SpeakerSegmenter(channel, self.config.segmenter, speakers, self._voices.get(channel, ()), listener)

    def resume(self, channel: str, index: int, start: int, rate: int) -> None:
        """Begin a channel late: its next segment has that index, its first sample, at `rate` Hz, is `start`."""
        self._cutter(channel).segmenter.count_from(index)
        if start:
            self.gap(channel, 0, start, rate)

    def push(self, chunk: AudioChunk) -> list[SpeechSegment]:
        """Take the next chunk of any channel; return the segments whose turn it is.

        Raises:
            SourceError: the channel is unknown or ended, its rate changed, or samples are missing or doubled.
        """
        return self._take(chunk.channel, self._cutter(chunk.channel).push(chunk))

    def gap(self, channel: str, start: int, end: int, rate: int, received_at: int = 0) -> list[SpeechSegment]:
        """Take silence for the samples from `start` to before `end`, at `rate` Hz, that never came.

        Whole seconds in its middle are not worked through: an hour costs as much as a moment.
        """
        skipped = max(0, (end - start) // rate - 2 * FELT_GAP_S)
        head = min(end - start, FELT_GAP_S * rate) if skipped else end - start
        segments = self._silence(channel, start, head, rate, received_at)
        if skipped:
            segments += self._take(channel, self._cutter(channel).skip(skipped, rate))
            at = start + head + skipped * rate
            segments += self._silence(channel, at, end - at, rate, received_at)
        return segments

    def open_ms(self, channel: str) -> int:
        """How long the utterance that is still going on lasts by now; 0 where nobody speaks."""
        return self._cutter(channel).segmenter.open_ms

    def so_far(self, channel: str) -> SpeechSegment | None:
        """What has been said in the utterance that is still going on."""
        segment = self._cutter(channel).segmenter.so_far()
        if segment is None or are_tones(segment.samples):
            return None
        return segment if self._crosstalk.is_own(segment) else None

    def stall(self, channel: str) -> list[SpeechSegment]:
        """Close the utterance of a channel whose sound has stopped coming; the others need not wait for it.

        What comes later begins another utterance. Only a clock can know of a stall: so it is told from outside.
        """
        cutter = self._cutter(channel)
        cutter.stalled = True
        return self._take(channel, cutter.segmenter.flush()) + self._own(self._order.stall(channel))

    def end(self, channel: str) -> list[SpeechSegment]:
        """End one channel while others go on (a leg was hung up): they need not wait for it any more."""
        return self._take(channel, self._cutter(channel).flush()) + self._own(self._order.end(channel))

    def flush(self) -> list[SpeechSegment]:
        """End all channels."""
        return [segment for channel in self._cutters for segment in self.end(channel)]

    def take_notes(self) -> tuple[str, ...]:
        """What is to be said of the call and came with no segment: ask after the last one."""
        return (*self._noise_notes(), *self._crosstalk.take_notes())

    def close(self) -> None:
        self.reset()

    def _own(self, segments: Iterable[SpeechSegment]) -> list[SpeechSegment]:
        """What was spoken where it was heard, and is no tone, with what is to be said of the call before it."""
        own = []
        for segment in segments:
            kept = None if are_tones(segment.samples) else self._crosstalk.own(segment)
            if kept is not None:
                notes = (*kept.notes, *self._noise_notes(kept.closed_ms), *self._crosstalk.take_notes())
                own.append(replace(kept, notes=notes) if notes else kept)
        return own

    def _noise_notes(self, to_ms: float = float("inf")) -> list[str]:
        """The channels that were too noisy before `to_ms`, which all of them have reached; each is named once."""
        found = []
        for channel, cutter in self._cutters.items():
            at_ms = cutter.noise.too_noisy_ms
            if at_ms is not None and at_ms <= to_ms and channel not in self._noisy:
                self._noisy.add(channel)
                found.append(f"too noisy: speech in channel {channel} cannot be told from its noise")
        return found

    def _silence(self, channel: str, start: int, count: int, rate: int, received_at: int) -> list[SpeechSegment]:
        return self.push(AudioChunk(channel, start, rate, np.zeros(count, np.int16), received_at))

    def _take(self, channel: str, segments: list[SpeechSegment]) -> list[SpeechSegment]:
        progressed_ms = self._cutter(channel).segmenter.progressed_ms
        own = self._own(self._order.push(segments, channel, progressed_ms))
        if progressed_ms >= self._tidied_ms + TIDY_MS:
            self._tidied_ms = progressed_ms
            self._crosstalk.forget_before(self.progressed_ms - self.config.segmenter.max_ms - REACH_MS)
        return own

    def _cutter(self, channel: str) -> _ChannelCutter:
        if channel not in self._cutters:
            known = ", ".join(self._cutters)
            raise SourceError(f"channel {channel!r} is not of call {self.call.id!r}, which has {known}")
        return self._cutters[channel]
