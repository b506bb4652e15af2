"""The running calls of one process, behind all of its doors: who may begin one, and what is shed under load."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from actors.config import IngestConfig
from actors.line import Line
from actors.overload import Overload
from actors.services import House
from actors.session import CallSession
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.errors import BcafError, BusyError, LinkError
from bcaf_stream.events.progress import Progress
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.ingest.link_protocol import WordsMessage
from bcaf_stream.ingest.live import Begin, Ended
from bcaf_stream.types import Call

log = logging.getLogger(__name__)

TEND_S = 0.25  # how often the lag is looked at


class Calls:
    """The `Host` of the doors (see bcaf_stream.ingest.live)."""

    def __init__(self, analyzer: AnalyzerConfig, config: IngestConfig, house: House, overload: Overload) -> None:
        self._analyzer, self._config, self._house, self._overload = analyzer, config, house, overload
        self._sessions: dict[str, CallSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[str] = set()
        self.finished = self.failed = self.busy = 0

    async def open(self, begin: Begin, credit: Callable[[int], None] | None = None) -> Line:
        progress = None if begin.call in self._sessions else await self._check_new(begin)
        session = self._sessions.get(begin.call)  # another door may have begun it while the journal was asked
        if session is not None:
            return session.attach(begin, credit)
        session = CallSession(begin, self._analyzer, self._config.live, self._house, progress)
        line = session.attach(begin, credit)
        self._sessions[begin.call] = session
        task = asyncio.create_task(self._run(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return line

    async def words(self, call: str, message: WordsMessage) -> None:
        if call not in self._sessions:
            raise LinkError("no such call is running: begin its audio first, with text: given")
        self._sessions[call].put(message)

    async def tend(self) -> None:
        """Follow the lag for ever, and shed work in the stated order."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TEND_S)
            for step in self._overload.step(self.lag_ms, loop.time()):
                log.warning("overload: %s until it is over", step)
                sessions = list(self._sessions.values())
                await asyncio.gather(*(session.tell(f"overload: {step}") for session in sessions))

    @property
    def lag_ms(self) -> int:
        return max((session.lag_ms for session in self._sessions.values()), default=0)

    def stats(self) -> dict[str, Any]:
        return {
            "calls": len(self._sessions),
            "finished": self.finished,
            "failed": self.failed,
            "busy": self.busy,
            "lag_ms": self.lag_ms,
            "overload": self._overload.level,
            "shed": list(self._overload.taken),
        }

    async def drain(self) -> None:
        """Let the running calls end at once, with what was heard of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def bury(self, names: Sequence[str]) -> None:
        """End the calls that a dead process has left open, unless somebody has gone on with them."""
        for name in names:
            if name in self._sessions:
                continue
            self._closing.add(name)
            try:
                progress = await self._house.progress(name)
                if progress and not progress.ended and name not in self._sessions:
                    writer = EventWriter(Call(name, ()), self._house.model_id)
                    writer.resume(progress)
                    await self._house.publish([writer.end("sender lost")])
            finally:
                self._closing.discard(name)

    async def _check_new(self, begin: Begin) -> Progress | None:
        if len(self._sessions) >= self._config.max_calls:
            self.busy += 1
            raise BusyError(f"busy: {self._config.max_calls} calls are running; try again later")
        if not self._overload.new_calls:
            self.busy += 1
            raise BusyError("busy: the running calls are all that can be analysed; try again later")
        if begin.text == "asr" and self._house.transcriber is None:
            raise LinkError(
                "this deployment has no speech recognition; send with --transcript FILE or --text none"
            )
        progress = await self._house.progress(begin.call)
        if (progress and progress.ended) or begin.call in self._closing:
            raise LinkError(f"call {begin.call} is in the journal already; choose another --call")
        return progress

    async def _run(self, session: CallSession) -> None:
        ended = Ended(0, "the deployment is going down")
        try:
            ended = await session.run()
            self.finished += 1
        except asyncio.CancelledError:
            await session.fail(ended.reason)
        except Exception as error:
            # The boundary of one call: whatever broke in it, the others go on, and its sender is told.
            self.failed += 1
            log.error("call %s failed: %s", session.call.id, type(error).__name__)
            message = str(error) if isinstance(error, BcafError) else type(error).__name__
            ended = Ended(session.utterances, f"the call cannot be analysed: {message.splitlines()[-1]}")
            await session.fail(type(error).__name__)
        finally:
            session.close()
            session.ended.set_result(ended)
            session.inbox.room.set()
            del self._sessions[session.call.id]
