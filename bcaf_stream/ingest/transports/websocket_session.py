"""One connection over a WebSocket is one call, or a part of one: from its upgrade to the end of both.

A peer that breaks its protocol is told so and hung up on, and only its own call is lost. A call that its sink
ends is hung up on in the words of its protocol. Media are read no faster than the sink has room for them.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence

from websockets.exceptions import ConnectionClosed

from bcaf_stream import loops
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart, TextUpdate
from bcaf_stream.ingest.protocol import Clock, Item, Parser, Reply, WebSocketProtocol
from bcaf_stream.ingest.sink import CallHandle
from bcaf_stream.ingest.transports.admission import Stage
from bcaf_stream.ingest.transports.websocket import (
    GOING_AWAY,
    NO_CODE,
    NORMAL,
    POLICY,
    TRY_LATER,
    Connection,
    WebSocketListener,
    brief,
    plain,
)

LINGER_S = 1.0  # how long the peer may take to hang up after its call is over
STALE_S = 2.0  # a connection that was silent for so long gives its call to the next one that asks for it


class WebSocketServer(WebSocketListener):
    """Serves the calls of one protocol; `late` counts the sound that came twice, or too late."""

    def __init__(self, protocol: WebSocketProtocol, clock: Clock = time.time_ns) -> None:
        super().__init__(protocol, clock)
        self._sessions: set[_Session] = set()
        self.late = 0

    def counters(self) -> dict[str, int]:
        return super().counters() | {"late": self.late}

    async def converse(self, connection: Connection) -> None:
        assert connection.request is not None
        parser = self.protocol.parser(plain(connection.request))
        session = _Session(self, connection, parser)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            self.late += parser.late

    async def close(self) -> None:
        for session in self._sessions:
            session.stop("server stopped")
        await super().close()

    def make_way(self, begin: CallStart) -> None:
        """Take a call from a connection that is silent: its network is gone, and its sender is here again."""
        for session in self._sessions:
            session.give_up(begin, STALE_S)


class _Session:
    """One connection and its call."""

    def __init__(self, server: WebSocketServer, connection: Connection, parser: Parser) -> None:
        self._server = server
        self._connection = connection
        self._parser = parser
        self._call: CallHandle | None = None
        self._begin: CallStart | None = None
        self._over = False  # the call has ended, or was refused: only what is left to say is said
        self._leaving = False  # the farewell was said
        self._last_words = (NORMAL, "")
        self._closing: asyncio.Task[None] | None = None
        self._heard_s = 0.0  # when the last message came

    async def run(self) -> None:
        watch: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._server.config.first_message_s) as self._patience:
                async for message in self._connection:
                    self._hear()
                    await self._push(message)
                    if self._call and not self._over:
                        watch = watch or loops.spawn_task(f"{self._server.name} call", self._watch(self._call))
                        await self._call.room()
        except TimeoutError:
            if not self._over:
                self._server.refused += 1
                self._last_words = (
                    POLICY,
                    "nothing came for too long" if self._call else self._server.protocol.too_late,
                )
                self._lose()
            self._leave()
        finally:
            self._lose()
            if watch:
                watch.cancel()
            await asyncio.gather(*filter(None, (watch, self._closing)), return_exceptions=True)

    def stop(self, reason: str) -> None:
        """End the call and leave, whatever is waited for."""
        self._end(reason)
        self._last_words = GOING_AWAY, reason
        self._linger(0)

    def give_up(self, begin: CallStart, stale_s: float) -> None:
        """Lose the call, if it is this one, of a channel in common, and silent for a while."""
        same = self._begin and self._begin.call == begin.call and set(self._begin.channels) & set(begin.channels)
        if self._call and same and not self._over and _now() - self._heard_s > stale_s:
            self._lose()
            self._connection.transport.abort()
            self._linger(0)

    def _end(self, reason: str) -> None:
        if self._call and not self._over:
            self._over = True
            self._call.end(reason)

    def _hear(self) -> None:
        self._heard_s, idle_s = _now(), self._server.protocol.idle_s
        if idle_s is None or self._call is None or self._over:
            return
        if (self._patience.when() or 0) < self._heard_s + idle_s / 2:  # not for every message
            self._patience.reschedule(self._heard_s + idle_s)

    def _lose(self) -> None:
        """The call has lost its connection; what has come is heard before it is told."""
        if self._call is None or self._over:
            return
        self._over = True
        hung_up = self._connection.close_code in (NORMAL, GOING_AWAY, NO_CODE)
        with contextlib.suppress(LinkError):  # the call has no use for it any more
            for item in self._parser.flush(self._server.clock(), hung_up):
                if isinstance(item, CallEnd):
                    self._call.end(item.reason)
                    return
                if not isinstance(item, CallStart | Reply):
                    self._call.accept(item)
        self._call.lost()

    async def _push(self, message: str | bytes) -> None:
        try:
            for item in self._parser.push(message, self._server.clock()):
                await self._take(item)
            if self._call is None and self._parser.greeted:
                self._patience.reschedule(None)
        except LinkError as error:
            await self._refuse(error)

    async def _take(self, item: Item) -> None:
        if isinstance(item, Reply):
            self._server.refused += item.refuses
            await self._connection.send(item.data)
        elif isinstance(item, TextUpdate) and item.call is not None:
            await self._say(await self._give(item.call, item))
        elif self._over:
            pass
        elif isinstance(item, CallStart):
            self._patience.reschedule(None)
            if self._connection.place:
                self._connection.place.stage = Stage.CALLING
            self._server.make_way(item)
            self._begin = item
            self._call = await self._server.sink.open(item)
            self._hear()
            await self._say(self._parser.accepted())
        elif self._call is None:
            raise LinkError("media came before its call")
        elif isinstance(item, CallEnd):
            self._end(item.reason)
            self._linger()
        else:
            self._call.accept(item)

    async def _give(self, call: str, update: TextUpdate) -> Sequence[Reply]:
        """Hand words to another call; what is answered."""
        try:
            await self._server.sink.words(call, update)
        except LinkError as error:
            self._server.refused += 1
            return self._parser.text_refused(update, error)
        if self._connection.place:
            self._connection.place.stage = Stage.CALLING
        return self._parser.text_taken(update)

    async def _refuse(self, error: LinkError) -> None:
        if self._leaving:  # one chance is enough
            self._leave()
            return
        self._server.refused += 1
        self._lose()
        code = TRY_LATER if isinstance(error, BusyError) else POLICY
        await self._hang_up(code, str(error), self._parser.refused(error))

    async def _watch(self, call: CallHandle) -> None:
        ended = await call.ended()
        if not self._over:
            with contextlib.suppress(ConnectionClosed):
                await self._hang_up(NORMAL, ended.reason, self._parser.closed(ended))

    async def _hang_up(self, code: int, reason: str, farewell: Sequence[Reply]) -> None:
        self._over = self._leaving = True
        self._last_words = code, brief(reason)
        self._linger()  # also for a reader that waits for room in a call that is no more
        await self._say(farewell)
        if not farewell:
            self._leave()

    def _leave(self) -> None:
        """Close the connection while it is read on: the peer's answer comes behind all that it has sent."""
        if self._closing is None:
            closing = self._connection.close(*self._last_words)
            self._closing = loops.spawn_task(f"{self._server.name} closing", closing)

    async def _say(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            await self._connection.send(reply.data)

    def _linger(self, seconds: float = LINGER_S) -> None:
        with contextlib.suppress(RuntimeError):  # the reading is over already
            self._patience.reschedule(_now() + seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()
