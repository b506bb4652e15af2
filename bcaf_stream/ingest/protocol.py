"""What a protocol is to the server that carries it: the parser of one connection, and who may open one.

A vendor is one file in protocols/: a configuration, whose `protocol()` makes the `CallProtocol` of its server, and
a `Parser`, which turns what a connection brings into the records of media.py and says what is to be answered.
Neither does any I/O; the servers in transports/ do, and know no vendor.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs, urlsplit

from pydantic import Field

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart, Degraded, TextUpdate
from bcaf_stream.ingest.security import Access, ServerConfig
from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.types import AudioChunk, Gap, Role


@dataclass(frozen=True, slots=True)
class Reply:
    """What is to be sent back to the peer, as it is; `refuses` says that it turns something away."""

    data: str | bytes
    refuses: bool = False


Item = CallStart | AudioChunk | Gap | Degraded | TextUpdate | CallEnd | Reply


@dataclass(frozen=True, slots=True)
class Request:
    """The HTTP request that opens a WebSocket."""

    target: str  # path and query
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)  # they hold secrets

    @property
    def query(self) -> Mapping[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    def header(self, name: str) -> str | None:
        """A header's value; None where it is not given exactly once."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Parser(ABC):
    """What one connection brings; a protocol says what differs from this.

    A parser gives `CallStart`, then media, each channel's in the order of its samples and without a break, then
    `CallEnd` where its protocol says when a call is over. What it says after the call is not read.
    """

    late = 0
    """Pieces of sound that came twice, or too late."""

    greeted = False
    """Whether the peer has said what it comes for, though its call has yet to begin."""

    @abstractmethod
    def push(self, data: Any, received_at: int) -> Sequence[Item]:
        """What a message (str or bytes, of a WebSocket) or the next bytes (of a TCP connection) bring.

        Args:
            received_at: unix time in ns.

        Raises:
            LinkError: the peer breaks the protocol, and is to be hung up on.
        """

    def flush(self, received_at: int, closed: bool) -> Sequence[Item]:
        """The connection is over: the sound that still waits, and `CallEnd` if that is how a call ends.

        Args:
            closed: the peer closed it in the transport's own way; otherwise it was lost.
        """
        return []

    def accepted(self) -> Sequence[Reply]:
        """The answer to a call that was taken."""
        return []

    def refused(self, error: LinkError) -> Sequence[Reply]:
        """What is said before hanging up on a peer: for a BusyError it may come again later."""
        return []

    def closed(self, outcome: CallOutcome) -> Sequence[Reply]:
        """What is said before hanging up when the call is over here."""
        return []

    def text_taken(self, update: TextUpdate) -> Sequence[Reply]:
        """The answer to words for another call that were given to it."""
        return []

    def text_refused(self, update: TextUpdate, error: LinkError) -> Sequence[Reply]:
        """The answer to words that no call took."""
        return []


class CallProtocol(ABC):
    """One protocol as its configuration wants it; what all connections of a server share."""

    name: ClassVar[str]
    too_late: ClassVar[str] = "no call began in time"

    def __init__(self, config: ServerConfig) -> None:
        self.config = config

    @property
    def idle_s(self) -> float | None:
        """How long a connection with a call may send nothing at all; None for ever."""
        return getattr(self.config, "idle_s", None)

    def load(self) -> None:  # noqa: B027  # most have none
        """Read the files that the configuration names, before listening.

        Raises:
            LinkError: one cannot be read.
        """

    def behind(self, sink: CallSink) -> CallSink:
        """What takes the calls: the sink, or what merges the legs of a call before it (see legs.py)."""
        return sink


class WebSocketProtocol(CallProtocol):
    """A protocol whose connections are WebSockets, each opened by a request."""

    @abstractmethod
    def parser(self, request: Request) -> Parser:
        """A new one, for a new connection."""

    def may_enter(self, request: Request, now_s: float) -> bool:
        """Whether the request proves what the protocol asks for beside a token: a signature; now is unix time."""
        return True

    def subprotocol(self, offered: Sequence[str]) -> str | None:
        """Which of the offered subprotocols is spoken (RFC 6455, section 1.9)."""
        return None

    page: bytes | None = None
    """HTML for a browser that asks for / and no WebSocket."""


class TcpProtocol(CallProtocol):
    """A protocol whose connections are TCP; `ports` in a row carry different legs of its calls."""

    ports = 1

    @abstractmethod
    def parser(self, port: int, access: Access) -> Parser:
        """A new one, for a new connection on the port of this number."""


class VendorConfig(Protocol):
    """The configuration of one protocol."""

    @property
    def enrol(self) -> Mapping[Role, Path]: ...

    def protocol(self) -> WebSocketProtocol | TcpProtocol: ...


class ConnectionConfig(ServerConfig):
    """`idle_s`: a connection that sends nothing at all for so long has lost its call."""

    idle_s: float = Field(60.0, gt=0)


Clock = Callable[[], int]
"""Unix time in ns."""
