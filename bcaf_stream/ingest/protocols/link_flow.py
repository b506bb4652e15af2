"""The audio link's rules without its sockets: what a sender may send when, and what a server takes as next."""

from collections.abc import Iterator, Sequence

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import TextUpdate
from bcaf_stream.ingest.protocols.link import Accepted, Audio, Closed, Credit, Refused, ServerMessage
from bcaf_stream.types import Words

PIECE_MS = 200  # the longest audio message
PIECE_BYTES = 60_000  # and the biggest
BATCH_CHARS = 10_000  # of text in one message of words, unless one item alone has more


PASSING = ("busy:", "no call is open here")  # how refusals begin that are no end to a sender with an open call


class ConnectionLostError(LinkError):
    """The connection is gone, or the server does not know its call (yet): another connection may go on with it."""


def piece_samples(rate: int, channels: int, window_ms: int) -> int:
    """The most samples of one audio message: at most half the window, so that some credit always suffices."""
    return max(1, min(min(PIECE_MS, window_ms // 2) * rate // 1000, PIECE_BYTES // (2 * channels)))


class SenderState:
    """What a sender knows of its call from what the server says over one connection.

    Args:
        resumed: the call was open before, over another connection.
        several: it can be opened elsewhere, where one has no room for it.
    """

    def __init__(self, rate: int, resumed: bool = False, several: bool = False) -> None:
        self._rate = rate
        self._resumed = resumed
        self._several = several
        self.credit_ms = self.settled_ms = 0
        self.accepted: Accepted | None = None
        self.closing = False  # the sender said that it is done
        self.closed: Closed | None = None

    def may_send(self, end: int) -> bool:
        """Whether the server has room for audio to before this sample."""
        return end * 1000 <= self.credit_ms * self._rate

    def take(self, message: ServerMessage) -> None:
        """Follow the server.

        Raises:
            ConnectionLostError: it cannot go on with the call over this connection.
            LinkError: the call is over, though the sender was not done.
        """
        match message:
            case Accepted(_, window_ms, start):
                if self._resumed and start is None:
                    raise LinkError("connection lost, and this older deployment cannot go on: send the call again")
                self.accepted = message
                self.credit_ms = (start or 0) * 1000 // self._rate + window_ms
            case Credit(upto_ms, settled_ms):
                self.credit_ms = max(self.credit_ms, upto_ms)
                self.settled_ms = max(self.settled_ms, settled_ms)
            case Closed(_, reason):
                if not self.closing or (self._resumed and reason != "complete"):
                    raise LinkError(f"the server ended the call: {reason}")
                self.closed = message
            case Refused(text):
                if (self._resumed or self.accepted or self._several) and text.startswith(PASSING):
                    raise ConnectionLostError(text)
                raise LinkError(f"refused: {text}")


class AudioOrder:
    """Checks that the audio of a call continues where it stopped; `received` counts samples per channel."""

    def __init__(self) -> None:
        self.received = 0
        self._seq = 0

    def accept(self, audio: Audio) -> bool:
        """Whether this audio is new; False when all of it was received before.

        Raises:
            LinkError: something is missing before it, or only a part of it is new.
        """
        end = audio.start + len(audio.samples_NC)
        if end <= self.received:
            return False
        if audio.start != self.received:
            raise LinkError(f"audio is not contiguous: sample {self.received} expected, {audio.start} came")
        if audio.seq != self._seq:
            raise LinkError(f"audio is not contiguous: message {self._seq} expected, {audio.seq} came")
        self.received = end
        self._seq += 1
        return True


def words_messages(words: Sequence[Words], last: bool = False) -> Iterator[TextUpdate]:
    """The words in their order, in messages of a bounded size; with `last` at least one, which says so."""
    batch: list[Words] = []
    chars = 0
    for item in words:
        size = len(item.text) + 50  # the rest of an item
        if batch and chars + size > BATCH_CHARS:
            yield TextUpdate(tuple(batch))
            batch, chars = [], 0
        batch.append(item)
        chars += size
    if batch or last:
        yield TextUpdate(tuple(batch), last)
