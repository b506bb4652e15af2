"""The replay half of a subscriber: one DEALER, on which one question at a time waits for its answers."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
import zmq

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import LIMITS
from bcaf_stream.events.event import Event
from bcaf_stream.events.subscriber.follow import Delivered, Follower

CREDIT = 5000  # events of a replay that are on their way
PATIENCE_S = 2.0  # a replay that says nothing for so long is asked again
ANSWER = {  # what each kind of answer must have
    "events": {"id", "journal"},
    "end": {"id", "journal", "reached"},
    "count": {"id", "journal", "n"},
    "busy": {"id"},
    "error": {"id", "reason"},
}
_MAX_BACKOFF_S = 1.0


class ReplayClient:
    """Asks for what the follower wants and hands it the answers.

    Args:
        connect: makes a connected DEALER; `endpoint` is its address, for errors.
        topics: the prefixes that are asked for.
        journal: the identity that the hub's journal must have; None: any, and then it is kept.
    """

    def __init__(
        self,
        connect: Callable[[], "zmq.Socket[Any]"],
        endpoint: str,
        topics: Sequence[str],
        follower: Follower,
        journal: str | None,
    ) -> None:
        self.journal = journal
        self.broken = 0  # answers that were none, and were skipped
        self._connect, self._endpoint = connect, endpoint
        self._topics, self._follower = list(topics), follower
        self._request = self._credit = self._counting = 0
        self._heard = self._next_fill = 0.0
        self._backoff = 0.02
        self.socket = connect()

    def ask(self, now: float) -> None:
        """Ask what has to be asked; after a silence on a new connection: the old one's questions are forgotten."""
        follower = self._follower
        if (follower.filling or follower.wants_count is not None) and now - self._heard > PATIENCE_S:
            follower.interrupted()
            follower.wants_count = None
            self.socket.close()
            self.socket = self._connect()
        elif follower.wants_fill and now >= self._next_fill:
            self._backoff = min(_MAX_BACKOFF_S, self._backoff * 2) if now - self._next_fill < 5 else 0.02
            self._next_fill = now + self._backoff
            self._send("replay", now, topics=self._topics, credit=CREDIT, **{"from": follower.fill()})
            self._credit = CREDIT

    def heartbeat(self, offset: int | None) -> None:
        """The hub has published up to `offset`: ask how many events that are, where nothing else tells."""
        counted = self._follower.wants_count
        self._follower.heartbeat(offset)
        if counted is None and self._follower.wants_count is not None:
            span = {"after": self._follower.base, "to": self._follower.wants_count}
            self._counting = self._follower.wants_count
            self._send("count", time.monotonic(), topics=self._topics, **span)

    def answered(
        self, frames: Sequence[bytes], decoded: Callable[[Sequence[bytes]], Event | None]
    ) -> Iterator[Delivered]:
        """What an answer delivers.

        Raises:
            EventError: the hub refuses the question, or has another journal.
        """
        header = self._header(frames[0])
        if header.get("id") != self._request:
            return  # to a question that was given up, or no answer at all
        self._heard = time.monotonic()
        if header["kind"] == "busy":  # asked too much: the next question waits for longer
            self._follower.interrupted()
            return
        if header["kind"] == "error":
            raise EventError(f"{self._endpoint}: {header['reason']}")
        self._recognise(header["journal"])
        if header["kind"] == "count":
            self._follower.counted(self._counting, header["n"])
            return
        for at in range(1, len(frames) - 1, 2):
            event = decoded(frames[at : at + 2])
            self._credit -= 1
            if event is not None:
                yield from self._follower.replayed(event)
        if header["kind"] == "end":
            yield from self._follower.filled(header["reached"])
        elif self._credit < CREDIT // 2:
            more = {"v": 1, "ask": "credit", "id": self._request, "n": CREDIT - self._credit}
            self.socket.send(msgpack.packb(more), zmq.NOBLOCK)
            self._credit = CREDIT

    def _send(self, ask: str, now: float, **fields: object) -> None:
        self._request += 1
        self._heard = now
        with contextlib.suppress(zmq.Again):  # then its silence is noticed
            self.socket.send(msgpack.packb({"v": 1, "ask": ask, "id": self._request, **fields}), zmq.NOBLOCK)

    def _header(self, frame: bytes) -> dict[str, Any]:
        try:
            header = msgpack.unpackb(frame, **LIMITS)
            numbers = [header[name] for name in ("reached", "n") if name in header]
            if ANSWER[header["kind"]] <= header.keys() and all(type(number) is int for number in numbers):
                return dict(header)
        except Exception:  # msgpack documents no closed set of errors
            pass
        self.broken += 1
        return {}

    def _recognise(self, journal: str) -> None:
        if self.journal not in (None, journal):
            way_out = "delete the position file, or start again from `start`"
            raise EventError(f"{self._endpoint}: the hub has another journal than before: {way_out}")
        self.journal = journal
