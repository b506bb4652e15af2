"""What is left of echoes between the channels of a call, and what is lost of real speech.

    python -m tests.benchmarks.bleed [CUSTOMER.flac AGENT.flac ...]

Mixes the agent's sound into the customer's channel of real two-channel calls (default: those in
../shared/data/calls) from -12 to -40 dB, 0 to 300 ms late: as it is, or through a small loudspeaker, a room,
saturation and mu-law. An utterance is a ghost where more than half of its power is the leaked sound; the echo in
the others is told in s: their half seconds that are, but for a tenth of the power, leaked.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.crosstalk import CrosstalkConfig
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.types import AudioChunk, Call, Channel, PcmN, SpeechSegment

CALLS = Path(__file__).parents[3] / "shared" / "data" / "calls"
TWO = Call("two", (Channel("customer", "customer"), Channel("agent", "agent")))
OFF = AudioConfig(crosstalk=CrosstalkConfig(enabled=False))
RATE = 16_000
SECONDS = 60  # of each call
CASES = [
    *[(-12, 0, "as it is"), (-12, 20, "loudspeaker"), (-18, 120, "loudspeaker"), (-24, 300, "loudspeaker")],
    *[(-30, 120, "loudspeaker"), (-36, 20, "loudspeaker"), (-40, 20, "as it is")],
]


def main() -> None:
    given = [Path(name) for name in sys.argv[1:]]
    calls = [pair(*files) for files in (zip(given[::2], given[1::2], strict=True) if given else shared_calls())]
    seconds = sum(len(customer) for customer, _ in calls) / RATE
    print(f"{len(calls)} calls, {seconds:.0f} s")
    print("  dB    ms  path         ghosts before -> after   true before -> after (s)  echo in them (s)  CPU s")
    for db, delay_ms, path in CASES:
        before, after, cpu_s = np.zeros(5), np.zeros(5), 0.0
        for customer, agent in calls:
            mixed = through_line(customer + leaked(agent, db, delay_ms, path), path)
            sounds = {"customer": mixed, "agent": agent.astype(np.int16)}
            own = {"customer": customer, "agent": agent}
            start = time.process_time()
            all_segments = cut(sounds, OFF)
            middle = time.process_time()
            segments = cut(sounds, AudioConfig())
            cpu_s += time.process_time() - middle - (middle - start)
            before += tally(all_segments, sounds, own)
            after += tally(segments, sounds, own)
        print(
            f"{db:4d} {delay_ms:5d}  {path:12s} {before[0]:5.0f} -> {after[0]:3.0f}"
            f" ({before[1]:5.1f} -> {after[1]:4.1f} s)  {before[2]:4.0f} -> {after[2]:3.0f}"
            f" ({before[3]:5.1f} -> {after[3]:5.1f} s) {before[4]:5.1f} -> {after[4]:4.1f} {cpu_s:7.2f}",
            flush=True,
        )


def shared_calls() -> Iterator[tuple[Path, Path]]:
    for words in sorted((CALLS / "harpervalley").glob("*.jsonl")):
        yield words.with_name(f"{words.stem}_caller.flac"), words.with_name(f"{words.stem}_agent.flac")
    yield CALLS / "auto_repairs_40_caller.flac", CALLS / "auto_repairs_40_agent.flac"


def pair(*files: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    customer, agent = (sound_of(file)[: SECONDS * RATE] for file in files)
    length = max(len(customer), len(agent))
    return np.pad(customer, (0, length - len(customer))), np.pad(agent, (0, length - len(agent)))


def sound_of(file: Path) -> NDArray[np.float64]:
    with av.open(str(file)) as container:
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=RATE)
        blocks = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    return np.concatenate(blocks).astype(np.float64)


def leaked(sound: NDArray[np.float64], db: float, delay_ms: int, path: str) -> NDArray[np.float64]:
    if path == "loudspeaker":
        bands = np.fft.rfft(sound)
        hertz = np.fft.rfftfreq(len(sound), 1 / RATE)
        bands *= 1 / np.sqrt(1 + (300 / np.maximum(hertz, 1)) ** 4) / np.sqrt(1 + (hertz / 3000) ** 4)
        rng = np.random.default_rng(1)
        room = np.zeros(1600)
        room[0] = 1
        at = rng.integers(20, 1600, 30)
        room[at] += rng.normal(size=30) * 0.25 * np.exp(-at / 500)
        sound = np.convolve(np.fft.irfft(bands, len(sound)), room)[: len(sound)]
        top = np.abs(sound).max() / 2 + 1e-9
        sound = top * np.tanh(sound / top)
    late = delay_ms * RATE // 1000
    return np.concatenate([np.zeros(late), sound * 10 ** (db / 20)])[: len(sound)]


def through_line(sound: NDArray[np.float64], path: str) -> PcmN:
    if path == "loudspeaker":  # mu-law
        level = np.clip(np.abs(sound) / 32768, 0, 1)
        steps = np.round(127 * np.log1p(255 * level) / np.log(256)) / 127
        sound = np.sign(sound) * (256**steps - 1) / 255 * 32767
    return np.clip(np.round(sound), -32768, 32767).astype(np.int16)


def cut(sounds: dict[str, PcmN], config: AudioConfig) -> list[SpeechSegment]:
    cutter, segments = CallCutter(TWO, config), []
    for start in range(0, len(sounds["agent"]), RATE):
        for name, sound in sounds.items():
            segments += cutter.push(AudioChunk(name, start, RATE, sound[start : start + RATE]))
    return segments + cutter.flush()


def tally(
    segments: list[SpeechSegment], sounds: dict[str, PcmN], own: dict[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Ghosts, their seconds, true ones, their seconds, and those of echo in them."""
    counts = np.zeros(5)
    half = RATE // 2
    for segment in segments:
        part = slice(segment.start_ms * 16, segment.end_ms * 16)
        spoken = own[segment.channel][part]
        leaked_power = ((sounds[segment.channel][part] - spoken) ** 2).sum()
        ghost = leaked_power > (spoken**2).sum()
        counts[0 if ghost else 2] += 1
        counts[1 if ghost else 3] += (segment.end_ms - segment.start_ms) / 1000
        if not ghost:
            whole = slice(part.start, part.start + (part.stop - part.start) // half * half)
            own_B = (own[segment.channel][whole].reshape(-1, half) ** 2).sum(1)
            all_B = (sounds[segment.channel][whole].astype(float).reshape(-1, half) ** 2).sum(1)
            counts[4] += 0.5 * ((own_B < 0.1 * all_B) & (all_B > half * 30.0**2)).sum()
    return counts


if __name__ == "__main__":
    main()
