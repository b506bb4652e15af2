"""The voice activity decision of every frame, in two stages; what makes an utterance is the segmenter's.

`confirmed`: webrtcvad decides each frame, and what it lets through must be confirmed by Silero, because
webrtcvad alone takes the noise of a meeting room for speech. `webrtc` and `silero` are the stages alone.

Unusual: Silero's windows (32 ms) do not fit the frames (20 ms, a length that webrtcvad takes), so a frame
has the probability of the window that holds its middle, and waits for it. Silero runs on everything, not
only on what webrtcvad lets through: its network is recurrent, and judges worse after a gap.
"""

from collections import deque
from typing import Annotated, Literal

import numpy as np
import webrtcvad
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bcaf_stream.audio.frames import FRAME_SAMPLES, Frame
from bcaf_stream.audio.silero import WINDOW_SAMPLES, SileroStream
from bcaf_stream.config import Config
from bcaf_stream.types import SAMPLE_RATE, PcmN

_SILENCE_DB = -96.0  # below the smallest step of 16 bits

Share = Annotated[float, Field(ge=0, le=1)]


class VadConfig(Config):
    """`threshold` opens and `keep_threshold` holds Silero's decision, as a speech probability."""

    mode: Literal["confirmed", "webrtc", "silero"] = "confirmed"
    aggressiveness: Annotated[int, Field(ge=0, le=3)] = 1  # webrtcvad's: 3 lets the least through
    threshold: Share = 0.2
    keep_threshold: Share = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> "VadConfig":
        if self.keep_threshold > self.threshold:
            raise ValueError("keep_threshold must not be above threshold")
        return self


class VoiceActivityDetector:
    """Decides for each frame of one channel whether somebody speaks."""

    def __init__(self, config: VadConfig | None = None) -> None:
        self.config = config or VadConfig()
        self._silero = SileroStream() if self.config.mode != "webrtc" else None
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is the first of a channel."""
        self._webrtc = webrtcvad.Vad(self.config.aggressiveness)
        self._pending: PcmN = np.zeros(0, np.int16)
        self._probs: deque[float] = deque()  # of the windows from self._window on
        self._window = 0
        self._frame = 0  # index of the first frame in self._pending
        self._kept = False
        self._received_at = 0
        if self._silero:
            self._silero.reset()

    def push(self, samples_N: PcmN, received_at: int = 0) -> list[Frame]:
        """Take samples at SAMPLE_RATE, the last of which arrived at `received_at`; return the decided frames."""
        self._pending = np.concatenate([self._pending, samples_N])
        if self._silero:
            self._probs.extend(self._silero.push(samples_N))
        return self._decide(self._ready(), self._pending, received_at)

    def flush(self) -> list[Frame]:
        """Decide what is left as if silence followed; the last frame still holds its own samples only."""
        if self._silero:
            self._probs.extend(self._silero.flush())
        padded = np.concatenate([self._pending, np.zeros(-len(self._pending) % FRAME_SAMPLES, np.int16)])
        return self._decide(len(padded) // FRAME_SAMPLES, padded, self._received_at)

    def close(self) -> None:
        self.reset()

    def _ready(self) -> int:
        """How many of the pending frames can be decided: complete ones whose middle lies in a judged window."""
        complete = len(self._pending) // FRAME_SAMPLES
        if not self._silero:
            return complete
        judged = (self._window + len(self._probs)) * WINDOW_SAMPLES
        middles = -(-(judged - FRAME_SAMPLES // 2) // FRAME_SAMPLES)  # how many middles lie before `judged`
        return min(complete, max(middles - self._frame, 0))

    def _decide(self, count: int, samples_N: PcmN, received_at: int) -> list[Frame]:
        self._received_at = received_at
        if not count:
            return []
        sound_FS = samples_N[: count * FRAME_SAMPLES].reshape(count, FRAME_SAMPLES)
        levels = _levels_db(sound_FS)
        frames = []
        for index in range(count):
            begin = index * FRAME_SAMPLES
            own = self._pending[begin : begin + FRAME_SAMPLES]
            later_ns = (len(self._pending) - begin - len(own)) * 1_000_000_000 // SAMPLE_RATE
            speech = self._is_speech(sound_FS[index])
            frames.append(Frame(speech, levels[index], own, received_at and received_at - later_ns))
        self._pending = self._pending[count * FRAME_SAMPLES :]
        return frames

    def _is_speech(self, sound_S: PcmN) -> bool:
        """Decide the next frame; both stages see every frame, so that their memories stay whole."""
        mode = self.config.mode
        passed = mode == "silero" or self._webrtc.is_speech(sound_S.tobytes(), SAMPLE_RATE)
        confirmed = mode == "webrtc" or self._confirms()
        self._frame += 1
        return passed and confirmed

    def _confirms(self) -> bool:
        window = (self._frame * FRAME_SAMPLES + FRAME_SAMPLES // 2) // WINDOW_SAMPLES
        # At the end of the sound, the middle of a frame that is mostly padding lies behind the last window.
        while self._window < window and len(self._probs) > 1:
            self._probs.popleft()
            self._window += 1
        prob = self._probs[0]
        self._kept = prob >= (self.config.keep_threshold if self._kept else self.config.threshold)
        return self._kept


def _levels_db(sound_FS: NDArray[np.int16]) -> list[float]:
    """Mean power of each frame in dB below full scale."""
    power_F = np.square(sound_FS.astype(np.float32) / 32768.0).mean(axis=1)
    return [float(level) for level in 10 * np.log10(np.maximum(power_F, 10 ** (_SILENCE_DB / 10)))]
