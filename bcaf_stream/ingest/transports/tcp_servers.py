"""The doors that listen on TCP: Asterisk's AudioSocket, and raw PCM."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

from pydantic import Field, model_validator

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.legs import LegMerger
from bcaf_stream.ingest.media import MAX_CHANNELS, CallOutcome, ChannelConfig
from bcaf_stream.ingest.protocols import raw_pcm
from bcaf_stream.ingest.protocols.audiosocket import AudioSocketParser, hang_up, refusal
from bcaf_stream.ingest.security import Access
from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.ingest.transports.tcp import TcpConfig, TcpParser, TcpServer
from bcaf_stream.types import Channel


class AudioSocketConfig(TcpConfig):
    """A connection carries one side of a call: channel i of `channels` is what comes in on `port` + i.

    Connections with the same UUID are one call. The protocol carries no secret, so that beyond this machine
    `allow` says who may come.
    """

    port: int = Field(9092, ge=0, le=65_535)
    channels: tuple[ChannelConfig, ...] = Field((ChannelConfig(),), min_length=1, max_length=MAX_CHANNELS)

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        if self.tokens is not None:
            raise ValueError("AudioSocket carries no token: say who may come with allow: [NETWORK]")
        if len({channel.name for channel in self.channels}) < len(self.channels):
            raise ValueError("channels: each must have its own name")
        if self.port and self.port + len(self.channels) - 1 > 65_535:
            raise ValueError("port: there are not enough ports above it")
        return self


class AudioSocketServer:
    """Takes Asterisk's calls; a call's id is its UUID."""

    name = "audiosocket"

    def __init__(self, config: AudioSocketConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self.endpoint = ""
        self._channels = [channel.channel for channel in config.channels]
        ports = [config.port and config.port + number for number in range(len(self._channels))]
        self.ports = [
            _AudioSocketPort(config.model_copy(update={"port": port}), channel, clock)
            for port, channel in zip(ports, self._channels, strict=True)
        ]

    @property
    def refused(self) -> int:
        return sum(door.refused for door in self.ports)

    @property
    def displaced(self) -> int:
        return sum(door.displaced for door in self.ports)

    def counters(self) -> dict[str, int]:
        return {"refused": self.refused, "displaced": self.displaced}

    async def start(self, host: CallSink) -> None:
        """Listen.

        Raises:
            LinkError: an address cannot be bound, or a key or certificate cannot be read.
        """
        behind = host if len(self.ports) == 1 else LegMerger(host, self._channels)
        try:
            for door in self.ports:
                await door.start(behind)
        except LinkError:
            await self.close()
            raise
        ports = [door.endpoint.rpartition(":")[2] for door in self.ports[1:]]
        self.endpoint = ",".join([self.ports[0].endpoint, *ports])

    async def close(self) -> None:
        """Stop listening and hang up."""
        await asyncio.gather(*(door.close() for door in self.ports))


class _AudioSocketPort(TcpServer):
    """The port of one side."""

    name = "audiosocket"

    def __init__(self, config: TcpConfig, channel: Channel, clock: Callable[[], int]) -> None:
        super().__init__(config, clock)
        self._channel = channel

    def parser(self, access: Access) -> TcpParser:
        return AudioSocketParser(self._channel, self.config.text)

    def accepted(self, call: str) -> bytes:
        return b""

    def refusal(self, message: str, busy: bool) -> bytes:
        return refusal(busy)

    def farewell(self, ended: CallOutcome) -> bytes:
        return hang_up()


class PcmConfig(TcpConfig):
    """Without `format` each connection says what it sends, in a line of JSON that also holds its token."""

    port: int = Field(5570, ge=0, le=65_535)
    format: raw_pcm.PcmFormat | None = None

    @model_validator(mode="after")
    def _a_secret_needs_its_line(self) -> Self:
        if self.format is not None and self.tokens is not None:
            raise ValueError("samples alone carry no token: leave format out, or use allow: [NETWORK]")
        return self


class PcmServer(TcpServer):
    """Takes raw samples; answers in lines of JSON.

    A sender of samples alone reads nothing, and a connection that is closed with unread bytes is reset, sound
    and all: such a sender is told nothing before it has closed its side.
    """

    name = "pcm"
    config: PcmConfig

    def parser(self, access: Access) -> TcpParser:
        return raw_pcm.PcmParser(self.config.text, self.config.format, access.token_allowed)

    def accepted(self, call: str) -> bytes:
        return b"" if self.config.format else raw_pcm.accepted(call)

    def refusal(self, message: str, busy: bool) -> bytes:
        return raw_pcm.refused(message, busy)

    def farewell(self, ended: CallOutcome) -> bytes:
        return raw_pcm.closed(ended)
