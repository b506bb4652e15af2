"""Speed and word errors of speech recognition: `python -m tests.benchmarks.asr_speed [--faster-whisper FOLDER]`.

Calls are cut by the project's own voice detection and recognised segment by segment, as in a live call. Word
errors are counted where a transcript is known: the demo call, the 30 s telephone clip with its STM, and the bank
calls of harpervalley, whose sides are files of their own.
"""

import argparse
import re
import time
from pathlib import Path

import numpy as np

from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.transcripts.asr import AsrConfig, load_transcriber
from bcaf_stream.transcripts.sources import read_transcript
from bcaf_stream.transcripts.transcriber import Transcriber
from bcaf_stream.types import SAMPLE_RATE, Call, SpeechSegment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).resolve().parents[2].parent / "shared" / "data"
    )
    parser.add_argument("--whisper", help="a Whisper folder or hub id instead of Moonshine")
    parser.add_argument("--faster-whisper", help="a folder of faster-whisper's instead")
    arguments = parser.parse_args()
    config = AsrConfig()
    for kind in ("whisper", "faster_whisper"):
        if model := getattr(arguments, kind):
            config = AsrConfig(kind=kind, model=model)
    transcriber = load_transcriber(config)
    assert transcriber is not None
    print(transcriber.name)
    print(f"{'call':<24}{'speech s':>9}{'segments':>9}{'x real time':>12}{'slowest s':>10}{'word errors':>14}")
    files = [(CALL, SCRIPT), (arguments.data / "diarized/sample.wav", arguments.data / "diarized/sample.stm")]
    files += [(path, None) for path in sorted((arguments.data / "calls").glob("*.*"))]
    for audio, script in files:
        if audio.exists():
            measure(transcriber, audio, script)
    sides = sorted((arguments.data / "calls" / "harpervalley").glob("*.flac"))
    errors = [measure(transcriber, side, side.with_name(f"{side.stem.split('_')[0]}.jsonl")) for side in sides]
    if sides:
        wrong, total = (sum(one) for one in zip(*errors, strict=True))
        print(f"harpervalley: {wrong} of {total} words, {100 * wrong / total:.1f} %")


def measure(transcriber: Transcriber, audio: Path, script: Path | None) -> tuple[int, int]:
    segments = cut(audio)
    speech = sum(len(segment.samples) for segment in segments) / SAMPLE_RATE
    heard, times = [], []
    for segment in segments:
        began = time.perf_counter()
        heard.append((segment.channel, segment.start_ms, transcriber.transcribe(segment.samples).text))
        times.append(time.perf_counter() - began)
    errors, wrong, total = "", 0, 0
    if script is not None:
        sides: set[str] = {segment.channel for segment in segments}
        if audio.parent.name == "harpervalley":
            side = audio.stem.split("_")[1]
            heard, sides = [(side, *rest) for _, *rest in heard], {side}
        wrong, total = word_errors(heard, script, sides)
        errors = f"{wrong} of {total}"
    pace = sum(times) / speech
    print(f"{audio.name:<24}{speech:>9.1f}{len(segments):>9}{pace:>12.3f}{max(times):>10.2f}{errors:>14}")
    return wrong, total


def cut(audio: Path) -> list[SpeechSegment]:
    with FileSource(str(audio)) as source:
        cutter = CallCutter(Call("benchmark", source.channels))
        return [segment for chunk in source for segment in cutter.push(chunk)] + cutter.flush()


def word_errors(heard: list[tuple[str, int, str]], script: Path, channels: set[str]) -> tuple[int, int]:
    """Per channel where both know it, in order of time; substitutions, insertions and deletions."""
    known = read_transcript(script).words
    sides = channels if channels <= {entry.channel for entry in known} else {None}
    wrong = total = 0
    for side in sides:
        reference = " ".join(w.text for w in sorted(known, key=lambda w: w.start_ms) if side in (None, w.channel))
        hypothesis = " ".join(
            text for channel, _, text in sorted(heard, key=lambda h: h[1]) if side in (None, channel)
        )
        wrong += distance(plain(reference), plain(hypothesis))
        total += len(plain(reference))
    return wrong, total


def plain(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", re.sub(r"\[[a-z]+\]", " ", text.lower()))


def distance(a: list[str], b: list[str]) -> int:
    row = np.arange(len(b) + 1)
    for i, word in enumerate(a, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + [word != other for other in b])
        row = np.concatenate([[i], best])
        for j in range(1, len(row)):
            row[j] = min(row[j], row[j - 1] + 1)
    return int(row[-1])


if __name__ == "__main__":
    main()
