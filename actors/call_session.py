"""The asyncio driver of `bcaf_stream/conversation.py`: one live call, its media in, its events out.

It keeps the clocks, does the work that the conversation asks for, hands its events over, and tells the sender how
far it may go on. What is decided of a call is decided in the conversation.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from actors import tracing
from actors.call_connection import CallConnection, Inbox, Item, words_in
from actors.load_shedding import Lags, LoadShedding
from actors.outbox import Mark, Outbox
from actors.services import CallRuntime
from actors.watchdog import LiveConfig, Watchdog
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.context import Predict
from bcaf_stream.conversation import Conversation, Cuttable, Result, Stall, Step, Work
from bcaf_stream.display import printable
from bcaf_stream.errors import BcafError, DeploymentError, LinkError, SupersededError
from bcaf_stream.events.owners import Claim
from bcaf_stream.events.progress import Progress
from bcaf_stream.evidence import CallRecorder
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart, TextUpdate
from bcaf_stream.loops import spawn_task
from bcaf_stream.resumption import Resumption, resend_from_ms
from bcaf_stream.transcripts.stage import Transcribe
from bcaf_stream.types import AudioChunk, Call, Gap

log = logging.getLogger(__name__)

TICK_S = 0.25  # how often the clock is looked at, when nothing comes
STOOD_STILL_S = 0.75  # without a look at the clock: then this process did not run
FAIL_S = 15.0  # for the last events of a call that failed
MOST_WAITING = 500  # events for the hub, and utterances for the model: beyond it nothing more is taken


class CallSession:
    """Runs one call from its beginning to its end, over any number of connections.

    Args:
        begin: what the sender said of the call.
        config: the analysis; the same as for `analyze`.
        live: clocks and limits of a running call.
        shedding: what is left out now, for all calls.
        claim: by what right it is run here, and where it stood when the process that ran it before let go of it.
        recorder: keeps its sound, where somebody wants that.
    """

    def __init__(
        self,
        begin: CallStart,
        config: AnalyzerConfig,
        live: LiveConfig,
        runtime: CallRuntime,
        shedding: LoadShedding,
        claim: Claim,
        recorder: CallRecorder | None = None,
    ) -> None:
        self.call = Call(begin.call, begin.channels, begin.protocol)
        self.rate, self.sender, self.source = begin.rate, begin.sender, begin.source
        self.connection: CallConnection | None = None  # its present one
        self.room = asyncio.Event()
        self.room.set()
        self.inbox = Inbox([channel.name for channel in begin.channels], begin.rate)
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[CallOutcome] = self._loop.create_future()
        self._live, self._runtime, self._shedding = live, runtime, shedding
        self._recorder = recorder
        self._most_words = config.text.max_words
        self._recognition = runtime.recognition if begin.text == "asr" else None
        self.epoch = claim.epoch
        resumption = self._resumption(begin, claim.progress) if claim.progress else None
        self._begin_ms = resumption.begin * 1000 // self.rate if resumption else 0
        self.conversation = Conversation(
            self.call,
            config.audio,
            config.text,
            runtime.model_id,
            runtime.modalities,
            recognises=self._recognition is not None,
            words=() if begin.text == "given" else None,
            interim_ms=live.interim_ms,
            resumption=resumption,
            alerts=config.alerts,
        )
        self._outbox = Outbox(partial(runtime.publish, epoch=claim.epoch), self._moved)
        self._asked_s: dict[Work, float] = {}  # when the work was asked for that is not done
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: Exception | None = None  # that nobody thought of
        self._leaving = False  # another process goes on when what was heard here is published
        self._news = asyncio.Event()  # some work is done, or events are safe
        self._results = 0  # pieces of work that are done
        self._stand: object = None  # what was done when this was last looked at, and since when that stands
        self._stand_s = self._looked_s = 0.0
        self._began_s = self._seen_s = self._loop.time()
        self._free_s = self._began_s  # since when nothing but the sound itself is in the way of taking it
        self._watchdog = Watchdog(live, self._began_s, self.inbox.received, begin.sender is not None)

    # Its sender

    def attach(self, begin: CallStart, credit: Callable[[int], None] | None = None) -> CallConnection:
        """The call's first connection, or its next one after one was lost.

        Raises:
            LinkError: the call has its connection, another shape, or other sound.
        """
        received, base = max(self.inbox.received.values()), 0
        if self.connection is not None:
            self.check_same(begin)
            self.sender = begin.sender
        if begin.earliest is not None:
            base = max(received, begin.earliest)
        elif self.connection is None:
            base = received
        elif begin.missed is not None:
            base = received + begin.missed
        else:
            base = received + round(self._watchdog.silent_s(self._now_s()) * self.rate)
        self._watchdog.connected(self._now_s())
        for channel, upto in self.inbox.received.items():
            if upto < base:
                self.put(Gap(channel, upto, base, "connection lost", self.rate))
        origin = (base, 0) if begin.earliest is None else (0, base)  # who resumes counts the call's samples
        self.connection = CallConnection(self, *origin, credit)
        return self.connection

    def put(self, item: Item) -> None:
        """Take something of the call, without waiting.

        Raises:
            LinkError: the call is over, or far more came than can be analysed.
        """
        if self.ended.done():
            raise LinkError(f"call {self.call.id} is over here")
        if isinstance(item, TextUpdate):
            waiting = self.conversation.pending_words + self.inbox.words
            if waiting + words_in(item) > self._most_words:
                raise LinkError(f"more than {self._most_words} words wait for their sound: send them nearer to it")
        self.inbox.put(item)
        if isinstance(item, AudioChunk | Gap):
            self._watchdog.heard(item.channel, self._loop.time())
        else:
            self._watchdog.spoke(self._loop.time())
        self._see_room()

    def check_same(self, begin: CallStart) -> None:
        """Raises LinkError where this is no return of the call's sender."""
        comes_back = begin.resume is not None and begin.sender == self.sender  # before its loss has been noticed
        if self._watchdog.is_connected and not comes_back:
            raise LinkError(f"call {self.call.id} is running already")
        if (begin.channels, begin.rate) != (self.call.channels, self.rate):
            raise LinkError(f"call {self.call.id} goes on with the channels and the rate that it began with only")
        if begin.source != self.source and begin.sender != self.sender:
            raise LinkError(
                f"call {self.call.id} waits for its lost sender, and this is other sound: give it another name"
            )

    def lose(self) -> None:
        """The connection is gone."""
        self._watchdog.disconnected(self._now_s())
        self.inbox.wake()

    def leave(self, finish: bool) -> None:
        """Another process goes on with the call. It has no end here.

        With `finish`, what was heard is analysed and published first: for a sender that cannot send it again.
        """
        if self.ended.done() or self._leaving:
            return
        if finish:
            self._leaving = True
            self.inbox.put(CallEnd(""))
        else:
            self._error = SupersededError("the call goes on at another process")
            self._news.set()
            self.inbox.wake()

    @property
    def settled_ms(self) -> int:
        """Stream time before which no sound will be asked for again, whatever dies."""
        return max(0, self._outbox.safe.unsettled_ms - round(self._live.rebuild_s * 1000))

    # Its load

    @property
    def lags(self) -> Lags:
        """How far each stage is behind the speaker; a sender faster than real time is not waited for."""
        now_s = self._loop.time()
        spoken_ms = round((now_s - self._began_s) * 1000) + self._begin_ms
        oldest: dict[bool, int] = defaultdict(int)
        for work, asked_s in self._asked_s.items():
            if isinstance(work, Transcribe) and work.again:
                continue  # it was late before
            segment = work.segment if isinstance(work, Transcribe) else work.utterance
            behind_ms = min(round((now_s - asked_s) * 1000), spoken_ms - segment.end_ms)
            oldest[isinstance(work, Transcribe)] = max(oldest[isinstance(work, Transcribe)], behind_ms)
        free_ms = 0 if self._is_full else round((now_s - self._free_s) * 1000)
        sound_ms = min(self.inbox.queued_ms, spoken_ms - self.conversation.heard_ms, free_ms)
        hub_ms = 0 if self._outbox.since_s is None else round((now_s - self._outbox.since_s) * 1000)
        return Lags(max(0, sound_ms), oldest[True], oldest[False], hub_ms)

    def tell(self, reason: str) -> None:
        """Tell the call's subscribers that it is analysed with less than was asked for."""
        self._outbox.put(self.conversation.tell(reason), self._mark)

    def catch_up(self) -> bool:
        """There is time for an utterance that was shed; whether there is one."""
        step = self.conversation.catch_up()
        self._take(step)
        return bool(step.work)

    # Its course

    async def run(self) -> CallOutcome:
        """Analyse until the sender ends the call or is lost, and until all of it is published.

        Raises:
            Exception: what broke in it, whatever it is; or the error for which the hub did not take events.
        """
        for channel, policy in self.conversation.policies.items():
            log.info(
                "audit: call %s: channel %s is analysed with policy %s",
                *map(printable, (self.call.id, channel, policy)),
            )
        self._outbox.put(self.conversation.begin(), self._mark)
        reason = await self._consume()
        await self._push(CallEnd(reason))
        await self._finish()
        if self._leaving:
            raise SupersededError("the call goes on at another process")
        return CallOutcome(self.conversation.utterances, reason)

    async def fail(self, reason: str, ends: str) -> None:
        """End a call that cannot go on, in bounded time, so that its subscribers are not left waiting."""
        self._outbox.put(self.conversation.give_up(reason, ends), self._mark)
        if not await self._outbox.flush(FAIL_S):
            log.error(
                "call %s: the hub did not take its last %d events", printable(self.call.id), len(self._outbox)
            )

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._recorder:
            self._recorder.close()
        self.conversation.close()

    async def _consume(self) -> str:
        while True:
            await self._wait_for_room()
            wait_s = self._watchdog.wait_s(self._now_s())
            item = await self.inbox.next(min(wait_s, TICK_S))
            self._check()
            if isinstance(item, CallEnd):
                return item.reason
            if item is not None:
                await self._push(item)
                if self._recorder:
                    self._recorder.push(item)
            else:
                await self._watch()
                if self._watchdog.is_lost(self._now_s()):
                    return "sender lost"

    async def _push(self, item: Item | Stall) -> None:
        found = None
        if self.conversation.cuts_long and isinstance(item, Cuttable):
            found = await self._loop.run_in_executor(self._runtime.cutting, self.conversation.cut, item)
        self._take(self.conversation.push(item, found))

    async def _watch(self) -> None:
        now_s = self._now_s()
        if not self.inbox.empty:
            return  # what has come is looked at before what has not
        for channel in self._watchdog.newly_stalled(now_s):
            await self._push(Stall(channel))
        if self.conversation.waits_for_words and len(self._watchdog.stalled) == len(self.call.channels):
            waited_ms = round(self._watchdog.silent_s(now_s) * 1000)
            self._take(self.conversation.advance(self.conversation.heard_ms + waited_ms))

    async def _finish(self) -> None:
        """Wait for the last results."""
        while not self.conversation.ended or not self._outbox.is_empty:
            await self._wait_for_news()

    async def _wait_for_room(self) -> None:
        while self._is_full:
            self._now_s()
            await self._wait_for_news()
            self._free_s = self._loop.time()

    async def _wait_for_news(self) -> None:
        """Wait until some work is done, or a tick is over.

        Raises:
            DeploymentError: nothing has been done for `finish_s`: whoever does the work hangs.
        """
        self._check()
        stand = (self._results, len(self._outbox), self._outbox.safe)
        now_s = self._loop.time()
        if stand != self._stand or now_s - self._looked_s > STOOD_STILL_S:
            self._stand, self._stand_s = stand, now_s
        self._looked_s = now_s
        if now_s - self._stand_s > self._live.finish_s:
            raise DeploymentError(f"no result has come for {self._live.finish_s:g} s; see bcaf-serve status")
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await self._news.wait()

    # Its work

    def _take(self, step: Step) -> None:
        """Hand over the events and start the work."""
        for work in step.work:
            self._asked_s[work] = self._loop.time()
            task = spawn_task("work of a call", self._do(work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        events = [event for event in step.events if not (self._leaving and event.type == "call.end")]
        self._outbox.put(events, self._mark)

    async def _do(self, work: Work) -> None:
        try:
            result = await self._result(work)
            del self._asked_s[work]
            self._results += 1
            self._take(self.conversation.done(work, result))
        except Exception as error:
            self._error = error
            raise
        finally:
            self._news.set()

    async def _result(self, work: Work) -> Result:
        try:
            if isinstance(work, Predict):
                if work.preview and not self._shedding.interim:
                    return None
                with tracing.stage("emotion", self._traced(work)):
                    return await self._runtime.predict(work.state, work.utterance, not work.preview)
            assert self._recognition is not None
            with tracing.stage("recognition", self._traced(work)):
                return await self._recognition.transcribe(
                    work.segment.samples, lambda: self._shedding.recognition, work.again
                )
        except BcafError as error:
            return _unwrapped(error)

    def _traced(self, work: Work) -> list[tracing.Subject]:
        if not tracing.is_on():
            return []
        what = work.segment if isinstance(work, Transcribe) else work.utterance
        return [tracing.Subject(self.call.id, what.channel, what.index)]

    def _check(self) -> None:
        """Raise what broke in the background."""
        error = self._error or self._outbox.error
        if error is not None:
            raise error

    # Its clocks and limits

    @property
    def _mark(self) -> Mark:
        return Mark(self.conversation.analysed_ms, self.conversation.unsettled_ms)

    @property
    def _backlog_ms(self) -> int:
        """Sound that is cut and not analysed, or whose events are not safe."""
        return self.conversation.heard_ms - self._outbox.safe.analysed_ms

    @property
    def _is_full(self) -> bool:
        waiting = max(len(self._outbox), self.conversation.waiting)
        return self._backlog_ms > self._live.window_ms or waiting > MOST_WAITING

    def _see_room(self) -> None:
        if self.inbox.queued_ms + max(0, self._backlog_ms) > self._live.window_ms:
            self.room.clear()
        else:
            self.room.set()

    def _moved(self) -> None:
        """Events are safe, or nothing is left to do for a while: the sender may go on."""
        self._news.set()
        self._see_room()
        if self.connection:
            self.connection.progressed(self._outbox.safe.analysed_ms)

    def _now_s(self) -> float:
        """The clock. The time in which it was us who stood still, or kept the sender waiting, does not count."""
        now_s = self._loop.time()
        passed_s, self._seen_s = now_s - self._seen_s, now_s
        if passed_s > STOOD_STILL_S:
            self._free_s = now_s
            self._watchdog.excuse(passed_s - TICK_S)
        elif self.inbox.queued_ms + self._backlog_ms > self._live.window_ms // 2:
            self._watchdog.excuse(passed_s)
        return now_s

    def _resumption(self, begin: CallStart, progress: Progress) -> Resumption:
        resent = begin.earliest is not None and not progress.damaged
        if begin.earliest is not None:
            rebuild_ms = round(self._live.rebuild_s * 1000)
            wanted_ms = resend_from_ms(progress, rebuild_ms) if resent else progress.end_ms
            start = max(begin.earliest, wanted_ms * self.rate // 1000)
        else:
            passed_ms = (time.time_ns() - progress.started_at) // 1_000_000
            start = max(progress.end_ms, passed_ms) * self.rate // 1000
        for channel in self.inbox.received:
            self.inbox.received[channel] = start
        return Resumption(progress, start, self.rate, resent)


def _unwrapped(error: BcafError) -> BcafError:
    """The original error; Ray wraps it in one whose text is a traceback."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BcafError) else error
