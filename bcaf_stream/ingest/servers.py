"""All servers by which live calls come in; each one is opened by its lines in the configuration."""

import time

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.ingest.protocol import Clock, VendorConfig, WebSocketProtocol
from bcaf_stream.ingest.protocols.audio_fork import AudioForkConfig
from bcaf_stream.ingest.protocols.audiohook import AudioHookConfig
from bcaf_stream.ingest.protocols.audiosocket import AudioSocketConfig
from bcaf_stream.ingest.protocols.browser import BrowserConfig
from bcaf_stream.ingest.protocols.live_text import LiveTextConfig
from bcaf_stream.ingest.protocols.raw_pcm import PcmConfig
from bcaf_stream.ingest.protocols.rtp import RtpConfig
from bcaf_stream.ingest.protocols.twilio import TwilioConfig
from bcaf_stream.ingest.sink import IngestServer
from bcaf_stream.ingest.transports.tcp import TcpServer
from bcaf_stream.ingest.transports.udp import RtpServer
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer
from bcaf_stream.ingest.transports.zmq_link import LinkServer
from bcaf_stream.ingest.transports.zmq_router import LinkConfig

AnyServerConfig = LinkConfig | RtpConfig | VendorConfig


class ServersConfig(Config):
    """A protocol that is not named has no server; only `link`, which `bcaf-stream send` uses, is always open.

    `twilio` takes Telnyx's streams too; `microphone` is a page for a browser; `live_text` takes the words of calls
    whose sound comes by another server. A new vendor is one line here.
    """

    link: LinkConfig = LinkConfig()
    twilio: TwilioConfig | None = None
    audiohook: AudioHookConfig | None = None
    audiosocket: AudioSocketConfig | None = None
    audio_fork: AudioForkConfig | None = None
    rtp: tuple[RtpConfig, ...] = Field(default=())
    pcm: PcmConfig | None = None
    microphone: BrowserConfig | None = None
    live_text: LiveTextConfig | None = None


def named(config: ServersConfig) -> list[tuple[str, AnyServerConfig]]:
    """The key and the configuration of each server, the link first."""
    found = []
    for key in ServersConfig.model_fields:
        value = getattr(config, key)
        several = value if isinstance(value, tuple) else [value]
        found += [(key, each) for each in several if each is not None]
    return found


def make_servers(config: ServersConfig) -> list[IngestServer]:
    """The servers that the configuration names, as `named` has them; they listen when they are started.

    Raises:
        LinkError: the link's address cannot be bound.
    """
    return [make_server(each) for _, each in named(config)]


def make_server(config: AnyServerConfig, clock: Clock = time.time_ns) -> IngestServer:
    """The server of one configuration.

    Raises:
        LinkError: the link's address cannot be bound.
    """
    if isinstance(config, LinkConfig):
        return LinkServer(config)
    if isinstance(config, RtpConfig):
        return RtpServer(config, clock)
    protocol = config.protocol()
    return (
        WebSocketServer(protocol, clock) if isinstance(protocol, WebSocketProtocol) else TcpServer(protocol, clock)
    )
