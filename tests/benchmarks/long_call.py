"""Whether the memory of `analyze` stays flat over a long call: the demo call again and again, on audio alone.

    python -m tests.benchmarks.long_call [HOURS]

Prints the resident memory every ten minutes of stream time; a leak shows as a slope.
"""

import sys
from pathlib import Path

from bcaf_stream.analyzer import AnalyzerConfig, ConversationAnalyzer
from bcaf_stream.demo import CALL
from bcaf_stream.emotion_model import EmotionEngine
from bcaf_stream.recording import Recording
from bcaf_stream.types import AudioChunk


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    recording = Recording.open(str(CALL), {}, {}, "long")
    with recording.chunks() as source:
        chunks = list(source)
    length = max(chunk.start + len(chunk.samples) for chunk in chunks)
    analyzer = ConversationAnalyzer(recording.call, AnalyzerConfig(), EmotionEngine())
    utterances, marks = 0, 0
    for turn in range(int(hours * 3600 * 8000 / length) + 1):
        for chunk in chunks:
            same = AudioChunk(chunk.channel, turn * length + chunk.start, chunk.rate, chunk.samples)
            utterances += sum(event.emotion is not None for event in analyzer.push(same))
        minutes = (turn + 1) * length / 8000 / 60
        if minutes >= marks:
            print(f"{minutes:6.1f} min  {utterances:5d} utterances  {resident_mb():7.1f} MB", flush=True)
            marks += 10


if __name__ == "__main__":
    main()
