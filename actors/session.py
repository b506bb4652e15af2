"""One live call inside the IngestActor: media in, events out, strictly in the order of the call.

The session owns what the call is: its segmenters, its words and its dialogue. The engine and the journal are
reached through two awaitables, so the session runs without Ray too.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from actors.history import History
from actors.inbox import Inbox, Item
from actors.line import Line
from actors.liveness import LiveConfig, Liveness
from actors.looks import Looks
from actors.services import Services
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.errors import BcafError, LinkError, TranscriptError
from bcaf_stream.events.messages import Event
from bcaf_stream.events.progress import Progress
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.ingest.link_protocol import WordsMessage
from bcaf_stream.ingest.live import Begin, Degraded, End, Ended, Gap
from bcaf_stream.transcripts.stage import TextStage
from bcaf_stream.types import AudioChunk, Call, SpeechSegment, Utterance

log = logging.getLogger(__name__)

TICK_S = 0.25  # how soon a segment that waits for words is looked at again, when no sound comes


class CallSession:
    """Runs one call from its beginning to its end, over any number of connections.

    Args:
        begin: what the sender said of the call.
        config: the analysis; the same as for `analyze`.
        live: clocks and limits of a running call.
        progress: where the call stood when the process that ran it died; the clock says where it is now.
    """

    def __init__(
        self,
        begin: Begin,
        config: AnalyzerConfig,
        live: LiveConfig,
        services: Services,
        progress: Progress | None = None,
    ) -> None:
        self.call = Call(begin.call, begin.channels)
        self.rate = begin.rate
        self.utterances = 0
        self.inbox = Inbox([channel.name for channel in begin.channels], begin.rate, live.window_ms)
        self.line: Line | None = None  # of its present connection
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._services = services
        self._loop = asyncio.get_running_loop()
        given, overload = begin.text == "given", services.overload
        transcriber = services.transcriber if begin.text == "asr" else None
        text = config.text.for_model(services.modalities)
        self._text = TextStage(self.call, text, transcriber, () if given else None, lambda: overload.asr)
        self._cutter = CallCutter(self.call, config.audio, self._text.precedence)
        self._writer = EventWriter(self.call, services.model_id, policies=self._text.policies)
        self._writing = asyncio.Lock()  # an event has its number and is handed over before the next one has one
        self._history = History(services.predict, config.text.revisable if given else 0)
        self._looks = Looks(live.interim_ms, self._look)
        self._began_s = self._loop.time()
        self._progress, self._begin_ms = progress, 0
        if progress:
            self._resume(progress)
        self._liveness = Liveness(live, self._began_s, self.inbox.received)

    @property
    def lag_ms(self) -> int:
        """How far the analysis is behind a speaker; a sender that is faster than real time is not waited for."""
        since_ms = round((self._loop.time() - self._began_s) * 1000)
        return max(0, min(self.inbox.queued_ms, since_ms + self._begin_ms - self._cutter.progressed_ms))

    def attach(self, begin: Begin, credit: Callable[[int], None] | None = None) -> Line:
        """The call's first connection, or its next one after one was lost.

        Raises:
            LinkError: the call has its connection, or another shape.
        """
        if self.line is None:
            self.line = Line(self, max(self.inbox.received.values()), credit)
            return self.line
        if self._liveness.is_connected:
            raise LinkError(f"call {self.call.id} is running already; choose another --call")
        if (begin.channels, begin.rate) != (self.call.channels, self.rate):
            raise LinkError(f"call {self.call.id} goes on with the channels and the rate that it began with only")
        missed = begin.missed
        if missed is None:
            missed = round(self._liveness.silent_s(self._loop.time()) * self.rate)
        base = max(self.inbox.received.values()) + missed
        self._liveness.connected(self._loop.time())
        for channel, received in self.inbox.received.items():
            if received < base:
                self.put(Gap(channel, received, base, "connection lost"))
        self.line = Line(self, base, credit)
        return self.line

    def put(self, item: Item) -> None:
        """Take something of the call, without waiting.

        Raises:
            LinkError: the call is over, or far more sound came than can be analysed.
        """
        if self.ended.done():
            raise LinkError(f"call {self.call.id} is over here")
        self.inbox.put(item)
        if isinstance(item, AudioChunk | Gap):
            self._liveness.heard(item.channel, self._loop.time())
        else:
            self._liveness.spoke(self._loop.time())

    def lose(self) -> None:
        """The connection is gone."""
        self._liveness.disconnected(self._loop.time())
        self.inbox.wake()

    async def tell(self, reason: str) -> None:
        """Tell the call's subscribers that it is analysed with less than was asked for."""
        await self._publish(lambda: self._writer.degraded(reason))

    async def run(self) -> Ended:
        """Analyse until the sender ends the call or is lost."""
        for channel, policy in self._text.policies.items():
            log.info("audit: call %s: channel %s is analysed with policy %s", self.call.id, channel, policy)
        await self._open()
        reason = await self._consume()
        for segment in self._cutter.flush():
            await self._segment(segment)
        await self._emit(self._text.flush())
        for note in self._cutter.take_notes():
            await self._publish(partial(self._writer.degraded, note))
        await self._looks.close()
        await self._publish(lambda: self._writer.end(reason))
        return Ended(self.utterances, reason)

    async def fail(self, reason: str) -> None:
        """End a call that cannot go on, so that its subscribers are not left waiting."""
        await self._looks.close()
        await self._publish(lambda: self._writer.end(f"failed: {reason}"))

    def close(self) -> None:
        self._cutter.close()
        self._text.close()

    def _resume(self, progress: Progress) -> None:
        self._begin_ms = max(progress.end_ms, (time.time_ns() - progress.started_at) // 1_000_000)
        start = self._begin_ms * self.rate // 1000
        for channel in self.inbox.received:
            self.inbox.received[channel] = start
            self._cutter.resume(channel, progress.utterances[channel], start, self.rate)
        self._writer.resume(progress)

    async def _open(self) -> None:
        if self._progress is None:
            await self._publish(self._writer.start)
            return
        await self.tell("the analysis was interrupted: the context of the dialogue begins anew")
        for channel in self.inbox.received:
            await self._publish(partial(self._lost, channel, self._progress.end_ms))

    def _lost(self, channel: str, since_ms: int) -> Event:
        return self._writer.gap(channel, since_ms, self._begin_ms, "analysis interrupted")

    async def _consume(self) -> str:
        while True:
            match await self._next():
                case AudioChunk() as chunk:
                    await self._sound(chunk)
                case Gap() as gap:
                    await self._gap(gap)
                case WordsMessage() as message:
                    await self._words(message)
                case Degraded(reason):
                    await self.tell(reason)
                case End(reason):
                    return reason
                case None:
                    await self._watch()
                    if self._liveness.is_lost(self._loop.time()):
                        return "sender lost"

    async def _next(self) -> Item | None:
        """What comes next; None when the clock wants to be looked at, which is when nothing else waits."""
        wait_s = self._liveness.wait_s(self._loop.time())
        return await self.inbox.next(min(wait_s, TICK_S) if self._text.pairing.held else wait_s)

    async def _watch(self) -> None:
        if not self.inbox.empty:
            return  # what has come is looked at before what has not
        now_s = self._loop.time()
        for channel in self._liveness.newly_stalled(now_s):
            for segment in self._cutter.stall(channel):
                await self._segment(segment)
        if len(self._liveness.stalled) == len(self.call.channels):
            waited_ms = round(self._liveness.silent_s(now_s) * 1000)
            await self._emit(self._text.advance(self._cutter.progressed_ms + waited_ms))

    async def _words(self, message: WordsMessage) -> None:
        try:
            await self._emit(self._text.push_words(message.words))
        except TranscriptError as error:
            await self.tell(str(error))
        if message.last:
            await self._emit(self._text.end_words())

    async def _sound(self, chunk: AudioChunk) -> None:
        for segment in self._cutter.push(chunk):
            await self._segment(segment)
        await self._emit(self._text.advance(self._cutter.progressed_ms))
        if self._services.overload.interim:
            self._looks.at(self._cutter, chunk.channel)
        self.inbox.done(chunk)
        if self.line:
            self.line.progressed(self._cutter.progressed_ms)

    async def _gap(self, gap: Gap) -> None:
        start_ms, end_ms = (at * 1000 // self.rate for at in (gap.start, gap.end))
        await self._publish(lambda: self._writer.gap(gap.channel, start_ms, end_ms, gap.reason))
        for segment in self._cutter.gap(gap.channel, gap.start, gap.end, self.rate):
            await self._segment(segment)

    async def _segment(self, segment: SpeechSegment) -> None:
        for note in segment.notes:
            await self._publish(partial(self._writer.degraded, note))
        self._looks.closed(segment)
        # Speech recognition takes a good part of a second: on a thread, so that other calls go on.
        utterances = await self._loop.run_in_executor(self._services.executor, self._text.push, segment)
        await self._emit(utterances)

    async def _look(self, segment: SpeechSegment, number: int) -> None:
        """Say what is felt in an utterance that is still going on."""
        utterance = self._text.glance(segment, number)
        if utterance is None:
            return
        try:
            prediction = await self._history.glance(utterance)
        except BcafError as error:
            log.warning("call %s: no interim result: %s", self.call.id, type(error).__name__)
            return
        # Asked under the lock: the final event may have gone out meanwhile.
        await self._publish(
            lambda: None if self._looks.is_closed(utterance) else self._writer.interim(utterance, prediction)
        )

    async def _emit(self, utterances: Sequence[Utterance]) -> None:
        for utterance in utterances:
            await self._judge(utterance)

    async def _judge(self, utterance: Utterance) -> None:
        try:
            prediction = await self._history.judge(utterance)
        except BcafError as error:
            # No guess in place of an answer: the event says that this utterance has none, and why.
            log.warning("call %s: an utterance has no prediction: %s", self.call.id, type(error).__name__)
            reason = _one_line(error)
            await self._publish(lambda: self._writer.degraded(reason, utterance))
            return
        self.utterances += not utterance.revision
        await self._publish(lambda: self._writer.final(utterance, prediction))

    async def _publish(self, write: Callable[[], Event | None]) -> None:
        async with self._writing:
            event = write()
            if event is not None:
                # An event that has its number goes out, even if the call is cancelled meanwhile: no hole is left.
                await asyncio.shield(asyncio.ensure_future(self._services.publish([event])))


def _one_line(error: BaseException) -> str:
    """The message of the original error; Ray wraps it in one whose text is a traceback."""
    return str(getattr(error, "cause", None) or error).splitlines()[-1]
