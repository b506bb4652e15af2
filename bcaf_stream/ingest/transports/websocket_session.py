"""One connection over a WebSocket is one call, or a part of one: from its upgrade to the end of both.

A peer that breaks its protocol is told so and hung up on, and only its own call is lost. A call that the house
ends is hung up on in the words of its protocol. Media are read no faster than the house has room for them.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from pydantic import Field
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request

from bcaf_stream import loops
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.fields import Item, Reply
from bcaf_stream.ingest.media import CallEnd, CallStart
from bcaf_stream.ingest.security import ServerConfig
from bcaf_stream.ingest.sink import CallHandle
from bcaf_stream.ingest.transports.admission import Stage
from bcaf_stream.ingest.transports.websocket import (
    GOING_AWAY,
    NORMAL,
    POLICY,
    TRY_LATER,
    Connection,
    WebSocketServer,
    brief,
)
from bcaf_stream.types import AudioChunk, Gap

LINGER_S = 1.0  # how long the peer may take to hang up after its call is over
STALE_S = 2.0  # a connection that was silent for so long gives its call to the next one that asks for it


class Parser(Protocol):
    """What a protocol needs to be served by a CallServer."""

    @property
    def late(self) -> int:
        """Pieces of sound that came twice, or too late."""

    def push(self, data: str | bytes, received_at: int) -> list[Item]: ...

    def flush(self, received_at: int) -> list[Item]:
        """The sound that still waits for what was to come before it; the connection is gone."""

    def began(self) -> list[Reply]:
        """The answer to an opening that was taken."""

    def farewell(self, reason: LinkError | None) -> list[Reply]:
        """What is said before hanging up: for an error, or because the call is over here."""


class CallServerConfig(ServerConfig):
    """`idle_s`: a connection that sends nothing at all for so long has lost its call; platforms always send."""

    idle_s: float = Field(60.0, gt=0)


class CallServer(WebSocketServer):
    """Serves calls; a subclass makes the parser of a connection.

    `late` counts the sound that came twice, or too late.
    """

    def __init__(self, config: CallServerConfig, **kwargs: Callable[[], int]) -> None:
        super().__init__(config, **kwargs)
        self.idle_s = config.idle_s
        self._conversations: set[_Conversation] = set()
        self.late = 0

    def counters(self) -> dict[str, int]:
        return super().counters() | {"late": self.late}

    def parser(self, request: Request) -> Parser:
        raise NotImplementedError

    async def converse(self, connection: Connection) -> None:
        assert connection.request is not None
        parser = self.parser(connection.request)
        conversation = _Conversation(self, connection, parser)
        self._conversations.add(conversation)
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)
            self.late += parser.late

    async def close(self) -> None:
        for conversation in self._conversations:
            conversation.stop("server stopped")
        await super().close()

    def make_way(self, begin: CallStart) -> None:
        """Take a call from a connection that is silent: its network is gone, and its sender is here again."""
        for conversation in self._conversations:
            conversation.give_up(begin, STALE_S)


class _Conversation:
    """One connection and its call."""

    def __init__(self, door: CallServer, connection: Connection, parser: Parser) -> None:
        self._door = door
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
            async with asyncio.timeout(self._door.config.first_message_s) as self._patience:
                async for message in self._connection:
                    self._hear()
                    await self._push(message)
                    if self._call and not self._over:
                        watch = watch or loops.spawn_task(f"{self._door.name} call", self._watch(self._call))
                        await self._call.room()
        except TimeoutError:
            if not self._over:
                self._door.refused += 1
                self._last_words = POLICY, "nothing came for too long" if self._call else "no call began in time"
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
        self._heard_s = _now()
        soon = self._heard_s + self._door.idle_s / 2
        if self._call and not self._over and (self._patience.when() or 0) < soon:  # not for every message
            self._patience.reschedule(self._heard_s + self._door.idle_s)

    def _lose(self) -> None:
        """The call has lost its connection; what has come is heard before it is told."""
        if self._call is None or self._over:
            return
        self._over = True
        with contextlib.suppress(LinkError):  # the house has no use for it any more
            for item in self._parser.flush(self._door.clock()):
                if isinstance(item, AudioChunk | Gap):
                    self._call.accept(item)
        self._call.lost()

    async def _push(self, message: str | bytes) -> None:
        try:
            for item in self._parser.push(message, self._door.clock()):
                await self._take(item)
        except LinkError as error:
            await self._refuse(error)

    async def _take(self, item: Item) -> None:
        if isinstance(item, Reply):
            await self._connection.send(item.data)
        elif self._over:
            pass
        elif isinstance(item, CallStart):
            self._patience.reschedule(None)
            if self._connection.place:
                self._connection.place.stage = Stage.CALLING
            self._door.make_way(item)
            self._begin = item
            self._call = await self._door.host.open(item)
            self._hear()
            await self._say(self._parser.began())
        elif self._call is None:
            raise LinkError("media came before its call")
        elif isinstance(item, CallEnd):
            self._end(item.reason)
            self._linger()
        else:
            self._call.accept(item)

    async def _refuse(self, error: LinkError) -> None:
        if self._leaving:  # one chance is enough
            self._leave()
            return
        self._door.refused += 1
        self._lose()
        code = TRY_LATER if isinstance(error, BusyError) else POLICY
        await self._hang_up(code, str(error), error)

    async def _watch(self, call: CallHandle) -> None:
        ended = await call.ended()
        if not self._over:
            with contextlib.suppress(ConnectionClosed):
                await self._hang_up(NORMAL, ended.reason, None)

    async def _hang_up(self, code: int, reason: str, error: LinkError | None) -> None:
        self._over = self._leaving = True
        self._last_words = code, brief(reason)
        self._linger()  # also for a reader that waits for room in a call that is no more
        farewell = self._parser.farewell(error)
        await self._say(farewell)
        if not farewell:
            self._leave()

    def _leave(self) -> None:
        """Close the connection while it is read on: the peer's answer comes behind all that it has sent."""
        if self._closing is None:
            closing = self._connection.close(*self._last_words)
            self._closing = loops.spawn_task(f"{self._door.name} closing", closing)

    async def _say(self, replies: list[Reply]) -> None:
        for reply in replies:
            await self._connection.send(reply.data)

    def _linger(self, seconds: float = LINGER_S) -> None:
        with contextlib.suppress(RuntimeError):  # the reading is over already
            self._patience.reschedule(_now() + seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()
