"""The doors that listen on TCP: Asterisk's AudioSocket, and raw PCM."""

from typing import Self

from pydantic import Field, model_validator

from bcaf_stream.ingest import pcm
from bcaf_stream.ingest.access import Access, DoorConfig
from bcaf_stream.ingest.audiosocket import AudioSocketParser, hang_up
from bcaf_stream.ingest.live import Ended
from bcaf_stream.ingest.naming import ChannelConfig
from bcaf_stream.ingest.tcp import TcpDoor, TcpParser


class AudioSocketConfig(DoorConfig):
    """`channel` is the side of the call that Asterisk sends: a connection carries one.

    The protocol carries no secret, so that beyond this machine `allow` says who may come.
    """

    port: int = Field(9092, ge=0, le=65_535)
    channel: ChannelConfig = ChannelConfig()

    @model_validator(mode="after")
    def _has_no_secrets(self) -> Self:
        if self.tokens is not None:
            raise ValueError("AudioSocket carries no token: say who may come with allow: [NETWORK]")
        return self


class AudioSocketDoor(TcpDoor):
    """Takes Asterisk's calls; a call's id is its UUID. Busy and every other no is a hang-up frame."""

    name = "audiosocket"
    config: AudioSocketConfig

    def parser(self, access: Access) -> TcpParser:
        return AudioSocketParser(self.config.channel.channel, self.config.text)

    def accepted(self, call: str) -> bytes:
        return b""

    def refusal(self, message: str, busy: bool) -> bytes:
        return hang_up()

    def farewell(self, ended: Ended) -> bytes:
        return hang_up()


class PcmConfig(DoorConfig):
    """Without `format` each connection says what it sends, in a line of JSON that also holds its token."""

    port: int = Field(5570, ge=0, le=65_535)
    format: pcm.PcmFormat | None = None

    @model_validator(mode="after")
    def _a_secret_needs_its_line(self) -> Self:
        if self.format is not None and self.tokens is not None:
            raise ValueError("samples alone carry no token: leave format out, or use allow: [NETWORK]")
        return self


class PcmDoor(TcpDoor):
    """Takes raw samples; answers in lines of JSON.

    A sender of samples alone reads nothing, and a connection that is closed with unread bytes is reset, sound
    and all: such a sender is told nothing before it has closed its side.
    """

    name = "pcm"
    config: PcmConfig

    def parser(self, access: Access) -> TcpParser:
        return pcm.PcmParser(self.config.text, self.config.format, access.token_allowed)

    def accepted(self, call: str) -> bytes:
        return b"" if self.config.format else pcm.accepted(call)

    def refusal(self, message: str, busy: bool) -> bytes:
        return pcm.refused(message, busy)

    def farewell(self, ended: Ended) -> bytes:
        return pcm.closed(ended)
