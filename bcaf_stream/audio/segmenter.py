"""From decided frames to speech segments: a pure state machine, without a model and without a clock.

Everything is counted in frames of FRAME_MS. Outside a segment the last frames are remembered. When enough
of the start window is voiced, a segment opens: it begins `pre_roll_ms` before the first voiced frame of that
window, but never before the end of the previous segment. It closes when hardly anything of the stop window
is voiced any more, and is kept up to the last voiced frame plus the hang-over. One that reaches the longest
allowed length is split at its quietest recent frame, and its rest is never dropped, however short.
"""

import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from bcaf_stream.audio.frames import FRAME_MS, FRAME_SAMPLES, Frame
from bcaf_stream.config import Config
from bcaf_stream.types import SAMPLE_RATE, SpeechSegment


class SegmenterConfig(Config):
    """When a segment opens and closes: lengths in ms, rounded up to whole frames; ratios are voiced shares.

    At least `start_ratio` of the start window opens a segment, at most `stop_ratio` of the stop window closes
    it. `hangover_ms` is kept after the last voiced frame. `min_ms` counts from the first to the last voiced
    frame, and what is shorter is dropped; `max_ms` counts everything, and what would be longer is split at
    the quietest of its last `split_search_ms`.
    """

    start_window_ms: Annotated[int, Field(ge=FRAME_MS)] = 240
    start_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    stop_window_ms: Annotated[int, Field(ge=FRAME_MS)] = 480
    stop_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    pre_roll_ms: Annotated[int, Field(ge=0)] = 240
    hangover_ms: Annotated[int, Field(ge=0)] = 200
    min_ms: Annotated[int, Field(ge=0)] = 160
    max_ms: Annotated[int, Field(ge=FRAME_MS)] = 15_000
    split_search_ms: Annotated[int, Field(ge=FRAME_MS)] = 3000

    @model_validator(mode="after")
    def _fitting(self) -> "SegmenterConfig":
        if self.hangover_ms > self.stop_window_ms:
            raise ValueError("hangover_ms must not be above stop_window_ms: it is not known earlier what follows")
        # So that a split leaves a piece in which somebody speaks, and an utterance that is long enough to be kept.
        voiced = max(_frames(self.start_window_ms) + _frames(self.stop_window_ms), _frames(self.min_ms))
        shortest = _frames(self.pre_roll_ms) + voiced + _frames(self.split_search_ms)
        if self.max_ms // FRAME_MS < shortest:
            raise ValueError(
                "max_ms must be at least pre_roll_ms + split_search_ms + the longer of min_ms and"
                f" start_window_ms + stop_window_ms, here {shortest * FRAME_MS}"
            )
        return self


def _frames(ms: int) -> int:
    return math.ceil(ms / FRAME_MS)


