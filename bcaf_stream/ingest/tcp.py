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
from typing import Protocol

from pydantic import Field

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.access import Access, DoorConfig
from bcaf_stream.ingest.feeding import GOING_DOWN, end, until_over
from bcaf_stream.ingest.live import Begin, End, Ended, Gap, Host, LiveCall
from bcaf_stream.types import AudioChunk

log = logging.getLogger(__name__)

READ_BYTES = 65_536  # at once; what is beyond waits in the kernel, and so in the sender
LINGER_S = 1.0  # for the last answer to be read

Item = Begin | AudioChunk | Gap | End


class TcpConfig(DoorConfig):
    """`idle_s`: a connection that sends nothing at all for so long has lost its call."""

    idle_s: float = Field(60.0, gt=0)


class TcpParser(Protocol):
    """Turns one connection's bytes into `Begin`, then media, then `End`."""

    @property
    def greeted(self) -> bool:
        """Whether the sender has said who calls, though the call has yet to begin."""
        ...

    def push(self, data: bytes, received_at: int) -> Sequence[Item]: ...

    def flush(self) -> Sequence[Item]:
        """The sender closed the connection: with `End` if that is this protocol's way to end a call."""
        ...


class TcpDoor(ABC):
    """Listens on one TCP port; a subclass has the protocol's parser and answers.

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
    def farewell(self, ended: Ended) -> bytes:
        """Said when a call is over."""

    async def start(self, host: Host) -> None:
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
        """Count and log what was turned away."""
        self.refused += 1
        log.warning("%s: %s refused: %s", self.name, address, reason)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closing:  # it was on its way in
            writer.transport.abort()
            return
        full = len(self._connections) >= self.config.max_connections
        task = asyncio.create_task(_Connection(self, reader, writer).run(full))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # also of one cancelled before it began


class _Connection:
    """One client from its arrival until its socket is gone."""

    def __init__(self, door: TcpDoor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self._door = door
        self._reader = reader
        self._writer = writer
        self._parser = door.parser(door.access)

    async def run(self, full: bool) -> None:
        """Never raises, but for its cancellation."""
        answer = b""
        try:
            answer = await self._serve(full)
        except LinkError as error:
            self._door.refuse(self._address, str(error))
            answer = self._door.refusal(str(error), isinstance(error, BusyError))
        except OSError as error:  # includes what TLS raises
            log.info("%s: %s is gone: %s", self._door.name, self._address, type(error).__name__)
        except asyncio.CancelledError:
            answer = self._door.refusal(GOING_DOWN, False)
            raise
        except Exception as error:
            # The boundary of one connection: whatever broke in it, the others go on.
            log.error("%s: a connection failed: %s", self._door.name, type(error).__name__)
            answer = self._door.refusal("failed here", False)
        finally:
            await self._leave(answer)

    async def _serve(self, full: bool) -> bytes:
        door = self._door
        if not door.access.address_allowed(self._address):
            door.refuse(self._address, "its address is not allowed")
            return b""  # nothing is said to strangers
        if full:
            if door.tls is None:
                raise BusyError(f"busy: {door.config.max_connections} connections are open; try again later")
            door.refuse(self._address, "too many connections")
            return b""
        try:
            items = await self._first()
        except TimeoutError:
            raise LinkError("no call began in time") from None
        return await self._call(items) if items else b""

    async def _first(self) -> Sequence[Item]:
        """The call's `Begin` and what came with it; nothing if the client left before."""
        door, greeted = self._door, False
        async with asyncio.timeout(door.config.first_message_s) as patience:
            if door.tls is not None:
                await self._writer.start_tls(door.tls)
            while data := await self._reader.read(READ_BYTES):
                items = self._parser.push(data, door.clock())
                if items:
                    return items if isinstance(items[0], Begin) else []
                if self._parser.greeted and not greeted:
                    greeted = True
                    patience.reschedule(asyncio.get_running_loop().time() + door.config.idle_s)
        return []

    async def _call(self, items: Sequence[Item]) -> bytes:
        door, begin = self._door, items[0]
        assert isinstance(begin, Begin)
        if door.calls[self._address] >= door.config.max_calls_per_client:
            raise BusyError(f"busy: {door.config.max_calls_per_client} calls from this address; try again later")
        door.calls[self._address] += 1
        try:
            call = await door.host.open(begin)
            self._writer.write(door.accepted(call.id))
            ended = await until_over(call, self._read(call, items[1:]))
            return door.farewell(ended) if ended else b""
        finally:
            door.calls.subtract([self._address])
            door.calls += Counter()  # forgets addresses without calls

    async def _read(self, call: LiveCall, items: Sequence[Item]) -> bool:
        """Read until the end of the call; False when the connection was lost before it."""
        try:
            while True:
                for item in items:
                    if isinstance(item, End):
                        end(call, item.reason)
                        return True
                    assert not isinstance(item, Begin)
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
