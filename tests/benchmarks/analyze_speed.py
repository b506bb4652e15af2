"""How fast `analyze` is: times real time with ASR and with a given transcript, and the pipeline's own share.

    python -m tests.benchmarks.analyze_speed [CALL.wav TRANSCRIPT]

The bare loop calls the same ASR, encoders and model on the same segments, one after the other. Start-up is left
out. Ratios of one run are comparable; single times on a shared machine are not.
"""

import resource
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.emotion_model import EmotionEngine
from bcaf_stream.recording import Analysis, Recording, TextMode
from bcaf_stream.transcripts.asr import load_transcriber
from bcaf_stream.transcripts.transcriber import Transcriber
from bcaf_stream.types import SpeechSegment, Utterance, Words


def segments_of(recording: Recording, config: AnalyzerConfig) -> list[SpeechSegment]:
    cutter = CallCutter(recording.call, config.audio)
    with recording.chunks() as source:
        found = [segment for chunk in source for segment in cutter.push(chunk)]
    return found + cutter.flush()


def bare(
    segments: list[SpeechSegment], engine: EmotionEngine, asr: Transcriber | None, texts: dict[int, str]
) -> float:
    """Seconds for ASR, encoders and model alone."""
    state, began = engine.initial_state(), time.perf_counter()
    for number, segment in enumerate(segments):
        text = asr.transcribe(segment.samples).text if asr else texts.get(number)
        utterance = Utterance(
            *("bare", segment.channel, "speaker", segment.index, segment.start_ms, segment.end_ms),
            *(segment.samples, text or None, "asr" if asr else "given"),
        )
        _, (state,) = engine.step([state], engine.encode([utterance]))
    return time.perf_counter() - began


def whole(
    recording: Recording, config: AnalyzerConfig, text: TextMode, words: list[Words] | None
) -> tuple[float, list[str | None]]:
    """Seconds for the whole of `analyze` but its start-up, and the texts that were paired."""
    analysis = Analysis(recording, config, text, words)
    began = time.perf_counter()
    events = list(analysis)
    return time.perf_counter() - began, [event.text for event in events if event.emotion]


def main() -> None:
    call, transcript = (Path(sys.argv[1]), Path(sys.argv[2])) if len(sys.argv) == 3 else (CALL, SCRIPT)
    recording = Recording.open(str(call), {}, {}, "bench")
    config = AnalyzerConfig()
    words = recording.transcript(transcript)
    engine = EmotionEngine(config.model)
    asr = load_transcriber(config.text.asr)
    seconds = (recording.duration_ms or 0) / 1000
    segments = segments_of(recording, config)
    whole(recording, config, "asr", None)  # warm

    table = Table(title=f"{call.name}: {seconds:.0f} s, {len(segments)} segments, model {engine.model_id}")
    for column in ("text", "analyze (s)", "x real time", "bare loop (s)", "bare / analyze"):
        table.add_column(column, justify="right")
    cases: list[tuple[TextMode, Transcriber | None, list[Words] | None]]
    cases = [("asr", asr, None), ("given", None, words)]
    for name, recogniser, given in cases:
        runs = []
        for _ in range(3):
            took, texts = whole(recording, config, name, given)
            runs.append((took, bare(segments, engine, recogniser, dict(enumerate(t or "" for t in texts)))))
        took, loop = sorted(runs)[1]
        table.add_row(name, f"{took:.2f}", f"{seconds / took:.1f}", f"{loop:.2f}", f"{loop / took:.2f}")
    console = Console(width=100)
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
