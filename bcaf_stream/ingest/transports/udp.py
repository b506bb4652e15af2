"""The sockets of RTP: a UDP port for each stream, and its RTCP on the port after it.

Datagrams cannot be slowed down. What comes while the analysis is behind waits, up to a bound, and beyond it
becomes a gap. When a datagram came is what the kernel says (Linux: SO_TIMESTAMPNS of socket(7)), for this process
may be late to read it: on a starved machine nobody is silent, lost or another because of that. Whoever is heard
first on a port keeps it while it is heard: another port of the same address (a sender that started again, or a
re-INVITE) goes on when the first has been silent for HANDOVER_S, another address that may come, for MOVE_S.
"""

import asyncio
import logging
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from bcaf_stream import loops
from bcaf_stream.addresses import in_url
from bcaf_stream.display import printable
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart, Degraded, MissingSound
from bcaf_stream.ingest.protocols.rtp import Item, RtpConfig, RtpParser
from bcaf_stream.ingest.protocols.rtp_packets import is_rtcp
from bcaf_stream.ingest.protocols.rtp_source import Counts
from bcaf_stream.ingest.security import Access
from bcaf_stream.ingest.sink import CallHandle, CallSink, end, until_over
from bcaf_stream.types import AudioChunk, Gap

log = logging.getLogger(__name__)

HANDOVER_S = 0.5
MOVE_S = 3.0
RETRY_S = 5.0  # until a sender that could not be taken is tried again
DROPPED = "dropped: the analysis is behind"
AT_ONCE = 200  # datagrams read before others have their turn
MAX_DATAGRAM = 65_536
BUFFER_BYTES = 1 << 22  # asked of the kernel, for when this process has no time; it may give less
SO_TIMESTAMPNS = 35  # of Linux; Python's socket module does not name it
TIMESPEC = struct.Struct("@ll")
SSRC = slice(8, 12)  # of an RTP packet

Address = tuple[Any, ...]


class Waiting:
    """Media on its way into a call; sound beyond `most` samples becomes a gap."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[str, deque[AudioChunk | Gap | MissingSound]] = {}
        self._samples = 0
        self._notes: deque[Degraded] = deque()  # few: each cause is told once in a call
        self._end: CallEnd | None = None
        self._news = asyncio.Event()

    def put(self, item: AudioChunk | Gap | MissingSound | Degraded | CallEnd) -> int:
        """Take it; how many of its samples were dropped."""
        self._news.set()
        if isinstance(item, CallEnd):
            self._end = item
            return 0
        if isinstance(item, Degraded):
            self._notes.append(item)
            return 0
        queue = self._queues.setdefault(item.channel, deque())
        last, dropped = queue[-1] if queue else None, 0
        if isinstance(item, MissingSound):
            queue.append(item)  # seldom: it tells of ten packets at least
            return 0
        if isinstance(item, AudioChunk):
            count = len(item.samples)
            if self._samples + count <= self._most:
                self._samples += count
                queue.append(item)
                return 0
            dropped = count
            item = Gap(item.channel, item.start, item.start + count, DROPPED)
        if isinstance(last, Gap) and (dropped or last.reason in (item.reason, DROPPED)):
            # One gap for all that was dropped, whatever was lost between: gaps are bounded as well.
            queue[-1] = Gap(item.channel, last.start, item.end, DROPPED if dropped else last.reason)
        else:
            queue.append(item)
        return dropped

    async def get(self) -> AudioChunk | Gap | MissingSound | Degraded | CallEnd:
        """What comes next, the channels side by side; notes first, the end after everything."""
        while True:
            if self._notes:
                return self._notes.popleft()
            filled = [queue for queue in self._queues.values() if queue]
            if filled:
                item = min(filled, key=lambda queue: queue[0].start).popleft()
                self._samples -= len(item.samples) if isinstance(item, AudioChunk) else 0
                return item
            if self._end:
                return self._end
            self._news.clear()
            await self._news.wait()


class _Port:
    """One bound socket; hands its datagrams on, with the unix time in ns when each came."""

    def __init__(
        self, bound: socket.socket, received: Callable[[bytes, Address, int], None], clock: Callable[[], int]
    ) -> None:
        self._socket = bound
        self._received = received
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        if sys.platform == "linux":
            bound.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._loop.add_reader(bound, self.read)

    def read(self) -> bool:
        """Take what has come; whether that was all of it."""
        for _ in range(AT_ONCE):
            try:
                data, told, _, sender = self._socket.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(TIMESPEC.size))
            except BlockingIOError:
                return True
            except OSError:  # an answer of somebody's network to nothing that was sent from here
                continue
            self._received(data, sender, self._came_at(told))
        return False

    def _came_at(self, told: list[tuple[int, int, bytes]]) -> int:
        for level, kind, data in told:
            if (level, kind, len(data)) == (socket.SOL_SOCKET, SO_TIMESTAMPNS, TIMESPEC.size):
                seconds, rest = TIMESPEC.unpack(data)
                return int(seconds * 1_000_000_000 + rest)
        return self._clock()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()


class _Call:
    """The call that is heard now, until its end has been passed on."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.senders: dict[int, tuple[Address, float]] = {}  # by stream; and when they were last heard


