"""A server for protocols of one call per TCP connection; what its bytes mean is a parser's.

Each connection is one task, which owns its parser, its call and its socket: what breaks in one stays there.
TLS is negotiated within that task, so that a client that never finishes it holds nothing but its own place.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from pydantic import Field

from bcaf_stream import loops
from bcaf_stream.display import printable
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart
from bcaf_stream.ingest.security import Access, ServerConfig
from bcaf_stream.ingest.sink import GOING_DOWN, CallHandle, CallSink, end, until_over
from bcaf_stream.ingest.transports.admission import DISPLACED, Place, Stage, admission
from bcaf_stream.types import AudioChunk, Gap

log = logging.getLogger(__name__)

READ_BYTES = 65_536  # at once; what is beyond waits in the kernel, and so in the sender
LOG_EVERY_S = 10.0
LINGER_S = 1.0  # for the last answer to be read

Item = CallStart | AudioChunk | Gap | CallEnd


class TcpConfig(ServerConfig):
    """`idle_s`: a connection that sends nothing at all for so long has lost its call."""

    idle_s: float = Field(60.0, gt=0)


class TcpParser(Protocol):
    """Turns one connection's bytes into `CallStart`, then media, then `CallEnd`."""

    @property
    def greeted(self) -> bool:
        """Whether the sender has said who calls, though the call has yet to begin."""
        ...

    def push(self, data: bytes, received_at: int) -> Sequence[Item]: ...

    def flush(self) -> Sequence[Item]:
        """The sender closed the connection: with `CallEnd` if that is this protocol's way to end a call."""
        ...


