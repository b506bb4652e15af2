"""What a protocol says of a live call, whatever its bytes: the call's start, its media, its end; and their limits.

A protocol's parser is pure: bytes in, these records out. Nothing here knows of sockets, of Ray, or of emotions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.types import AudioChunk, Channel, Gap, Role, TextSource, Words

RATES = (8_000, 192_000)  # Hz, lowest and highest
MAX_CHANNELS = 16
MAX_NAME = 200  # characters of a call or channel
MAX_TEXT = 10_000  # characters of one item of words
MAX_INT = 2**53  # what every peer's numbers can hold, JavaScript's included


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins; or goes on, where a call of this id has lost its connection.

    `missed` is how many samples of each channel were lost between the two connections; None where the
    protocol does not say, and then the time that passed is taken. `sender` names the run of a sender that keeps
    its sound and comes back after a loss; by `resume` it then says from which sample it can send again. `source`
    names sound of which all can be sent at any time, by any run of a sender. `protocol` is filled in behind the
    server that it came by.
    """

    call: str
    channels: tuple[Channel, ...]
    rate: int
    text: TextSource = "asr"
    missed: int | None = None
    sender: str | None = None
    resume: int | None = None
    source: str | None = None
    protocol: str = ""

    @property
    def earliest(self) -> int | None:
        """The first sample of the call that can still be sent; None where none of the past can."""
        return 0 if self.source is not None else self.resume


@dataclass(frozen=True, slots=True)
class TextUpdate:
    """Given words; `last` says that no more will come, so that nothing waits for them.

    `call` names another call than the one that the connection carries.
    """

    words: tuple[Words, ...]
    last: bool = False
    call: str | None = None


@dataclass(frozen=True, slots=True)
class Degraded:
    """Something of the call is not heard as it should be, from here on; `reason` names it, never what was said.

    It is told to those who follow the call. `channel` None: it concerns the whole call.
    """

    reason: str
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class MissingSound:
    """Samples from `start` to before `end` of a channel that nobody has; silence stands for them in the sound.

    It comes before that silence, or when it is over. They are counted at `rate` Hz; 0 stands for the one rate of a
    live call.
    """

    channel: str
    start: int
    end: int
    reason: str
    rate: int = 0


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The sender said that the call is over."""

    reason: str = "complete"


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The call is over here: all of it is analysed and published."""

    utterances: int
    reason: str


Media = AudioChunk | Gap | MissingSound | TextUpdate | Degraded


class ChannelConfig(Config):
    """What a channel is called, and who speaks in it, where the protocol does not say."""

    name: str = Field("customer", min_length=1, max_length=MAX_NAME)
    role: Role = "customer"

    @property
    def channel(self) -> Channel:
        return Channel(self.name, self.role)


def call_id(name: str, received_at: int) -> str:
    """The id of a call whose protocol names none: this name and the time, UTC, to the millisecond.

    Args:
        received_at: unix time in ns.
    """
    seconds, rest = divmod(received_at, 1_000_000_000)
    return f"{name}-{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H%M%S}-{rest // 1_000_000:03d}"


def sound(chunk: AudioChunk) -> range:
    """The samples that a chunk holds."""
    return range(chunk.start, chunk.start + len(chunk.samples))


def contiguous(items: Sequence[AudioChunk | Gap]) -> bool:
    """Whether each channel's items continue each other from sample 0; what every parser must keep."""
    expected: dict[str, int] = {}
    for item in items:
        if item.start != expected.get(item.channel, 0):
            return False
        expected[item.channel] = item.end if isinstance(item, Gap) else sound(item).stop
    return True
