"""The audio link's rules without its sockets: what a sender may send when, and what a server takes as next."""

from collections.abc import Iterator, Sequence

import numpy as np

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.link_protocol import Accepted, Audio, Closed, Credit, Refused, ServerMessage, WordsMessage
from bcaf_stream.types import PcmN, Words

PIECE_MS = 200  # the longest audio message
PIECE_BYTES = 60_000  # and the biggest
BATCH_CHARS = 10_000  # of text in one message of words, unless one item alone has more


class AudioCutter:
    """Cuts audio into numbered messages that fit into half the window, so that some credit always suffices."""

    def __init__(self, rate: int, channels: int, window_ms: int) -> None:
        self._step = max(1, min(min(PIECE_MS, window_ms // 2) * rate // 1000, PIECE_BYTES // (2 * channels)))
        self._channels = channels
        self._seq = self._start = 0

    def push(self, samples_NC: PcmN) -> Iterator[Audio]:
        """The messages of the next N samples of C channels.

        Raises:
            LinkError: they are not int16, or not of the call's channels.
        """
        if samples_NC.dtype != np.int16 or samples_NC.shape[1:] != (self._channels,):
            shape = f"int16 of shape (N, {self._channels})"
            raise LinkError(f"audio must be {shape}, not {samples_NC.dtype} of {samples_NC.shape}")
        for begin in range(0, len(samples_NC), self._step):
            piece_NC = samples_NC[begin : begin + self._step]
            yield Audio(self._seq, self._start, piece_NC)
            self._seq += 1
            self._start += len(piece_NC)


class SenderState:
    """What a sender knows of its call from the server's messages."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._credit_ms = 0
        self.accepted: Accepted | None = None
        self.closing = False  # the sender said that it is done
        self.closed: Closed | None = None

    def may_send(self, audio: Audio) -> bool:
        """Whether the server has room for this audio."""
        return (audio.start + len(audio.samples_NC)) * 1000 <= self._credit_ms * self._rate

    def take(self, message: ServerMessage) -> None:
        """Follow the server.

        Raises:
            LinkError: the call is over, though the sender was not done.
        """
        match message:
            case Accepted():
                self.accepted = message
                self._credit_ms = message.window_ms
            case Credit(upto_ms):
                self._credit_ms = max(self._credit_ms, upto_ms)
            case Closed(_, reason):
                if not self.closing:
                    raise LinkError(f"the server ended the call: {reason}")
                self.closed = message
            case Refused(text):
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


def words_messages(words: Sequence[Words], last: bool = False) -> Iterator[WordsMessage]:
    """The words in their order, in messages of a bounded size; with `last` at least one, which says so."""
    batch: list[Words] = []
    chars = 0
    for item in words:
        size = len(item.text) + 50  # the rest of an item
        if batch and chars + size > BATCH_CHARS:
            yield WordsMessage(tuple(batch))
            batch, chars = [], 0
        batch.append(item)
        chars += size
    if batch or last:
        yield WordsMessage(tuple(batch), last)