class TcpServer(ABC):
    """Listens on one TCP port; a subclass has the protocol's parser and answers.

    `refused` counts who was turned away, `displaced` those of them who lost their place to the next one.

    Args:
        clock: unix time in ns, for `received_at`.
    """

    name = "tcp"

    def __init__(self, config: TcpConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self.endpoint = ""
        self.refused = 0
        self.config = config
        self.clock = clock
        self.calls: Counter[str] = Counter()  # running ones, by the client's address
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closing = False
        self._log_again_s = 0.0
        self.admission = admission(config)

    @property
    def displaced(self) -> int:
        return self.admission.displaced

    def counters(self) -> dict[str, int]:
        return {"refused": self.refused, "displaced": self.displaced}

    @abstractmethod
    def parser(self, access: Access) -> TcpParser:
        """A new one, for a new connection."""

    @abstractmethod
    def accepted(self, call: str) -> bytes:
        """Said when a call was taken."""

    @abstractmethod
    def refusal(self, message: str, busy: bool) -> bytes:
        """Said when a call was not taken, or broke off."""

    @abstractmethod
    def farewell(self, ended: CallOutcome) -> bytes:
        """Said when a call is over."""

    async def start(self, host: CallSink) -> None:
        """Listen.

        Raises:
            LinkError: the address cannot be bound, or a key or certificate cannot be read.
        """
        self.host = host
        self.access = Access(self.config)
        self.tls = self.access.tls
        where = f"{self.config.host}:{self.config.port}"
        try:
            self._server = await asyncio.start_server(self._connected, self.config.host, self.config.port)
        except OSError as error:
            raise LinkError(f"{self.name}: {where} cannot be bound: {error.strerror or error}") from None
        port = self._server.sockets[0].getsockname()[1]
        shown = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        self.endpoint = f"{'tls' if self.tls else 'tcp'}://{shown}:{port}"

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is None:
            return
        self._server.close()
        self._closing = True
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def refuse(self, address: str, reason: str) -> None:
        """Count what was turned away, and log it now and then: strangers must not fill the disk."""
        self.refused += 1
        now = time.monotonic()
        if now >= self._log_again_s:
            self._log_again_s = now + LOG_EVERY_S
            log.warning(
                "%s: %s refused: %s (%d refused so far)", self.name, address, printable(reason), self.refused
            )

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        crowd = len(self._connections) >= 2 * self.config.max_connections  # those who leave are read for a moment
        if self._closing or crowd or not connection.is_allowed:
            self.refused += not self._closing
            writer.transport.abort()  # nothing is said to strangers
            return
        connection.place = self.admission.enter(connection.address, connection.displace)
        task = loops.spawn_task(f"{self.name} connection", connection.run())
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # also of one cancelled before it began


class _Connection:
    """One client from its arrival until its socket is gone."""

    def __init__(self, door: TcpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self.place: Place | None = None
        self._door = door
        self._reader = reader
        self._writer = writer
        self._parser = door.parser(door.access)
        self._patience: asyncio.Timeout | None = None
        self._displaced = False

    @property
    def is_allowed(self) -> bool:
        return self._door.access.address_allowed(self.address)

    def displace(self) -> None:
        """Hang up: no call has begun, and somebody else needs the place."""
        self._displaced = True
        if self._patience is not None:
            with suppress(RuntimeError):  # it is over already
                self._patience.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Never raises, but for its cancellation."""
        answer = b""
        try:
            answer = await self._serve()
        except LinkError as error:
            self._door.refuse(self.address, str(error))
            answer = self._door.refusal(str(error), isinstance(error, BusyError))
        except OSError as error:  # includes what TLS raises
            log.info("%s: %s is gone: %s", self._door.name, self.address, type(error).__name__)
        except asyncio.CancelledError:
            answer = self._door.refusal(GOING_DOWN, False)
            raise
        except Exception as error:
            # The boundary of one connection: whatever broke in it, the others go on.
            loops.faults.count(f"{self._door.name} connection", error)
            answer = self._door.refusal("internal error", False)
        finally:
            self._door.admission.leave(self.place)
            await self._leave(answer)

    async def _serve(self) -> bytes:
        door = self._door
        if self.place is None:
            if door.tls is None:
                raise BusyError(f"busy: {door.config.max_connections} calls have a connection; try again later")
            door.refuse(self.address, "too many connections")
            return b""
        try:
            items = await self._first(self.place)
        except TimeoutError:
            if self._displaced:
                raise BusyError(f"busy: {DISPLACED}; try again later") from None
            raise LinkError("no call began in time") from None
        return await self._call(items, self.place) if items else b""

    async def _first(self, place: Place) -> Sequence[Item]:
        """The call's `CallStart` and what came with it; nothing if the client left before."""
        door = self._door
        async with asyncio.timeout(0 if self._displaced else door.config.first_message_s) as self._patience:
            if door.tls is not None:
                await self._writer.start_tls(door.tls)
            while data := await self._reader.read(READ_BYTES):
                items = self._parser.push(data, door.clock())
                if items:
                    return items if isinstance(items[0], CallStart) else []
                if self._parser.greeted and place.stage is Stage.SILENT:
                    place.stage = Stage.GREETED
                    self._patience.reschedule(asyncio.get_running_loop().time() + door.config.idle_s)
        return []

    async def _call(self, items: Sequence[Item], place: Place) -> bytes:
        door, begin = self._door, items[0]
        assert isinstance(begin, CallStart)
        place.stage = Stage.CALLING
        if door.calls[self.address] >= door.config.max_calls_per_client and not door.config.behind_proxy:
            raise BusyError(f"busy: {door.config.max_calls_per_client} calls from this address; try again later")
        door.calls[self.address] += 1
        try:
            call = await door.host.open(begin)
            self._writer.write(door.accepted(call.id))
            ended = await until_over(call, self._read(call, items[1:]))
            return door.farewell(ended) if ended else b""
        finally:
            door.calls.subtract([self.address])
            door.calls += Counter()  # forgets addresses without calls

    async def _read(self, call: CallHandle, items: Sequence[Item]) -> bool:
        """Read until the end of the call; False when the connection was lost before it."""
        try:
            while True:
                for item in items:
                    if isinstance(item, CallEnd):
                        end(call, item.reason)
                        return True
                    assert not isinstance(item, CallStart)
                    call.accept(item)
                await call.room()
                async with asyncio.timeout(self._door.config.idle_s):
                    data = await self._reader.read(READ_BYTES)
                items = self._parser.push(data, self._door.clock()) if data else self._parser.flush()
                if not data and not items:
                    call.lost()
                    return False
        except OSError:  # a timeout is one
            call.lost()
            return False

    async def _leave(self, answer: bytes) -> None:
        """Say the last word, and close the socket when it was read, or after a moment."""
        writer = self._writer
        try:
            async with asyncio.timeout(LINGER_S):
                if answer:
                    writer.write(answer)
                    if writer.can_write_eof():
                        writer.write_eof()
                        # Closing with unread bytes would reset the connection and take the answer along.
                        while await self._reader.read(READ_BYTES):
                            pass
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # it is aborted in any case
