"""How much of the speech the segments cover, and how much of what they keep is no speech.

    python -m tests.benchmarks.vad_coverage [--robust] [--set segmenter.hangover_ms=300 ...] [FOLDER]

FOLDER holds recordings beside RTTM files with their speech turns. Overlapping turns count once. `--robust`
adds the same recordings as telephone (8 kHz), at a quarter and at three times their level, and in noise.
Then follow the lengths of the segments in ms, and the speed of each stage by processor time on one core.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bcaf_stream.audio.resample import Resampler
from bcaf_stream.audio.segmenter import Segmenter
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.audio.vad import VoiceActivityDetector
from bcaf_stream.config import load_config
from bcaf_stream.types import SAMPLE_RATE, AudioChunk, Call, Channel, PcmN

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "diarized"
MODES = ("webrtc", "silero", "confirmed")
GRID_MS = 10

Mask = NDArray[np.bool_]


def recordings(folder: Path) -> Iterator[tuple[str, PcmN, Mask]]:
    """Name, sound at SAMPLE_RATE and the union of the reference's speech turns on a grid of GRID_MS."""
    turns = defaultdict(list)
    for rttm in sorted(folder.glob("*.rttm")):
        for line in rttm.read_text().splitlines():
            field = line.split()
            turns[field[1]].append((float(field[3]), float(field[3]) + float(field[4])))
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".wav", ".flac")):
        name = next(n for n in sorted(turns) if path.stem.endswith(n))
        sound = decode(path)
        spoken = np.zeros(len(sound) * 1000 // SAMPLE_RATE // GRID_MS, bool)
        for begin, end in turns[name]:
            spoken[round(begin * 1000 / GRID_MS) : round(end * 1000 / GRID_MS)] = True
        yield path.stem, sound, spoken


def decode(path: Path) -> PcmN:
    to_mono = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        frames = [f for frame in container.decode(audio=0) for f in to_mono.resample(frame)]
    return np.concatenate([f.to_ndarray()[0] for f in frames + to_mono.resample(None)])


def variants(sound: PcmN, spoken: Mask) -> Iterator[tuple[str, PcmN, int]]:
    """The recording as others may have made it: name, sound, rate."""
    to_8k = av.AudioResampler(format="s16", layout="mono", rate=8000)
    frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    narrow = np.concatenate([f.to_ndarray()[0] for f in to_8k.resample(frame) + to_8k.resample(None)])
    wide = sound.astype(np.float64)
    voiced = np.repeat(spoken, GRID_MS * SAMPLE_RATE // 1000)
    level = np.sqrt(np.mean(wide[: len(voiced)][voiced] ** 2))
    noise = np.random.default_rng(0).normal(0, level * 10 ** (-15 / 20), len(sound))
    yield "telephone", narrow, 8000
    yield "quiet", (wide / 4).astype(np.int16), SAMPLE_RATE
    yield "loud", np.clip(wide * 3, -32768, 32767).astype(np.int16), SAMPLE_RATE
    yield "noise 15 dB", np.clip(wide + noise, -32768, 32767).astype(np.int16), SAMPLE_RATE


def kept_by(config: AudioConfig, sound: PcmN, rate: int, length: int) -> tuple[Mask, list[int]]:
    """What the segments keep, on the grid, and their lengths in ms."""
    # A channel of one party: where there is speech is measured, not who speaks
    cutter = CallCutter(Call("benchmark", (Channel("c", "customer"),)), config)
    segments = cutter.push(AudioChunk("c", 0, rate, sound)) + cutter.flush()
    kept = np.zeros(length, bool)
    for segment in segments:
        kept[segment.start_ms // GRID_MS : segment.end_ms // GRID_MS] = True
    return kept, [s.end_ms - s.start_ms for s in segments]


def shares(kept: Mask, spoken: Mask) -> tuple[float, float]:
    """Covered share of the speech, and share of what is kept that is no speech."""
    return float(kept[spoken].mean()), float((~spoken[kept]).mean()) if kept.any() else 0.0


def score(
    config: AudioConfig, folder: Path = DATA, robust: bool = False
) -> dict[str, dict[str, tuple[float, float]]]:
    """Shares by variant and recording; the recording `pooled` is all of them together."""
    results: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    masks: dict[str, list[tuple[Mask, Mask]]] = defaultdict(list)
    for name, sound, spoken in recordings(folder):
        for variant, changed, rate in [
            ("as it is", sound, SAMPLE_RATE),
            *(variants(sound, spoken) if robust else ()),
        ]:
            kept, _ = kept_by(config, changed, rate, len(spoken))
            results[variant][name] = shares(kept, spoken)
            masks[variant].append((kept, spoken))
    for variant, pairs in masks.items():
        results[variant]["pooled"] = shares(*(np.concatenate(m) for m in zip(*pairs, strict=True)))
    return results


def speed(config: AudioConfig, sound: PcmN, rate: int = 8000) -> dict[str, float]:
    """Times faster than real time of each stage and of all together, for 100 ms chunks at `rate`."""
    block = rate // 10
    chunks = [AudioChunk("c", i, rate, sound[i : i + block]) for i in range(0, len(sound), block)]
    resampler, vad, segmenter = (
        Resampler(rate),
        VoiceActivityDetector(config.vad),
        Segmenter("c", config.segmenter),
    )
    times = []
    begin = time.process_time()
    wide = [out for chunk in chunks for out in resampler.push(chunk)]
    times.append(time.process_time())
    frames = [vad.push(chunk.samples) for chunk in wide]
    times.append(time.process_time())
    for block_frames in frames:
        segmenter.push(block_frames)
    times.append(time.process_time())
    seconds = np.diff([begin, *times])
    stages = dict(zip(("resample", "vad", "segmenter"), len(sound) / rate / seconds, strict=True))
    return stages | {"all": len(sound) / rate / seconds.sum()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA)
    parser.add_argument("--robust", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    console = Console(width=150)
    configs = {m: load_config(AudioConfig, None, [*options.overrides, f"vad.mode={m}"]) for m in MODES}
    results = {mode: score(config, options.folder, options.robust) for mode, config in configs.items()}
    for variant, by_name in results["confirmed"].items():
        table = Table("recording", *(f"{m}: covered / not speech" for m in MODES), title=variant)
        for name in by_name:
            pairs = (results[mode][variant][name] for mode in MODES)
            table.add_row(name, *(f"{100 * covered:5.1f} % / {100 * false:4.1f} %" for covered, false in pairs))
        console.print(table)
    for name, sound, spoken in recordings(options.folder):
        console.print(name, sorted(kept_by(configs["confirmed"], sound, SAMPLE_RATE, len(spoken))[1]))
    everything = np.concatenate([sound for _, sound, _ in recordings(options.folder)])
    for mode, config in configs.items():
        stages = speed(config, everything[::2])
        console.print(f"x real time, 8 kHz, {mode}:", {stage: round(times) for stage, times in stages.items()})


if __name__ == "__main__":
    main()