class RtpServer:
    """Takes one call at a time; the next one may begin while the last is still analysed.

    RTP has no answer for no: a sender that cannot be taken is not heard, and tried again after RETRY_S.
    """

    name = "rtp"

    def __init__(self, config: RtpConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self.endpoint = ""
        self.received = 0  # datagrams, whatever became of them
        self.refused = 0  # datagrams of unknown senders or in no known form, and calls that were not taken
        self.dropped = 0  # samples for which there was no time
        self.counts = Counts()
        self._config = config
        self._clock = clock
        self._parser = RtpParser(config, counts=self.counts)
        self._ignored_until: float | None = None  # None: for as long as they are sent
        self._heard_at = 0.0
        self._call: _Call | None = None
        self._told = False  # that something cannot be understood
        self._ports: list[_Port] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def counters(self) -> dict[str, int]:
        return {"received": self.received, "refused": self.refused, "dropped": self.dropped} | asdict(self.counts)

    async def start(self, sink: CallSink) -> None:
        """Listen.

        Raises:
            LinkError: an address cannot be bound.
        """
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._access = Access(self._config)
        ports: list[int] = []
        try:
            for stream in range(len(self._config.streams)):
                port = self._config.port and self._config.port + 2 * stream
                ports.append(await self._listen(port, stream))
                if port:
                    await self._listen(port + 1, stream, control=True)
        except LinkError:
            await self.close()
            raise
        host_shown = in_url(self._config.host)
        self.endpoint = f"rtp://{host_shown}:{','.join(map(str, ports))}"
        self._keep(loops.start_task("rtp", self._watch()))

    async def close(self) -> None:
        """Stop listening, and end the call."""
        for port in self._ports:
            port.close()
        self._ports.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, port: int, stream: int, control: bool = False) -> int:
        def received(data: bytes, sender: Address, came_at: int) -> None:
            self._received(data, sender, came_at, stream, control)

        host = self._config.host
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            bound = socket.socket(family, kind, protocol)
            try:
                bound.bind(address)
            except OSError:
                bound.close()
                raise
        except OSError as error:
            reason = error.strerror or error
            raise LinkError(f"rtp: UDP port {port} of {host} cannot be bound: {reason}") from None
        self._ports.append(_Port(bound, received, self._clock))
        return int(bound.getsockname()[1])

    def _received(self, data: bytes, sender: Address, came_at: int, stream: int, control: bool) -> None:
        self.received += 1
        now = self._loop.time() - max(0, self._clock() - came_at) / 1_000_000_000
        fits = len(data) <= self._config.max_message_bytes and (is_rtcp(data) or not control)
        if not fits or not self._access.address_allowed(sender[0]):
            self.refused += 1
            return
        if not self._may_speak(sender, now, stream, control):
            self.refused += 1
            self._pass_on([] if control or is_rtcp(data) else self._parser.rival(stream))
            return
        try:
            items = self._parser.push(data, came_at, stream)
        except LinkError as error:
            self.refused += 1
            if not self._told:
                self._told = True
                log.warning("rtp: a packet of %s refused (and perhaps more): %s", sender[0], error)
            return
        except Exception as error:
            self._fail(error)
            return
        self._heard_at = max(self._heard_at, now)
        self._pass_on(items)
        if self._call and not is_rtcp(data) and self._parser.source(stream) == int.from_bytes(data[SSRC], "big"):
            self._call.senders[stream] = sender, now

    def _fail(self, error: Exception) -> None:
        """The call whose packets broke something is over; the next ones go on."""
        loops.faults.count("rtp packets", error)
        if self._call:
            self._call.waiting.put(CallEnd(f"failed: {type(error).__name__}"))
        self._start_over(self._parser.heard, RETRY_S)

    def _may_speak(self, sender: Address, now: float, stream: int, control: bool) -> bool:
        if self._call is None or stream not in self._call.senders:
            return True
        known, heard_at = self._call.senders[stream]
        silent_s = now - heard_at
        if sender[0] != known[0]:
            return silent_s >= MOVE_S
        return control or sender == known or silent_s >= HANDOVER_S

    def _pass_on(self, items: list[Item]) -> None:
        for item in items:
            if isinstance(item, CallStart):
                self._call = _Call(Waiting(int(self._config.waiting_s * item.rate * len(item.channels))))
                self._keep(loops.spawn_task("rtp call", self._run(item, self._call)))
            elif self._call:
                self.dropped += self._call.waiting.put(item)
                if isinstance(item, CallEnd):
                    self._start_over(self._parser.heard)

    def _start_over(self, ignored: set[int], seconds: float | None = None) -> None:
        """Listen for the next call; senders of the last one are ignored while they go on, or for some seconds."""
        self._call = None
        self._told = False
        self._ignored_until = None if seconds is None else self._loop.time() + seconds
        self._parser = RtpParser(self._config, frozenset(ignored), self.counts)

    async def _watch(self) -> None:
        """What time brings about: lost packets, the end of a call, and the end of being ignored."""
        pause_s = max(0.01, self._config.jitter_ms / 2000)
        while True:
            await asyncio.sleep(pause_s)
            now, wall = self._loop.time(), self._clock()
            drained = [port.read() for port in self._ports]
            if not all(drained):
                continue  # more came before now than was read: nothing of it is late, and nobody silent
            try:
                self._pass_on(self._parser.advance(wall))
            except Exception as error:
                self._fail(error)
            silent = now - self._heard_at >= self._config.idle_s
            if self._call and silent:
                self._pass_on([*self._parser.flush(), CallEnd("sender lost")])
                self._start_over(set())
            elif not self._call and (silent or (self._ignored_until is not None and now >= self._ignored_until)):
                self._start_over(set())
                self._heard_at = now

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, begin: CallStart, current: _Call) -> None:
        """One call, to its end on whichever side."""
        retry_s = None
        try:
            call = await self._sink.open(begin)
            await until_over(call, _feed(call, current.waiting))
        except LinkError as error:
            self.refused += 1
            retry_s = RETRY_S if isinstance(error, BusyError) else None
            log.warning("rtp: call %s refused: %s", printable(begin.call), printable(error))
        except Exception as error:
            # The boundary of one call: whatever broke in it, the next ones go on.
            loops.faults.count("rtp call", error)
        finally:
            if self._call is current:
                self._start_over(self._parser.heard, retry_s)


async def _feed(call: CallHandle, waiting: Waiting) -> bool:
    while True:
        item = await waiting.get()
        if isinstance(item, CallEnd):
            end(call, item.reason)
            return True
        call.accept(item)
        await call.room()
