"""Sound that the tests make themselves: tones, silence, and a babble that passes for speech."""

import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"
_VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))


def silence(seconds: float, rate: int = 16_000) -> NDArray[np.int16]:
    return np.zeros(round(seconds * rate), np.int16)


def tone(seconds: float, rate: int = 16_000, hz: float = 440.0, peak: int = 8000) -> NDArray[np.int16]:
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def babble(seconds: float, rate: int = 16_000, seed: int = 1) -> NDArray[np.int16]:
    """A gliding pulse train through moving formants, five and a half syllables a second."""
    return _babble(seconds, rate, seed).copy()


@cache
def _babble(seconds: float, rate: int, seed: int) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    t = np.arange(count) / rate
    pitch = (110 + 40 * seed) * (1 + 0.15 * np.sin(4.4 * t) + 0.03 * np.sin(19 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    syllables = int(seconds / 0.18) + 2
    anchors = np.array([_VOWELS[i] for i in rng.integers(0, len(_VOWELS), syllables)], float)
    formants = [np.interp(t, np.arange(syllables) * 0.18, anchors[:, j]) for j in range(3)]
    sound = 0.003 * rng.standard_normal(count)
    for harmonic in range(1, 40):
        hz = harmonic * pitch
        gains = zip((1.0, 0.5, 0.25), formants, (80, 100, 140), strict=True)
        level = sum(gain / (1 + ((hz - centre) / width) ** 2) for gain, centre, width in gains)
        sound += np.where(hz < rate / 2 - 200, level * np.sin(harmonic * phase), 0)
    sound *= 0.55 - 0.45 * np.cos(2 * np.pi * t / 0.18)
    return (sound / np.abs(sound).max() * 9000).astype(np.int16)


def write(path: Path, sound_CN: NDArray, rate: int, codec: str = "pcm_s16le") -> Path:
    """Encode (channels, samples) of int16 or float32; the container follows from the name."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound_CN)]
    packed = np.ascontiguousarray(sound_CN.T).reshape(1, -1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(
            packed, format="flt" if packed.dtype == np.float32 else "s16", layout=layout
        )
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode(path: Path) -> NDArray[np.int16]:
    """A reference that shares nothing with the code under test but PyAV: (channels, samples)."""
    to_int16 = av.AudioResampler(format="s16p")
    with av.open(str(path)) as container:
        blocks = [g.to_ndarray() for f in container.decode(audio=0) for g in to_int16.resample(f)]
    return np.concatenate(blocks, axis=1)


@dataclass(frozen=True)
class TrackOf:
    """One audio track to be muxed; `stamp` gives a packet's time in s from its true one, None loses the packet."""

    sound_CN: NDArray[np.int16]
    rate: int
    codec: str
    stamp: Callable[[float], float | None] = float
    title: str = ""


def late(start_s: float) -> Callable[[float], float | None]:
    return lambda time_s: time_s + start_s


def without(begin_s: float, end_s: float) -> Callable[[float], float | None]:
    return lambda time_s: None if begin_s <= time_s < end_s else time_s


def mux(
    path: Path, tracks: Sequence[TrackOf], video_s: float = 0.0, options: dict[str, str] | None = None
) -> Path:
    """Write tracks, and a picture of so many seconds if there is to be one, as a container of the name's kind."""
    packets = []
    with av.open(str(path), "w", container_options=options or {}) as container:
        if video_s:
            video = container.add_stream("flv" if path.suffix == ".flv" else "mpeg4", rate=10)
            video.width = video.height = 32
            for index in range(round(video_s * 10)):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                picture.pts = index
                packets += video.encode(picture)
            packets += video.encode(None)
        streams = []
        for track in tracks:
            stream = container.add_stream(track.codec, rate=track.rate)
            stream.layout = "mono" if len(track.sound_CN) == 1 else "stereo"
            if track.title:
                stream.metadata["title"] = track.title
            streams.append(stream)
        for track, stream in zip(tracks, streams, strict=True):
            packed = np.ascontiguousarray(track.sound_CN.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=stream.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = track.rate, 0, Fraction(1, track.rate)
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                time_s = track.stamp(float(packet.pts * packet.time_base))
                if time_s is not None:
                    packet.pts = packet.dts = round(time_s / packet.time_base)
                    packets.append(packet)
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            container.mux(packet)
    return path


def onset_s(sound_N: NDArray[np.int16], rate: int, level: int = 500) -> float:
    """When something is first heard."""
    return float(np.argmax(np.abs(sound_N.astype(np.int32)) > level)) / rate


def write_wav(path: Path, samples: np.ndarray, rate: int = 8000) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return path
