"""All doors by which live calls come in; each one is opened by its lines in the configuration."""

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.ingest.protocols.rtp import RtpConfig
from bcaf_stream.ingest.sink import IngestServer
from bcaf_stream.ingest.transports.tcp_servers import AudioSocketConfig, AudioSocketServer, PcmConfig, PcmServer
from bcaf_stream.ingest.transports.udp import RtpServer
from bcaf_stream.ingest.transports.websocket_browser import BrowserConfig, BrowserServer
from bcaf_stream.ingest.transports.websocket_calls import (
    AudioHookConfig,
    AudioHookServer,
    TwilioConfig,
    TwilioServer,
)
from bcaf_stream.ingest.transports.websocket_text import LiveTextConfig, LiveTextServer
from bcaf_stream.ingest.transports.zmq_link import LinkConfig, LinkServer


class ServersConfig(Config):
    """A protocol that is not named has no door; only `link`, which `bcaf-stream send` uses, is always open.

    `twilio` takes Telnyx's streams too; `microphone` is a page for a browser; `live_text` takes the words of calls
    whose sound comes by another door.
    """

    link: LinkConfig = LinkConfig()
    twilio: TwilioConfig | None = None
    audiohook: AudioHookConfig | None = None
    audiosocket: AudioSocketConfig | None = None
    rtp: tuple[RtpConfig, ...] = Field(default=())
    pcm: PcmConfig | None = None
    microphone: BrowserConfig | None = None
    live_text: LiveTextConfig | None = None


def make_servers(config: ServersConfig) -> list[IngestServer]:
    """The doors that the configuration names, the link first; they listen when they are started.

    Raises:
        LinkError: the link's address cannot be bound.
    """
    doors: list[IngestServer] = [LinkServer(config.link)]
    if config.twilio:
        doors.append(TwilioServer(config.twilio))
    if config.audiohook:
        doors.append(AudioHookServer(config.audiohook))
    if config.audiosocket:
        doors.append(AudioSocketServer(config.audiosocket))
    doors += [RtpServer(rtp) for rtp in config.rtp]
    if config.pcm:
        doors.append(PcmServer(config.pcm))
    if config.microphone:
        doors.append(BrowserServer(config.microphone))
    if config.live_text:
        doors.append(LiveTextServer(config.live_text))
    return doors
