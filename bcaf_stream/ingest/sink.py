"""What protocols say to the calls: the sink that takes them, the handle of one call, and the servers before both.

The servers know nothing of Ray, of events or of emotions; the sink nothing of protocols and sockets.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from bcaf_stream import loops
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import CallOutcome, CallStart, Media, TextUpdate

GOING_DOWN = "the server is going down"


class CallHandle(Protocol):
    """A running call, as the server of one of its connections sees it."""

    id: str

    @property
    def start(self) -> int:
        """The sample that a sender who resumes shall go on from; others count each connection from 0."""

    @property
    def settled_ms(self) -> int:
        """Stream time before which no sound will be asked for again, whatever dies."""

    @property
    def outcome(self) -> CallOutcome | None:
        """How the call ended, where it has; a sender that resumes it may come too late."""

    def accept(self, item: Media) -> None:
        """Take the next media of the call, without waiting.

        The samples of a channel are counted from 0 for each connection, and every chunk or gap starts where the
        channel's one before it ended: putting things in order is the parser's work.

        Raises:
            LinkError: it does not fit the call, or does not continue it. The server then hangs up.
        """

    async def room(self) -> None:
        """Wait until enough is worked off; the server of a protocol without credit stops reading meanwhile."""

    def end(self, reason: str = "complete") -> None:
        """The sender is done; `ended` comes when the rest is analysed."""

    def lost(self) -> None:
        """The connection is gone without a word; the call waits for its return for a grace time."""

    async def ended(self) -> CallOutcome:
        """Wait for the end, whoever brought it about: the sender, the sink, or a failure."""


class CallSink(Protocol):
    """Takes the calls of all servers."""

    async def open(self, begin: CallStart, credit: Callable[[int], None] | None = None) -> CallHandle:
        """Begin a call, or go on with one whose connection was lost.

        `credit` is told, again and again, up to which stream time (ms of this connection) sound has been analysed.

        Raises:
            BusyError: no more calls can be taken now: give the protocol's own busy answer.
            LinkError: the call cannot be taken, and why.
        """

    async def words(self, call: str, message: TextUpdate) -> None:
        """Give live text to a running call.

        Raises:
            LinkError: no such call is running, or it takes no words.
        """


class IngestServer(Protocol):
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

    async def start(self, sink: CallSink) -> None:
        """Listen.

        Raises:
            LinkError: the address cannot be bound, or a key or certificate cannot be read.
        """

    async def close(self) -> None:
        """Stop listening and hang up; returns when no task and no socket is left."""


async def until_over(call: CallHandle, feeding: Coroutine[Any, Any, bool]) -> CallOutcome | None:
    """Run `feeding` until the call is over, whoever ends it; what breaks `feeding` ends the call and is raised.

    Args:
        feeding: gives the call its media; True when it has ended it, False when the connection was lost, and
            then None is returned.
    """
    async with (
        loops.beside("media of a call", feeding) as feed,
        loops.beside("end of a call", call.ended()) as ending,
    ):
        try:
            await asyncio.wait({feed, ending}, return_when=asyncio.FIRST_COMPLETED)
            if feed.done() and not feed.result():
                return None
            return await ending
        except asyncio.CancelledError:
            end(call, GOING_DOWN)
            raise
        except LinkError as error:
            end(call, str(error))
            raise
        except Exception as error:
            end(call, f"failed: {type(error).__name__}")
            raise


def end(call: CallHandle, reason: str) -> None:
    """End a call, which may be over already."""
    with suppress(LinkError):
        call.end(reason)
