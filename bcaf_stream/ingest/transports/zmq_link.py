"""The server of our own audio link: calls that come over one socket, and senders with credit.

A sender that is ahead waits for credit, and is never cut; one that is gone is noticed when credit is sent to it.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallStart, TextUpdate
from bcaf_stream.ingest.protocols.link import Accepted, Audio, ClientMessage, Close, Closed, Credit, Open, Refused
from bcaf_stream.ingest.protocols.link_flow import AudioOrder
from bcaf_stream.ingest.sink import CallHandle, CallSink
from bcaf_stream.ingest.transports.zmq_router import LinkConfig, LinkSocket
from bcaf_stream.loops import faults, spawn_task, start_task
from bcaf_stream.types import AudioChunk

ALIVE_S = 2.0  # between two signs of life to a sender; the sending finds out whether it is still there


@dataclass(eq=False)
class _Sender:
    """A client with an open call."""

    opening: Open
    order: AudioOrder = field(default_factory=AudioOrder)
    credit_ms: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def may_send(self, ms: int) -> None:
        self.credit_ms = ms
        self.news.set()


class LinkServer:
    """The `IngestServer` of `LinkSender`s.

    Raises:
        LinkError: the address cannot be bound.
    """

    name = "link"

    def __init__(self, config: LinkConfig) -> None:
        self._config = config
        self._socket = LinkSocket(config, on_refused=self._forget)
        self.endpoint = self._socket.endpoint
        self._opening: dict[bytes, _Sender] = {}  # their calls are not begun yet
        self._senders: dict[bytes, tuple[_Sender, CallHandle]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused = 0

    @property
    def refused(self) -> int:
        return self._refused + self._socket.refused

    def counters(self) -> dict[str, int]:
        return {"refused": self.refused, "busy": self._socket.busy}

    async def start(self, sink: CallSink) -> None:
        self._sink = sink
        self._serving = start_task("link", self._serve())

    async def close(self) -> None:
        """Hang up, after the senders whose calls have ended were told so."""
        self._serving.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.linger_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._serving, *self._tasks, return_exceptions=True)
        self._socket.close()

    async def _serve(self) -> None:
        while True:
            client, message = await self._socket.receive()
            if isinstance(message, Open):  # beside the others, who need not wait for the journal
                sender = self._opening[client] = _Sender(message)
                task = spawn_task("call of the link", self._open(client, sender))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                continue
            known = self._senders.get(client)
            try:
                if isinstance(message, TextUpdate) and message.call is not None:
                    await self._sink.words(message.call, message)
                elif known is None:
                    raise LinkError("the call is over here")
                else:
                    self._take(*known, message)
            except Exception as error:  # of this message alone: the endpoint serves all the others
                if not isinstance(error, LinkError):
                    faults.count("message of the link", error)
                reason = str(error) if isinstance(error, LinkError) else "the server failed at this message"
                elsewhere = isinstance(message, TextUpdate) and message.call is not None
                if known is None:
                    await self._refuse(client, reason)
                elif elsewhere:  # a refusal would be of its own call
                    self._refused += 1
                else:  # what was heard before is kept, and the call is over
                    self._refused += 1
                    known[1].end(reason)

    async def _open(self, client: bytes, sender: _Sender) -> None:
        opening = sender.opening
        begin = CallStart(
            opening.call,
            opening.channels,
            opening.rate,
            opening.text,
            sender=opening.sender,
            resume=opening.resume,
            source=opening.source,
        )
        await self._notice_loss(opening.call)
        try:
            call = await self._sink.open(begin, sender.may_send)
        except Exception as error:
            known = isinstance(error, LinkError)
            if self._opening.get(client) is sender:
                await self._refuse(client, str(error) if known else "the server failed to open the call")
            if not known:
                raise
            return
        if self._opening.get(client) is not sender:  # it was refused meanwhile, and may have opened another call
            call.end("its sender broke the protocol")
            return
        del self._opening[client]
        if call.outcome is not None:  # the sender came back too late
            await self._socket.send(client, Closed(call.outcome.utterances, call.outcome.reason))
            return
        sender.order.received = call.start
        sender.credit_ms = call.start * 1000 // opening.rate
        self._senders[client] = sender, call
        start = None if begin.earliest is None else call.start
        await self._socket.send(client, Accepted(call.id, self._config.window_ms, start))
        await self._follow(client, sender, call)

    async def _notice_loss(self, call: str) -> None:
        """Ask whether the call's sender is there, before another one wants its call: it may have died just now."""
        for client, (sender, known) in list(self._senders.items()):
            if known.id == call and not await self._socket.send(client, self._credit(sender, known)):
                known.lost()

    def _credit(self, sender: _Sender, call: CallHandle) -> Credit:
        return Credit(sender.credit_ms + self._config.window_ms, call.settled_ms)

    def _forget(self, client: bytes, reason: str) -> None:
        """The client was refused: what it opened is over, and its connection may open another call."""
        self._opening.pop(client, None)
        if client in self._senders:
            sender, call = self._senders.pop(client)
            call.end(reason)
            sender.news.set()

    async def _refuse(self, client: bytes, reason: str) -> None:
        self._refused += 1
        self._forget(client, reason)
        await self._socket.send(client, Refused(reason))

    def _take(self, sender: _Sender, call: CallHandle, message: ClientMessage) -> None:
        match message:
            case Audio():
                self._audio(sender, call, message)
            case TextUpdate():
                call.accept(message)
            case Close():
                call.end()

    def _audio(self, sender: _Sender, call: CallHandle, audio: Audio) -> None:
        if not sender.order.accept(audio):
            return  # sent twice
        rate = sender.opening.rate
        for missing in audio.missing:
            call.accept(replace(missing, rate=rate))
        if sender.order.received * 1000 > (sender.credit_ms + 2 * self._config.window_ms) * rate:
            raise LinkError("audio was sent beyond the credit given")
        for column, channel in enumerate(sender.opening.channels):
            samples_N = np.ascontiguousarray(audio.samples_NC[:, column])
            call.accept(AudioChunk(channel.name, audio.start, rate, samples_N, audio.received_at))

    async def _follow(self, client: bytes, sender: _Sender, call: CallHandle) -> None:
        """Give a sender its credit until its call ends, and tell it how."""
        over = spawn_task("end of a call of the link", call.ended())
        over.add_done_callback(lambda _: sender.news.set())
        try:
            while not over.done():
                with suppress(TimeoutError):
                    async with asyncio.timeout(ALIVE_S):
                        await sender.news.wait()
                sender.news.clear()
                if over.done() or not self._is_of(client, sender):
                    continue
                if not await self._socket.send(client, self._credit(sender, call)):
                    call.lost()
                    return
            ended = over.result()
            if not self._is_of(client, sender):  # it was refused, and knows
                return
            done = ended.reason == "complete"
            answer = Closed(ended.utterances, ended.reason) if done else Refused(ended.reason)
            await self._socket.send(client, answer)
        finally:
            if self._is_of(client, sender):
                del self._senders[client]
            over.cancel()
            await asyncio.gather(over, return_exceptions=True)

    def _is_of(self, client: bytes, sender: _Sender) -> bool:
        """Whether the call of this sender is the client's."""
        return client in self._senders and self._senders[client][0] is sender