class Segmenter:
    """Cuts one channel's decided frames into speech segments; holds max_ms of sound at most."""

    def __init__(self, channel: str, config: SegmenterConfig | None = None) -> None:
        self.channel = channel
        self.config = config or SegmenterConfig()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of a channel, the next segment has index 0."""
        self._index = 0
        self._samples = 0
        self._ended_at = 0
        self._open = False
        self._kept: deque[Frame] = deque()  # of the open segment, or what may become a pre-roll
        self._begin = 0  # index of the first frame in self._kept
        self._first_voiced = self._last_voiced = 0  # of the open segment, with the pieces already split off
        self._starting: deque[bool] = deque(maxlen=_frames(self.config.start_window_ms))
        self._stopping: deque[bool] = deque(maxlen=_frames(self.config.stop_window_ms))

    @property
    def progressed_ms(self) -> int:
        """Stream time up to which everything is decided: what is still to come closes later."""
        return self._samples * 1000 // SAMPLE_RATE

    @property
    def undecided_ms(self) -> int:
        """Stream time from which on sound may still become part of a segment."""
        return self._begin * FRAME_MS

    def count_from(self, index: int) -> None:
        """The next segment has this index: there have been others before, elsewhere."""
        self._index = index

    def push(self, frames: Iterable[Frame]) -> list[SpeechSegment]:
        """Take the next frames; return the segments that they closed."""
        return [segment for frame in frames for segment in self._step(frame)]

    def flush(self) -> list[SpeechSegment]:
        """Close the segment that the end of the channel, or a stop of its sound, cuts short; more may follow."""
        return self._finish() if self._open else []

    @property
    def open_ms(self) -> int:
        """Length of the open segment; 0 where nobody speaks."""
        return len(self._kept) * FRAME_MS if self._open else 0

    def so_far(self) -> SpeechSegment | None:
        """The open segment as it stands, with the index that it will have; None where nobody speaks."""
        return self._segment(self._end, split=False) if self._open else None

    def cut(self, at: int) -> SpeechSegment:
        """Close the open segment before frame `at`, which is in it; what follows is another, open one."""
        segment = self._cut(at, split=False)
        self._forget_before(at)
        self._first_voiced = max(self._first_voiced, at)
        return segment

    def skip(self, frames: int) -> list[SpeechSegment]:
        """Let time pass without frames: as if silence had come; closes the open segment."""
        segments = self.flush()
        self._forget_before(self._end)
        self._starting.clear()
        self._begin += frames
        self._samples += frames * FRAME_SAMPLES
        return segments

    def close(self) -> None:
        self.reset()

    @property
    def _end(self) -> int:
        return self._begin + len(self._kept)

    def _step(self, frame: Frame) -> list[SpeechSegment]:
        self._kept.append(frame)
        self._samples += len(frame.samples)
        self._ended_at = frame.ended_at
        if not self._open:
            self._wait(frame.speech)
            return []
        self._stopping.append(frame.speech)
        if frame.speech:
            self._last_voiced = self._end - 1
        elif sum(self._stopping) <= self.config.stop_ratio * len(self._stopping):
            return self._finish()
        return self._split() if len(self._kept) >= self.config.max_ms // FRAME_MS else []

    def _wait(self, speech: bool) -> None:
        """Open a segment if the start window is voiced enough; otherwise forget what no pre-roll can reach."""
        config = self.config
        self._starting.append(speech)
        if speech and sum(self._starting) >= config.start_ratio * _frames(config.start_window_ms):
            self._first_voiced = self._end - len(self._starting) + list(self._starting).index(True)
            self._last_voiced = self._end - 1
            self._forget_before(self._first_voiced - _frames(config.pre_roll_ms))
            # What was before the opening counts as voiced: a segment cannot close before its stop window has run.
            self._stopping.extend([True] * _frames(config.stop_window_ms))
            self._open = True
        else:
            self._forget_before(self._end - _frames(config.pre_roll_ms) - _frames(config.start_window_ms))

    def _finish(self) -> list[SpeechSegment]:
        """Close the open segment at its natural end; what follows it may become the next one's pre-roll."""
        voiced = self._last_voiced + 1 - self._first_voiced
        end = min(self._last_voiced + 1 + _frames(self.config.hangover_ms), self._end)
        long_enough = voiced * FRAME_MS >= self.config.min_ms
        segments = [self._cut(end, split=False)] if long_enough else []
        self._forget_before(end)
        self._forget_before(self._end - _frames(self.config.pre_roll_ms))
        self._starting.clear()
        self._open = False
        return segments

    def _split(self) -> list[SpeechSegment]:
        """Cut the open segment at its quietest frame; if nothing was voiced since then, it has ended there."""
        search = range(self._end - _frames(self.config.split_search_ms), self._end)
        quietest = min(search, key=lambda index: (self._kept[index - self._begin].level_db, -index))
        if quietest > self._last_voiced:
            return self._finish()
        segment = self._cut(quietest, split=True)
        self._forget_before(quietest)
        return [segment]

    def _cut(self, end: int, *, split: bool) -> SpeechSegment:
        segment = self._segment(end, split=split)
        self._index += 1
        return segment

    def _segment(self, end: int, *, split: bool) -> SpeechSegment:
        samples = np.concatenate([frame.samples for frame in islice(self._kept, end - self._begin)])
        start_ms = self._begin * FRAME_MS
        end_ms = start_ms + len(samples) * 1000 // SAMPLE_RATE
        closed_ms = self.progressed_ms
        spoken_at = self._ended_at and self._ended_at - (closed_ms - end_ms) * 1_000_000
        return SpeechSegment(self.channel, self._index, start_ms, end_ms, closed_ms, samples, spoken_at, split)

    def _forget_before(self, index: int) -> None:
        while self._begin < index:
            self._kept.popleft()
            self._begin += 1
