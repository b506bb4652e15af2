"""Any sample rate to SAMPLE_RATE, by FFmpeg's resampler (libswresample through PyAV), which keeps its state.

Its output does not depend on how the input was cut, and is aligned with it: it holds back about 2 ms, and
an impulse stays where it was. Unusual: chunks under 10 ms are collected first, because a call into FFmpeg
costs the same for one sample as for a thousand; and sound that has SAMPLE_RATE already passes untouched.
"""

import av
import numpy as np

from bcaf_stream.errors import SourceError
from bcaf_stream.types import SAMPLE_RATE, AudioChunk, PcmN


class Resampler:
    """Brings the chunks of one channel from `rate_in` Hz to SAMPLE_RATE."""

    def __init__(self, rate_in: int) -> None:
        if rate_in <= 0:
            raise SourceError(f"a sample rate of {rate_in} Hz is not possible: it must be above 0")
        self.rate_in = rate_in
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is the first of a channel."""
        self._swr = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        self._pending: list[PcmN] = []
        self._last: AudioChunk | None = None
        self._sent = 0  # samples at SAMPLE_RATE

    def push(self, chunk: AudioChunk) -> list[AudioChunk]:
        """Take the next chunk; return at most one, which has its `received_at`.

        Raises:
            SourceError: the chunk has another rate than `rate_in`.
        """
        if chunk.rate != self.rate_in:
            raise SourceError(
                f"channel {chunk.channel!r} changed from {self.rate_in} to {chunk.rate} Hz: start a new call"
            )
        if self.rate_in == SAMPLE_RATE:
            return [chunk]
        self._pending.append(chunk.samples)
        self._last = chunk
        if sum(map(len, self._pending)) * 100 < self.rate_in:
            return []
        return self._resample(chunk, final=False)

    def flush(self) -> list[AudioChunk]:
        """Return the last samples; after it, only `reset` makes the stage usable again."""
        return self._resample(self._last, final=True) if self._last else []

    def close(self) -> None:
        self.reset()

    def _resample(self, last: AudioChunk, *, final: bool) -> list[AudioChunk]:
        samples_N = np.concatenate(self._pending) if self._pending else np.zeros(0, np.int16)
        self._pending = []
        frames: list[av.AudioFrame] = []
        if len(samples_N):
            frame = av.AudioFrame.from_ndarray(samples_N[None], format="s16", layout="mono")
            frame.sample_rate = self.rate_in
            frames += self._swr.resample(frame)
        if final:
            frames += self._swr.resample(None)
        blocks = [frame.to_ndarray()[0] for frame in frames]
        if not blocks:
            return []
        done_N = np.concatenate(blocks)
        chunk = AudioChunk(last.channel, self._sent, SAMPLE_RATE, done_N, last.received_at)
        self._sent += len(done_N)
        return [chunk] if len(done_N) else []
