"""A server for protocols of one call per TCP connection; what its bytes mean is a parser's.

Each connection is one task, which owns its parser, its call and its socket: what breaks in one stays there.
TLS is negotiated within that task, so that a client that never finishes it holds nothing but its own place.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from bcaf_stream import loops
from bcaf_stream.addresses import in_url
from bcaf_stream.display import printable
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart
from bcaf_stream.ingest.protocol import Clock, ConnectionConfig, Item, Reply, TcpProtocol
from bcaf_stream.ingest.security import Access
from bcaf_stream.ingest.sink import GOING_DOWN, CallHandle, CallSink, end, until_over
from bcaf_stream.ingest.transports.admission import DISPLACED, Place, Stage, admission

log = logging.getLogger(__name__)

READ_BYTES = 65_536  # at once; what is beyond waits in the kernel, and so in the sender
LOG_EVERY_S = 10.0
LINGER_S = 1.0  # for the last answer to be read


class TcpServer:
    """Listens on the ports of one protocol.

    `refused` counts who was turned away, `displaced` those of them who lost their place to the next one.

    Args:
        clock: unix time in ns, for `received_at`.
    """

    def __init__(self, protocol: TcpProtocol, clock: Clock = time.time_ns) -> None:
        self.name = protocol.name
        self.endpoint = ""
        self.ports = [_Port(protocol, number, clock) for number in range(protocol.ports)]
        self._protocol = protocol

    @property
    def refused(self) -> int:
        return sum(port.refused for port in self.ports)

    def counters(self) -> dict[str, int]:
        return {"refused": self.refused, "displaced": sum(port.admission.displaced for port in self.ports)}

    async def start(self, sink: CallSink) -> None:
        """Listen.

        Raises:
            LinkError: an address cannot be bound, or a key or certificate cannot be read.
        """
        self._protocol.load()
        behind = self._protocol.behind(sink)
        try:
            for port in self.ports:
                await port.start(behind)
        except LinkError:
            await self.close()
            raise
        others = [port.endpoint.rpartition(":")[2] for port in self.ports[1:]]
        self.endpoint = ",".join([self.ports[0].endpoint, *others])

    async def close(self) -> None:
        """Stop listening and hang up."""
        await asyncio.gather(*(port.close() for port in self.ports))


class _Port:
    """One of a server's ports, with places of its own."""

    def __init__(self, protocol: TcpProtocol, number: int, clock: Clock) -> None:
        assert isinstance(protocol.config, ConnectionConfig)
        self.name = protocol.name
        self.endpoint = ""
        self.refused = 0
        self.protocol = protocol
        self.number = number
        self.config = protocol.config
        self.clock = clock
        self.calls: Counter[str] = Counter()  # running ones, by the client's address
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closing = False
        self._log_again_s = 0.0
        self.admission = admission(protocol.config)

    async def start(self, sink: CallSink) -> None:
        self.sink = sink
        self.access = Access(self.config)
        self.tls = self.access.tls
        port = self.config.port and self.config.port + self.number
        where = f"{self.config.host}:{port}"
        try:
            self._server = await asyncio.start_server(self._connected, self.config.host, port)
        except OSError as error:
            raise LinkError(f"{self.name}: {where} cannot be bound: {error.strerror or error}") from None
        port = self._server.sockets[0].getsockname()[1]
        shown = in_url(self.config.host)
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
        """Count what was turned away, and log it now and then: unknown peers must not fill the disk."""
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
            writer.transport.abort()  # nothing is said to who has no right to connect
            return
        connection.place = self.admission.enter(connection.address, connection.displace)
        task = loops.spawn_task(f"{self.name} connection", connection.run())
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # also of one cancelled before it began


