"""The doors that listen on TCP: Asterisk's AudioSocket."""

from typing import Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.ingest.access import Access, DoorConfig
from bcaf_stream.ingest.audiosocket import AudioSocketParser, hang_up
from bcaf_stream.ingest.link_protocol import MAX_NAME
from bcaf_stream.ingest.live import Ended
from bcaf_stream.ingest.tcp import TcpDoor, TcpParser
from bcaf_stream.types import Channel, Role


class ChannelConfig(Config):
    """What a channel is called, and who speaks in it."""

    name: str = Field("customer", min_length=1, max_length=MAX_NAME)
    role: Role = "customer"

    @property
    def channel(self) -> Channel:
        return Channel(self.name, self.role)


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
