"""The running calls of one process, behind all of its servers: who may begin one, and what is shed under load."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from actors import metrics
from actors.call_connection import CallConnection, FinishedCall
from actors.call_session import CallSession
from actors.config import IngestConfig
from actors.load_shedding import Lags, LoadShedding
from actors.services import CallRuntime
from actors.sound_recording import SoundRecording
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.audio.speakers.config import load_networks, speakers_of, with_voices
from bcaf_stream.display import printable
from bcaf_stream.errors import BcafError, BusyError, CheckpointError, JournalError, LinkError, SupersededError
from bcaf_stream.events.owners import Claim
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart, TextUpdate
from bcaf_stream.loops import faults, spawn_task
from bcaf_stream.types import Call, Role

log = logging.getLogger(__name__)

LOOK_S = 0.25  # how often the lag is looked at
DRAIN_S = 7.0  # for what was heard of the running calls, when the deployment goes down
GOING_DOWN = "the deployment is going down"
ELSEWHERE = "busy: the call goes on at another process"  # to a sender of our own: look there


class CallRegistry:
    """The `CallSink` of the ingest servers (see bcaf_stream.ingest.sink)."""

    def __init__(
        self,
        analyzer: AnalyzerConfig,
        config: IngestConfig,
        runtime: CallRuntime,
        recording: SoundRecording | None = None,
    ) -> None:
        self._recording = recording
        self._analyzer, self._config, self._runtime = analyzer, config, runtime
        self.shedding = LoadShedding(config.overload)
        self._sessions: dict[str, CallSession] = {}
        self._opening: set[str] = set()  # calls of which the journal is asked
        self._closing: set[str] = set()  # calls that are being ended, because nobody went on with them
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self.hands_over = False  # True: calls go on at another process, and none comes here
        self.takes_new = True  # False: running calls go on and end naturally, no other begins
        self.finished = self.failed = self.busy = self.refused_words = self.handed_over = 0

    async def open(
        self,
        begin: CallStart,
        credit: Callable[[int], None] | None = None,
        analyzer: AnalyzerConfig | None = None,
    ) -> CallConnection | FinishedCall:
        try:
            connection = await self._open(begin, credit, analyzer or self._analyzer)
        except BusyError:
            metrics.refused.labels("busy").inc()
            raise
        except LinkError:
            metrics.refused.labels("does not fit").inc()
            raise
        if isinstance(connection, CallConnection):
            connection.counted = metrics.audio.labels(begin.protocol), metrics.audio_gap.labels(begin.protocol)
        return connection

    async def _open(
        self, begin: CallStart, credit: Callable[[int], None] | None, analyzer: AnalyzerConfig
    ) -> CallConnection | FinishedCall:
        session = self._sessions.get(begin.call)
        if session is not None:
            return session.attach(begin, credit)
        if self.hands_over:
            self.busy += 1
            raise BusyError("busy: this process hands its calls over; go on at another one")
        self._check_new(begin)
        self._opening.add(begin.call)  # counted before anything is waited for
        try:
            if speakers_of(analyzer.audio.speakers, begin.channels):
                await self._load_networks()
            claim = await self._claim(begin)
            try:
                return self._begin(begin, credit, claim, analyzer)
            except BaseException:
                self._runtime.release(begin.call, claim.epoch)
                raise
        finally:
            self._opening.discard(begin.call)

    def _begin(
        self,
        begin: CallStart,
        credit: Callable[[int], None] | None,
        claim: Claim,
        analyzer: AnalyzerConfig,
    ) -> CallConnection | FinishedCall:
        progress = claim.progress
        if self._is_draining:
            raise BusyError(f"busy: {GOING_DOWN}")
        if progress is None and not self.takes_new:  # one that the journal knows has begun, and may go on
            self.busy += 1
            raise BusyError("busy: the deployment is draining and takes no new calls")
        if progress and progress.ended and begin.resume is not None:
            self._runtime.release(begin.call, claim.epoch)
            return FinishedCall(begin.call, CallOutcome(progress.finals, progress.reason or ""))
        if (progress and progress.ended) or begin.call in self._closing:
            raise LinkError(f"call {begin.call} is over, and in the journal already")
        return self._start(begin, credit, claim, analyzer)

    def behind(self, protocol: str, enrol: Mapping[Role, Path] = MappingProxyType({})) -> "ServedCalls":
        """The same for one server, whose sound is counted as that of its protocol; `enrol` are voices it knows."""
        return ServedCalls(self, protocol, _with_voices(self._analyzer, enrol))

    async def words(self, call: str, message: TextUpdate) -> None:
        if call in self._sessions:
            self.take_words(call, message)
        else:
            await self._runtime.forward(call, message)

    def take_words(self, call: str, message: TextUpdate) -> None:
        """Give words to a call of this process; raises LinkError where there is none, or it takes none."""
        if call not in self._sessions:
            raise LinkError("no such call is running: begin its audio first, with text: given")
        try:
            self._sessions[call].put(message)
        except LinkError:
            self.refused_words += 1
            raise

    async def monitor_load(self) -> None:
        """Follow the lag for ever: shed work in the stated order, and do it later when there is time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            for step in self.shedding.look(self.lags, loop.time()):
                log.warning("overload: %s until it is over", step)
                for session in self._sessions.values():
                    session.tell(f"overload: {step}")
            recognition = self._runtime.recognition
            if self.shedding.level == 0 and recognition and not recognition.waiting:
                any(session.catch_up() for session in self._sessions.values())  # one at a time: others may speak

    @property
    def lags(self) -> Lags:
        lags = Lags()
        for session in self._sessions.values():
            lags = lags.longest(session.lags)
        return lags

    def look(self) -> None:
        """Set the gauges."""
        metrics.calls_active.set(len(self._sessions))
        recognition = self._runtime.recognition
        metrics.queue_depth.labels("recognition").set(recognition.waiting if recognition else 0)

    def stats(self) -> dict[str, Any]:
        lags = self.lags
        return {
            "calls": len(self._sessions),
            "finished": self.finished,
            "failed": self.failed,
            "busy": self.busy,
            "lag_ms": max(lags),
            "lags_ms": lags._asdict(),
            "overload": self.shedding.level,
            "shed": self.shedding.taken,
            "refused_words": self.refused_words,
            **({"handed_over": self.handed_over} if self.handed_over else {}),
        }

    async def drain(self, timeout_s: float = DRAIN_S) -> None:
        """Let the running calls end at once, with what was heard of them; in bounded time."""
        self._is_draining = True
        for session in self._sessions.values():
            if not session.ended.done():
                session.put(CallEnd(GOING_DOWN))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close_orphans(self, names: Sequence[str]) -> None:
        """End the calls that a dead process has left open, unless somebody has gone on with them."""
        for name in names:
            if name in self._sessions or name in self._opening:
                continue
            self._closing.add(name)
            try:
                claim = await self._runtime.claim_orphan(name)
                if claim is None:
                    continue
                if claim.progress and not claim.progress.ended and name not in self._sessions:
                    writer = EventWriter(Call(name, ()), self._runtime.model_id)
                    writer.resume(claim.progress)
                    await self._runtime.publish([writer.end("sender lost")], claim.epoch)
                self._runtime.release(name, claim.epoch)
            except SupersededError:
                pass  # its sender has come back elsewhere
            except JournalError as error:  # of this call: the others are ended all the same
                faults.count("ending an orphaned call", error)
            finally:
                self._closing.discard(name)

    async def let_go(self, begin: CallStart) -> None:
        """Another process goes on with a call, for its sender is there; nothing more is published here then.

        Raises:
            LinkError: it is another sender, or the call is being opened or ended here.
        """
        session = self._sessions.get(begin.call)
        if session is not None:
            session.check_same(begin)
            session.leave(finish=begin.earliest is None)
            await asyncio.shield(session.ended)
        elif begin.call in self._opening or begin.call in self._closing:
            raise LinkError(f"call {begin.call} is running already")

    def hand_over(self, wanted: bool) -> None:
        """Take no call any more, and let go of those whose senders can send again; the others end here."""
        self.hands_over = wanted
        for session in self._sessions.values():
            if wanted and session.sender is not None:
                session.leave(finish=False)

    def lost(self, call: str) -> None:
        """The call is another process's by now: nothing of it is published here any more."""
        if call in self._sessions:
            self._sessions[call].leave(finish=False)

    def _check_new(self, begin: CallStart) -> None:
        if begin.call in self._opening:
            raise LinkError(f"call {begin.call} is running already")
        if len(self._sessions) + len(self._opening) >= self._config.max_calls:
            self.busy += 1
            raise BusyError(f"busy: {self._config.max_calls} calls are running; try again later")
        if not self.shedding.new_calls:
            self.busy += 1
            raise BusyError("busy: the running calls are all that can be analysed; try again later")
        if begin.text == "asr" and self._runtime.recognition is None:
            raise LinkError(
                "this deployment has no speech recognition: the call must bring its words, or need none"
            )

    async def _load_networks(self) -> None:
        """Other calls go on meanwhile."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._runtime.cutting, load_networks)
        except CheckpointError as error:
            raise LinkError(str(error)) from None

    async def _claim(self, begin: CallStart) -> Claim:
        try:
            return await self._runtime.claim(begin)
        except LinkError:
            raise
        except BcafError as error:  # of this call alone
            faults.count("opening a call", error)
            raise LinkError(
                f"call {begin.call}: its events in the journal cannot be read: it needs another name"
            ) from None

    def _start(
        self,
        begin: CallStart,
        credit: Callable[[int], None] | None,
        claim: Claim,
        analyzer: AnalyzerConfig,
    ) -> CallConnection:
        recorder = self._recording.of(Call(begin.call, begin.channels)) if self._recording else None
        session = CallSession(begin, analyzer, self._config.live, self._runtime, self.shedding, claim, recorder)
        connection = session.attach(begin, credit)
        self._sessions[begin.call] = session
        task = spawn_task("call", self._run(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return connection

    async def _run(self, session: CallSession) -> None:
        ended = CallOutcome(0, GOING_DOWN)
        try:
            ended = await session.run()
            self.finished += 1
        except asyncio.CancelledError:
            await session.fail(GOING_DOWN, f"failed: {GOING_DOWN}")
        except SupersededError:
            self.handed_over += 1
            log.info("call %s goes on at another process", printable(session.call.id))
            ended = CallOutcome(session.conversation.utterances, ELSEWHERE)
        except Exception as error:
            # The boundary of one call: whatever broke in it, the others go on, and its sender is told.
            self.failed += 1
            log.error("call %s failed: %s", printable(session.call.id), type(error).__name__)
            message = str(error).splitlines()[-1] if isinstance(error, BcafError) else type(error).__name__
            ended = CallOutcome(session.conversation.utterances, f"the call cannot be analysed: {message}")
            await session.fail(message, f"failed: {type(error).__name__}")
        finally:
            session.close()
            session.ended.set_result(ended)
            session.room.set()
            del self._sessions[session.call.id]
            self._runtime.release(session.call.id, session.epoch)


def _with_voices(analyzer: AnalyzerConfig, enrol: Mapping[Role, Path]) -> AnalyzerConfig:
    speakers = with_voices(analyzer.audio.speakers, enrol, "enrol")
    audio = analyzer.audio.model_copy(update={"speakers": speakers})
    return analyzer.model_copy(update={"audio": audio})


class ServedCalls:
    """The `CallSink` of one ingest server, whose calls are analysed so."""

    def __init__(self, calls: CallRegistry, protocol: str, analyzer: AnalyzerConfig) -> None:
        self._calls, self._protocol, self._analyzer = calls, protocol, analyzer

    async def open(
        self, begin: CallStart, credit: Callable[[int], None] | None = None
    ) -> CallConnection | FinishedCall:
        return await self._calls.open(replace(begin, protocol=self._protocol), credit, self._analyzer)

    async def words(self, call: str, message: TextUpdate) -> None:
        await self._calls.words(call, message)
