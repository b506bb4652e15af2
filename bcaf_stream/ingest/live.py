"""What every wire protocol says of a live call, whatever its bytes; and the house that takes it.

A protocol's parser is pure: bytes in, these records out. Its door (the server with the sockets) hands them to
the `Host`, which runs the calls. Doors know nothing of Ray, of events or of emotions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bcaf_stream.ingest.link_protocol import WordsMessage
from bcaf_stream.types import AudioChunk, Channel, TextSource
from bcaf_stream.types import Gap as Gap  # what the protocols' parsers say of lost sound


@dataclass(frozen=True, slots=True)
class Begin:
    """A call begins; or goes on, where a call of this id has lost its connection.

    `missed` is how many samples of each channel were lost between the two connections; None where the
    protocol does not say, and then the time that passed is taken. `sender` names the run of a sender that keeps
    its sound and comes back after a loss; by `resume` it then says from which sample it can send again. `source`
    names sound of which all can be sent at any time, by any run of a sender.
    """

    call: str
    channels: tuple[Channel, ...]
    rate: int
    text: TextSource = "asr"
    missed: int | None = None
    sender: str | None = None
    resume: int | None = None
    source: str | None = None

    @property
    def earliest(self) -> int | None:
        """The first sample of the call that can still be sent; None where none of the past can."""
        return 0 if self.source is not None else self.resume


@dataclass(frozen=True, slots=True)
class Degraded:
    """Something of the call is not heard as it should be, from here on; `reason` names it, never what was said.

    It is told to those who follow the call. `channel` None: it concerns the whole call.
    """

    reason: str
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The sender said that the call is over."""

    reason: str = "complete"


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over here: all of it is analysed and published."""

    utterances: int
    reason: str


Media = AudioChunk | Gap | WordsMessage | Degraded


class LiveCall(Protocol):
    """A running call, as its door sees it; of one connection."""

    id: str

    @property
    def start(self) -> int:
        """The sample that a sender who resumes shall go on from; others count each connection from 0."""

    @property
    def settled_ms(self) -> int:
        """Stream time before which no sound will be asked for again, whatever dies."""

    @property
    def outcome(self) -> Ended | None:
        """How the call ended, where it has; a sender that resumes it may come too late."""

    def accept(self, item: Media) -> None:
        """Take the next media of the call, without waiting.

        The samples of a channel are counted from 0 for each connection, and every chunk or gap starts where the
        channel's one before it ended: putting things in order is the parser's work.

        Raises:
            LinkError: it does not fit the call, or does not continue it. The door then hangs up.
        """

    async def room(self) -> None:
        """Wait until enough is worked off; a door of a protocol without credit stops reading meanwhile."""

    def end(self, reason: str = "complete") -> None:
        """The sender is done; `ended` comes when the rest is analysed."""

    def lost(self) -> None:
        """The connection is gone without a word; the call waits for its return for a grace time."""

    async def ended(self) -> Ended:
        """Wait for the end, whoever brought it about: the sender, the house, or a failure."""


class Host(Protocol):
    """The house behind the doors."""

    async def open(self, begin: Begin, credit: Callable[[int], None] | None = None) -> LiveCall:
        """Begin a call, or go on with one whose connection was lost.

        `credit` is told, again and again, up to which stream time (ms of this connection) sound has been analysed.

        Raises:
            BusyError: no more calls can be taken now: give the protocol's own busy answer.
            LinkError: the call cannot be taken, and why.
        """

    async def words(self, call: str, message: WordsMessage) -> None:
        """Give live text to a running call.

        Raises:
            LinkError: no such call is running, or it takes no words.
        """


class Door(Protocol):
    """The server of one protocol; belongs to one event loop."""

    @property
    def name(self) -> str:
        """Of the protocol."""

    @property
    def endpoint(self) -> str:
        """As somebody would connect to it; known after `start`."""

    @property
    def refused(self) -> int:
        """Connections and messages that were turned away."""

    def counters(self) -> dict[str, int]:
        """What was turned away, dropped or lost, by its kind."""

    async def start(self, host: Host) -> None:
        """Listen.

        Raises:
            LinkError: the address cannot be bound, or a key or certificate cannot be read.
        """

    async def close(self) -> None:
        """Stop listening and hang up; returns when no task and no socket is left."""


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
