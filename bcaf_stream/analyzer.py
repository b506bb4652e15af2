"""THE MAIN PATH: one call's sound in, its emotion events out. Plain Python, one process, no Ray.

    AudioChunk -> CallCutter -> SpeechSegment -> TextStage -> Utterance
               -> EmotionEngine.encode -> Features -> EmotionEngine.step -> EmotionPrediction
               -> EventWriter -> Event

On Ray the same stages stand in actors (`actors/ingest.py`, `actors/emotion.py`) and give the same events.
"""

import time
from collections.abc import Callable, Sequence

from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.config import Config
from bcaf_stream.engine import EmotionEngine, ModelConfig
from bcaf_stream.events.messages import Event
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.transcripts.asr import Transcriber
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.transcripts.stage import TextStage
from bcaf_stream.types import AudioChunk, Call, Gap, SpeechSegment, Utterance, Words


class AnalyzerConfig(Config):
    """What decides the events of a call; the same for `analyze` and for a deployment."""

    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()


class ConversationAnalyzer:
    """Analyses one call: push its audio in any chunks, get its events in order.

    Args:
        call: the call and its channels.
        config: thresholds and choices of every stage.
        engine: the loaded weights; several analyzers may share one.
        transcriber: writes the text of a segment; None with a given transcript, or for audio alone.
        words: a transcript known beforehand; None where there is none.
        clock: unix time in ns, for the `emitted_at` fields.
    """

    def __init__(
        self,
        call: Call,
        config: AnalyzerConfig,
        engine: EmotionEngine,
        transcriber: Transcriber | None = None,
        words: Sequence[Words] | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._call = call
        self._clock = clock
        self._engine = engine
        self._text = TextStage(call, config.text.for_model(engine.modalities), transcriber, words)
        self._cutter = CallCutter(call, config.audio, self._text.precedence)
        self._begin()

    @property
    def unpaired_words(self) -> int:
        """Words of the given transcript that fell in no speech segment so far."""
        return self._text.unpaired

    def push(self, chunk: AudioChunk) -> list[Event]:
        """Take the next audio of one channel; return the events that it completes."""
        return self.analyze(self.cut(chunk))

    def flush(self, reason: str = "complete") -> list[Event]:
        """The audio is over: finish what is open and end the call, saying why."""
        events = self.analyze(self._cutter.flush())
        left = [*self._judge(self._text.flush()), *map(self._writer.degraded, self._cutter.take_notes())]
        return [*events, *left, self._writer.end(reason)]

    def cut(self, item: AudioChunk | Gap) -> list[SpeechSegment]:
        """The first half of `push`; it may run on another thread than the second."""
        if isinstance(item, Gap):
            return self._cutter.gap(item.channel, item.start, item.end, item.rate)
        return self._cutter.push(item)

    def analyze(self, segments: Sequence[SpeechSegment]) -> list[Event]:
        """The second half of `push`."""
        events = self._opening()
        for part in _at_notes(segments):
            events += map(self._writer.degraded, part[0].notes)
            events += self._judge([u for segment in part for u in self._text.push(segment)])
        return events

    def reset(self) -> None:
        """Forget the call: the next push begins it anew."""
        self._cutter.reset()
        self._text.reset()
        self._begin()

    def close(self) -> None:
        self._cutter.close()
        self._text.close()

    def _begin(self) -> None:
        self._writer = EventWriter(self._call, self._engine.model_id, self._clock, self._text.policies)
        self._state = self._engine.initial_state()
        self._started = False

    def _opening(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        return [self._writer.start()]

    def _judge(self, utterances: Sequence[Utterance]) -> list[Event]:
        events = []
        # Encoders gain from a batch; the dialogue itself is one step after the other.
        for utterance, features in zip(utterances, self._engine.encode(utterances), strict=True):
            (prediction,), (self._state,) = self._engine.step([self._state], [features])
            events.append(self._writer.final(utterance, prediction))
        return events


def _at_notes(segments: Sequence[SpeechSegment]) -> list[list[SpeechSegment]]:
    """The segments in parts, each of which begins where something is to be said of the call."""
    parts: list[list[SpeechSegment]] = []
    for segment in segments:
        if segment.notes or not parts:
            parts.append([])
        parts[-1].append(segment)
    return parts
