"""One live call inside the IngestActor: messages in, events out, strictly in the order of the call.

The session owns what the call is: its segmenters, its words and its dialogue state. The engine and the
journal are reached through two awaitables, so the session runs without Ray too.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.errors import BcafError, LinkError
from bcaf_stream.events.messages import Event
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.ingest.link import Accepted, Audio, Close, Closed, Credit, Open, Refused, WordsMessage
from bcaf_stream.ingest.link_flow import AudioOrder
from bcaf_stream.model.bcaf import DialogueState
from bcaf_stream.transcripts.asr import Transcriber
from bcaf_stream.transcripts.stage import TextStage
from bcaf_stream.types import AudioChunk, Call, EmotionPrediction, SpeechSegment, Utterance

log = logging.getLogger(__name__)

Answer = tuple[EmotionPrediction, DialogueState]
Reply = Callable[[Accepted | Credit | Closed | Refused], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Broken:
    """The sender broke the protocol: what was heard before is kept, and the call is over."""

    reason: str


Incoming = Audio | WordsMessage | Close | Broken


class Services(Protocol):
    """What a session needs of the house around it."""

    model_id: str

    @property
    def transcriber(self) -> Transcriber | None: ...

    @property
    def executor(self) -> Executor: ...

    def predict(self, state: DialogueState | None, utterance: Utterance) -> Awaitable[Answer]: ...

    def publish(self, events: Sequence[Event]) -> Awaitable[object]: ...


class CallSession:
    """Runs one call from its opening to its end.

    Args:
        opening: what the sender said of the call.
        config: the analysis; the same as for `analyze`.
        window_ms: how far ahead of the analysis the sender may be.
        idle_s: how long to wait for a sender that says nothing.
    """

    def __init__(
        self,
        opening: Open,
        config: AnalyzerConfig,
        services: Services,
        reply: Reply,
        window_ms: int,
        idle_s: float,
    ) -> None:
        self.call = Call(opening.call, opening.channels)
        self._rate = opening.rate
        self._services = services
        self._reply = reply
        self._window_ms = window_ms
        self._idle_s = idle_s
        transcriber = services.transcriber if opening.text == "asr" else None
        self._cutter = CallCutter(self.call, config.audio)
        live_words = () if opening.text == "given" else None
        self._text = TextStage(self.call, config.text, transcriber, live_words)
        self._writer = EventWriter(self.call, services.model_id)
        self._state: DialogueState | None = None
        self._inbox: asyncio.Queue[Incoming] = asyncio.Queue()
        self._order = AudioOrder()
        self.utterances = 0

    @property
    def received_ms(self) -> int:
        return self._order.received * 1000 // self._rate

    @property
    def lag_ms(self) -> int:
        """Stream time that was received and is not yet analysed."""
        return max(0, self.received_ms - self._cutter.progressed_ms)

    def accept(self, message: Audio | WordsMessage | Close) -> None:
        """Take one message without waiting; the credit given bounds what can be queued."""
        try:
            if isinstance(message, Audio):
                if not self._order.accept(message):
                    return  # sent twice
                if self.lag_ms > 2 * self._window_ms:
                    raise LinkError("audio was sent beyond the credit given")
            self._inbox.put_nowait(message)
        except LinkError as error:
            self._inbox.put_nowait(Broken(str(error)))

    async def run(self) -> None:
        """Analyse until the sender closes, breaks the protocol, or is silent for too long."""
        await self._reply(Accepted(self.call.id, self._window_ms))
        await self._services.publish([self._writer.start()])
        last = await self._consume()
        for segment in self._cutter.flush():
            await self._segment(segment)
        await self._emit(self._text.flush())
        reason = last.reason if isinstance(last, Broken) else "complete"
        await self._services.publish([self._writer.end(reason)])
        await self._reply(Refused(reason) if isinstance(last, Broken) else Closed(self.utterances, reason))

    async def fail(self, reason: str) -> None:
        """End a call that cannot go on, so that its subscribers are not left waiting."""
        await self._services.publish([self._writer.end(f"failed: {reason}")])

    def close(self) -> None:
        self._cutter.close()
        self._text.close()

    async def _consume(self) -> Close | Broken:
        while True:
            try:
                message = await asyncio.wait_for(self._inbox.get(), self._idle_s)
            except TimeoutError:
                return Broken("sender lost")
            match message:
                case Close() | Broken():
                    return message
                case WordsMessage(words=words, last=last):
                    await self._emit(self._text.push_words(words))
                    if last:
                        await self._emit(self._text.end_words())
                case Audio():
                    await self._audio(message)

    async def _audio(self, message: Audio) -> None:
        for column, channel in enumerate(self.call.channels):
            samples = np.ascontiguousarray(message.samples_NC[:, column])
            chunk = AudioChunk(channel.name, message.start, self._rate, samples, message.received_at)
            for segment in self._cutter.push(chunk):
                await self._segment(segment)
        await self._emit(self._text.advance(self._cutter.progressed_ms))
        await self._reply(Credit(self._cutter.progressed_ms + self._window_ms))

    async def _segment(self, segment: SpeechSegment) -> None:
        # Speech recognition takes a good part of a second: on a thread, so that other calls go on.
        loop = asyncio.get_running_loop()
        await self._emit(await loop.run_in_executor(self._services.executor, self._text.push, segment))

    async def _emit(self, utterances: Sequence[Utterance]) -> None:
        for utterance in utterances:
            try:
                prediction, self._state = await self._services.predict(self._state, utterance)
            except BcafError as error:
                # No guess in place of an answer: the event says that this utterance has none, and why.
                log.warning("call %s: an utterance has no prediction: %s", self.call.id, type(error).__name__)
                await self._services.publish([self._writer.degraded(_one_line(error), utterance)])
                continue
            self.utterances += 1
            await self._services.publish([self._writer.final(utterance, prediction)])


def _one_line(error: BaseException) -> str:
    """The message of the original error; Ray wraps it in one whose text is a traceback."""
    return str(getattr(error, "cause", None) or error).splitlines()[-1]
