"""All doors by which live calls come in; each one is opened by its lines in the configuration."""

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.ingest.link import LinkConfig
from bcaf_stream.ingest.link_door import LinkDoor
from bcaf_stream.ingest.live import Door
from bcaf_stream.ingest.rtp import RtpConfig
from bcaf_stream.ingest.tcp_doors import AudioSocketConfig, AudioSocketDoor, PcmConfig, PcmDoor
from bcaf_stream.ingest.udp import RtpDoor
from bcaf_stream.ingest.websocket_calls import AudioHookConfig, AudioHookDoor, TwilioConfig, TwilioDoor
from bcaf_stream.ingest.websocket_microphone import MicrophoneConfig, MicrophoneDoor
from bcaf_stream.ingest.websocket_text import LiveTextConfig, LiveTextDoor


class DoorsConfig(Config):
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
    microphone: MicrophoneConfig | None = None
    live_text: LiveTextConfig | None = None


def make_doors(config: DoorsConfig) -> list[Door]:
    """The doors that the configuration names, the link first; they listen when they are started.

    Raises:
        LinkError: the link's address cannot be bound.
    """
    doors: list[Door] = [LinkDoor(config.link)]
    if config.twilio:
        doors.append(TwilioDoor(config.twilio))
    if config.audiohook:
        doors.append(AudioHookDoor(config.audiohook))
    if config.audiosocket:
        doors.append(AudioSocketDoor(config.audiosocket))
    doors += [RtpDoor(rtp) for rtp in config.rtp]
    if config.pcm:
        doors.append(PcmDoor(config.pcm))
    if config.microphone:
        doors.append(MicrophoneDoor(config.microphone))
    if config.live_text:
        doors.append(LiveTextDoor(config.live_text))
    return doors
