"""The synchronous driver of `conversation.py`: one call's sound in, its emotion events out, in this process."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, model_validator

from bcaf_stream.alerts.rules import AlertRules, rules_of
from bcaf_stream.audio.speakers.clustering import Voice
from bcaf_stream.audio.turns import AudioConfig
from bcaf_stream.config import Config
from bcaf_stream.context import Answer, Predict
from bcaf_stream.conversation import Conversation, Result, Step, Work
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import BcafError
from bcaf_stream.events.event import Event
from bcaf_stream.ingest.media import CallEnd
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.transcripts.transcriber import Transcriber
from bcaf_stream.types import AudioChunk, Call, Features, Gap, SpeechSegment, Utterance, Words


class AnalyzerConfig(Config):
    """What decides the events of a call; the same for `analyze` and for a deployment.

    `alerts` is a file of rules, or the rules themselves; see configs/alerts.
    """

    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    alerts: Annotated[AlertRules | None, BeforeValidator(rules_of)] = None

    @model_validator(mode="after")
    def _alerts_fit(self) -> "AnalyzerConfig":
        why = self.alerts and self.alerts.never_fire(self.text.policy)
        if why:
            raise ValueError(f"alerts: {why}")
        return self


class ConversationAnalyzer:
    """Analyses one call: push its audio in any chunks, get its events in order.

    What fails is said in a `degraded` event, and the call goes on.

    Args:
        call: the call and its channels.
        config: thresholds and choices of every stage.
        engine: the loaded weights; several analyzers may share one.
        transcriber: writes the text of a segment; None with a given transcript, or for audio alone.
        words: a transcript known beforehand; None where there is none.
        voices: of those who share a channel, where a first pass has found them.
        clock: unix time in ns, for the `emitted_at` fields.
    """

    def __init__(
        self,
        call: Call,
        config: AnalyzerConfig,
        engine: EmotionEngine,
        transcriber: Transcriber | None = None,
        words: Sequence[Words] | None = None,
        voices: Mapping[str, Sequence[Voice]] = MappingProxyType({}),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._engine = engine
        self._transcriber = transcriber
        self._conversation = Conversation(
            call,
            config.audio,
            config.text,
            engine.model_id,
            engine.modalities,
            recognises=transcriber is not None,
            words=words,
            alerts=config.alerts,
            voices=voices,
            clock=clock,
        )
        self._features: dict[Utterance, Features | BcafError] = {}  # encoded ahead

    @property
    def unpaired_words(self) -> int:
        """Words of the given transcript that fell in no speech segment so far."""
        return self._conversation.unpaired_words

    def push(self, item: AudioChunk | Gap) -> list[Event]:
        """Take the next audio of one channel, or what is missing of it; return the events that it completes.

        Raises:
            SourceError: the channel is unknown, its rate changed, or samples are missing or doubled.
        """
        return self.analyze(self.cut(item))

    def flush(self, reason: str = "complete") -> list[Event]:
        """The audio is over: finish what is open and end the call, saying why."""
        return self._conversation.begin() + self._work_off(self._conversation.push(CallEnd(reason)))

    def cut(self, item: AudioChunk | Gap) -> list[Gap | SpeechSegment]:
        """The first half of `push`; it may run on another thread than the second. Raises as `push`."""
        return self._conversation.cut(item)

    def analyze(self, found: Sequence[Gap | SpeechSegment]) -> list[Event]:
        """The second half of `push`; several segments at once are encoded together."""
        return self._conversation.begin() + self._work_off(self._conversation.take(found))

    def reset(self) -> None:
        """Forget the call: the next push begins it anew."""
        self._conversation.reset()
        self._features.clear()

    def close(self) -> None:
        self._conversation.close()

    def _work_off(self, step: Step) -> list[Event]:
        events, todo = step.events, deque(step.work)
        while todo:  # first come, first served: all words are there before the first utterance is judged
            work = todo.popleft()
            step = self._conversation.done(work, self._do(work))
            events += step.events
            todo += step.work
        return events

    def _do(self, work: Work) -> Result:
        try:
            if isinstance(work, Predict):
                return self._judge(work)
            assert self._transcriber is not None
            return self._transcriber.transcribe(work.segment.samples)
        except BcafError as error:
            return error

    def _judge(self, work: Predict) -> Answer:
        if work.utterance not in self._features:
            self._encode([work.utterance, *self._conversation.upcoming])
        features = self._features.pop(work.utterance)
        if isinstance(features, BcafError):
            raise features
        state = self._engine.initial_state() if work.state is None else work.state
        (prediction,), (state,) = self._engine.step([state], [features])
        return prediction, state

    def _encode(self, utterances: Sequence[Utterance]) -> None:
        try:
            self._features.update(zip(utterances, self._engine.encode(utterances), strict=True))
        except BcafError as error:
            if len(utterances) == 1:
                self._features[utterances[0]] = error
            else:  # one bad utterance must not spoil its neighbours
                for utterance in utterances:
                    self._encode([utterance])