class _Connection:
    """One client from its arrival until its socket is gone."""

    def __init__(self, port: _Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self.place: Place | None = None
        self._port = port
        self._reader = reader
        self._writer = writer
        self._parser = port.protocol.parser(port.number, port.access)
        self._patience: asyncio.Timeout | None = None
        self._displaced = False

    @property
    def is_allowed(self) -> bool:
        return self._port.access.address_allowed(self.address)

    def displace(self) -> None:
        """Hang up: no call has begun, and somebody else needs the place."""
        self._displaced = True
        if self._patience is not None:
            with suppress(RuntimeError):  # it is over already
                self._patience.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Never raises, but for its cancellation."""
        answer: Sequence[Reply] = ()
        try:
            answer = await self._serve()
        except LinkError as error:
            self._port.refuse(self.address, str(error))
            answer = self._parser.refused(error)
        except OSError as error:  # includes what TLS raises
            log.info("%s: %s is gone: %s", self._port.name, self.address, type(error).__name__)
        except asyncio.CancelledError:
            answer = self._parser.refused(LinkError(GOING_DOWN))
            raise
        except Exception as error:
            # The boundary of one connection: whatever broke in it, the others go on.
            loops.faults.count(f"{self._port.name} connection", error)
            answer = self._parser.refused(LinkError("internal error"))
        finally:
            self._port.admission.leave(self.place)
            await self._leave(answer)

    async def _serve(self) -> Sequence[Reply]:
        port = self._port
        if self.place is None:
            if port.tls is None:
                raise BusyError(f"busy: {port.config.max_connections} calls have a connection; try again later")
            port.refuse(self.address, "too many connections")
            return ()
        try:
            items = await self._first(self.place)
        except TimeoutError:
            if self._displaced:
                raise BusyError(f"busy: {DISPLACED}; try again later") from None
            raise LinkError("no call began in time") from None
        return await self._call(items, self.place) if items else ()

    async def _first(self, place: Place) -> Sequence[Item]:
        """The call's `CallStart` and what came with it; nothing if the client left before."""
        port = self._port
        async with asyncio.timeout(0 if self._displaced else port.config.first_message_s) as self._patience:
            if port.tls is not None:
                await self._writer.start_tls(port.tls)
            while data := await self._reader.read(READ_BYTES):
                items = self._parser.push(data, port.clock())
                if items:
                    return items if isinstance(items[0], CallStart) else []
                if self._parser.greeted and place.stage is Stage.SILENT:
                    place.stage = Stage.GREETED
                    self._patience.reschedule(asyncio.get_running_loop().time() + port.config.idle_s)
        return []

    async def _call(self, items: Sequence[Item], place: Place) -> Sequence[Reply]:
        port, begin = self._port, items[0]
        assert isinstance(begin, CallStart)
        place.stage = Stage.CALLING
        if port.calls[self.address] >= port.config.max_calls_per_client and not port.config.behind_proxy:
            raise BusyError(f"busy: {port.config.max_calls_per_client} calls from this address; try again later")
        port.calls[self.address] += 1
        try:
            call = await port.sink.open(begin)
            self._write(self._parser.accepted())
            ended = await until_over(call, self._read(call, items[1:]))
            return self._parser.closed(ended) if ended else ()
        finally:
            port.calls.subtract([self.address])
            port.calls += Counter()  # forgets addresses without calls

    async def _read(self, call: CallHandle, items: Sequence[Item]) -> bool:
        """Read until the end of the call; False when the connection was lost before it."""
        try:
            while True:
                for item in items:
                    if isinstance(item, CallEnd):
                        end(call, item.reason)
                        return True
                    if not isinstance(item, CallStart | Reply):
                        call.accept(item)
                await call.room()
                async with asyncio.timeout(self._port.config.idle_s):
                    data = await self._reader.read(READ_BYTES)
                now = self._port.clock()
                items = self._parser.push(data, now) if data else self._parser.flush(now, closed=True)
                if not data and not items:
                    call.lost()
                    return False
        except OSError:  # a timeout is one
            call.lost()
            return False

    def _write(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            self._writer.write(reply.data if isinstance(reply.data, bytes) else reply.data.encode())

    async def _leave(self, answer: Sequence[Reply]) -> None:
        """Say the last word, and close the socket when it was read, or after a moment."""
        writer = self._writer
        try:
            async with asyncio.timeout(LINGER_S):
                if answer:
                    self._write(answer)
                    if writer.can_write_eof():
                        writer.write_eof()
                        # Closing with unread bytes would reset the connection and take the answer along.
                        while await self._reader.read(READ_BYTES):
                            pass
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # it is aborted in any case
