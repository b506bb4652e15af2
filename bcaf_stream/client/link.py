"""LinkSender: a call sent over the audio link, which goes on when the connection or the server was lost.

A thread holds the socket: it sends what the credit allows, opens the call again after a loss, and sends once more
what the server asks for. So a source may be silent, or the caller be busy, while the connection is mended.
"""

import math
import random
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import zmq
from pydantic import Field
from zmq.utils.monitor import parse_monitor_message

from bcaf_stream.client.backlog import Backlog, SecondReading
from bcaf_stream.config import Config
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.media import MissingSound, TextUpdate
from bcaf_stream.ingest.protocols.link import Audio, ClientMessage, Close, Closed, Open, pack, parse_server
from bcaf_stream.ingest.protocols.link_flow import ConnectionLostError, SenderState, piece_samples, words_messages
from bcaf_stream.loops import spawn_thread
from bcaf_stream.types import Call, PcmN, TextSource, Words

MOST_FRUITLESS = 20  # losses without any sound between them that was new to the server: it fails at this call
NEXT_CONNECT_S = 3.0  # for the answer of one of several replicas, before the next one is tried
NEXT_BEAT_S, NEXT_SILENT_S = 0.5, 2.0  # between two signs of life, and until it is lost, where others can go on
DROP_AHEAD_S = 2  # of sound that a full backlog gives up while a server is asked to go on


class SenderConfig(Config):
    """How long to wait, and how much sound to keep.

    `connect_s` for the first answer of each connection, `stall_s` for each later one, then it counts as lost;
    `give_up_s` from a loss until the call is open again, 0 to give up at once. The first try comes after
    `retry_s`, the later ones after twice the time before them, up to `longest_retry_s`. `keep_bytes` of sound are
    kept to be sent again.
    """

    connect_s: float = Field(default=5.0, gt=0)
    stall_s: float = Field(default=15.0, gt=0)
    give_up_s: float = Field(default=120.0, ge=0)  # Ray starts again within 70 s on a starved machine
    retry_s: float = Field(default=0.2, gt=0)
    longest_retry_s: float = Field(default=2.0, gt=0)
    heartbeat_s: float = Field(default=2.0, gt=0)
    keep_bytes: int = Field(default=64 * 2**20, ge=65_536)


class LinkSender:
    """Sends one call; opens it when created. Leaving its `with` block without `close` abandons the call.

    After a loss it opens the call again and goes on. It sends again what the server asks for: from the sound that
    it keeps, or from `again`. What neither has is a gap of the call, which the server says.

    Args:
        endpoint: its address; or those of several replicas, of which the next one is tried when one is lost.
        text: where the words come from: the server's "asr", "given" through `send_words`, or "none".
        live: the source cannot wait: `send` takes its sound at once while there is room to keep it.
        drop: where there is no room either, the oldest sound that was not sent is given up; else `send` waits.
        again: the call's sound once more from a sample on, for a source that can be read again.
        source: names that sound, the same in each run; then this run goes on with a call that another one of the
            same sound has begun and was killed in. `start` is the first sample that `send` shall be given.
        note: told in a line when the connection is lost, and when the call goes on.

    Raises:
        LinkError: the server cannot be reached, or refuses the call.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        call: Call,
        rate: int,
        text: TextSource = "asr",
        config: SenderConfig | None = None,
        *,
        live: bool = False,
        drop: bool = False,
        again: Callable[[int], Iterator[PcmN]] | None = None,
        source: str | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._endpoints = deque([endpoint] if isinstance(endpoint, str) else endpoint)
        self._config = config or SenderConfig()
        self._run_id = uuid.uuid4().hex
        self._words_id = source or self._run_id
        self._given = 0  # words so far
        self._opening = Open(call.id, call.channels, rate, text, sender=self._run_id, source=source)
        self.start = 0
        self._live, self._drop, self._again, self._note = live, drop, again, note
        self._backlog = Backlog(len(call.channels), self._config.keep_bytes // (2 * len(call.channels)))
        self._missing: list[MissingSound] = []
        self._words: list[TextUpdate] = []  # those that the server may ask for again
        self._closing = self._leaving = self._opened = False
        self._closed: Closed | None = None
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._thread = spawn_thread("link sender", self._run)
        try:
            self._wait(lambda: self._opened)
        except BaseException:
            self.abort()
            raise

    def send(self, samples_NC: PcmN) -> None:
        """Send the next audio; waits while the server is too far behind, or `live` sound has no room any more.

        Args:
            samples_NC: int16, N samples of the call's C channels.

        Raises:
            LinkError: the server refused, or was not reached for too long; or the samples do not fit the call.
        """
        self._check()
        while True:
            with self._changed:
                room = self._backlog.room if self._keeps_all else len(samples_NC)
                self._backlog.push(samples_NC[:room])
                if self._drop:
                    self._backlog.cursor = max(self._backlog.cursor, self._backlog.start)
            self._tell()
            samples_NC = samples_NC[room:]
            self._wait(self._may_go_on)
            if not len(samples_NC):
                return

    def tell_missing(self, missing: MissingSound) -> None:
        """Say that the sound from there on is silence because its source has none; before it is sent."""
        with self._changed:
            self._missing.append(missing)

    def send_words(self, words: Sequence[Words], last: bool = False) -> None:
        """Send given words; best before the audio that they were said in. After the `last` ones nothing waits.

        Raises:
            LinkError: as for `send`.
        """
        self._check()
        with self._changed:
            self._words += words_messages(self._named(words), last)
        self._tell()

    @property
    def _endpoint(self) -> str:
        return self._endpoints[0]

    @property
    def _has_others(self) -> bool:
        """Whether another replica can go on with the call."""
        return len(self._endpoints) > 1

    @property
    def _keeps_all(self) -> bool:
        """Whether nothing may leave the backlog before it is analysed: there is no other way to have it again."""
        return not self._drop and self._again is None

    def _may_go_on(self) -> bool:
        has_room = not self._keeps_all or self._backlog.room > 0
        return has_room and (self._live or not self._backlog.unsent)

    def _named(self, words: Sequence[Words]) -> list[Words]:
        """Each with an id, so that what is sent again takes the place of what was sent before."""
        named = [
            w if w.id is not None else replace(w, id=f"{self._words_id}-{n}")
            for n, w in enumerate(words, self._given)
        ]
        self._given += len(words)
        return named

    def close(self) -> Closed:
        """Say that the call is complete, wait until all of it was analysed, and return the server's summary.

        Raises:
            LinkError: as for `send`.
        """
        if self._closed is None:
            self._check()
            self._closing = True
            self._tell()
            try:
                self._wait(lambda: self._closed is not None)
            finally:
                self.abort()
        assert self._closed is not None
        return self._closed

    def abort(self) -> None:
        """Leave without a word; the server finds out by itself."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
        self._tell()
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def __enter__(self) -> "LinkSender":
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed is not None or self._leaving:
            raise LinkError(f"{self._endpoint}: this call is over; open another")

    def _wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._leaving or done())
            if self._error is not None or not done():
                self._check()

    def _tell(self) -> None:
        with suppress(OSError):  # full: it is told already; closed: nobody is there
            self._wake.send(b"\0")

    # From here on: the thread's.

    def _run(self) -> None:
        try:
            self._stay_connected()
        except BaseException as error:  # the caller's, at its next call
            self._error = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _stay_connected(self) -> None:
        lost_at, pause_s, fruitless, reached_ms = 0.0, self._config.retry_s, 0, 0
        untried = len(self._endpoints) - 1
        while not self._leaving:
            conversation = _Conversation(self, lost_at)
            try:
                conversation.run()
                return
            except ConnectionLostError as lost:
                reason = str(lost)
                if not self._opened and not untried:
                    raise LinkError(f"{self._endpoint}: {reason}") from None
            finally:
                conversation.close()
            self._endpoints.rotate(-1)
            if not self._opened:
                untried -= 1
                continue
            if conversation.state.accepted:
                lost_at, pause_s = time.monotonic(), self._config.retry_s
                fruitless = 0 if conversation.state.credit_ms > reached_ms else fruitless + 1
                reached_ms = max(reached_ms, conversation.state.credit_ms)
                if self._config.give_up_s:
                    self._note(f"connection lost: trying again for up to {self._config.give_up_s:g} s")
            if time.monotonic() - lost_at >= self._config.give_up_s or fruitless > MOST_FRUITLESS:
                given_up = f"given up after {time.monotonic() - lost_at:.0f} s; " if self._config.give_up_s else ""
                raise LinkError(f"{self._endpoint}: connection lost: {given_up}{reason}")
            self._rest(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, self._config.longest_retry_s)

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._leaving, seconds)

    def _oldest(self) -> int:
        """The first sample that can be sent again."""
        if self._again is not None:
            return 0
        start = self._backlog.start  # moves on while the server is asked, where old sound is given up for new
        return start + self._opening.rate * DROP_AHEAD_S if self._drop and start else start


class _Conversation:
    """One connection of a sender, from its open to its loss or the end of the call."""

    def __init__(self, sender: LinkSender, lost_at: float) -> None:
        self._sender = sender
        self._lost_at = lost_at
        self._config = sender._config
        self._backlog = sender._backlog
        self._resumed = sender._opened
        self.state = SenderState(sender._opening.rate, self._resumed, sender._has_others)
        self._seq = self._words_sent = 0
        self._open_sent = self._close_sent = False
        self._next = 0  # the sample that continues what was sent over this connection
        self._again = SecondReading(sender._again) if sender._again else None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # the credit is the limit
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, math.ceil(self._config.longest_retry_s * 1000))
        self._socket.setsockopt(zmq.RCVHWM, 0)  # heartbeats and such a limit abort a process: see LinkServer
        own_s = self._config.heartbeat_s
        beat_s, silent_s = (NEXT_BEAT_S, NEXT_SILENT_S) if sender._has_others else (own_s, 3 * own_s)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, math.ceil(beat_s * 1000))
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, math.ceil(silent_s * 1000))
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        for readable in (self._socket, self._monitor, sender._woken):
            self._poller.register(readable, zmq.POLLIN)

    def run(self) -> None:
        """Returns when the call is over, or the sender leaves.

        Raises:
            ConnectionLostError: another connection may go on with the call.
            LinkError: none will.
        """
        try:
            self._socket.connect(self._sender._endpoint)
        except zmq.ZMQError as error:
            text = f"not an address: give tcp://HOST:PORT ({error.strerror})"
            raise LinkError(f"{self._sender._endpoint}: {text}") from None
        patience_s = self._config.connect_s
        if self._sender._has_others:
            patience_s = min(patience_s, NEXT_CONNECT_S)
        if self._resumed:
            patience_s = min(patience_s, max(0.0, self._lost_at + self._config.give_up_s - time.monotonic()))
        deadline = time.monotonic() + patience_s
        while True:
            lost = self._follow_connection()  # looked at first: what was sent before the loss is still here
            while self._socket.poll(0):
                self._take(self._socket.recv())
                patience_s = self._config.stall_s if self.state.accepted else patience_s
                deadline = time.monotonic() + patience_s
            if self._sender._closed is not None or self._sender._leaving:
                return
            if lost and (self.state.accepted or self._resumed):
                raise ConnectionLostError("the server is gone: did `bcaf-serve` stop?")
            if self.state.accepted:
                self._send_what_may_be_sent()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ConnectionLostError(f"no answer for {round(patience_s, 1):g} s: is `bcaf-serve up` running?")
            self._poller.poll(math.ceil(left_s * 1000))
            with suppress(BlockingIOError):
                self._sender._woken.recv(4096)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    def _follow_connection(self) -> bool:
        """Whether it was lost; opens the call when it is there, not before: what can be sent again changes."""
        lost = False
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            lost |= event == zmq.EVENT_DISCONNECTED
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED and not self._open_sent:
                self._open_sent = True
                resume = self._sender._oldest() if self._resumed else None
                self._say(replace(self._sender._opening, resume=resume))
        return lost

    def _say(self, message: ClientMessage) -> None:
        self._socket.send(pack(message))

    def _take(self, data: bytes) -> None:
        sender = self._sender
        known, self.state.closing = self.state.accepted, sender._closing
        try:
            self.state.take(parse_server(data))
        except ConnectionLostError:
            raise
        except LinkError as error:
            raise LinkError(f"{sender._endpoint}: {error}") from None
        with sender._changed:
            if self.state.accepted and not known:
                self._begin(self.state.accepted.start or 0)
            sender._closed = self.state.closed
            if self.state.accepted:
                done_ms = max(0, self.state.credit_ms - self.state.accepted.window_ms)
                self._backlog.done = done_ms * sender._opening.rate // 1000
            settled_ms = self.state.settled_ms
            while sender._words and self._words_sent and _is_over(sender._words[0], settled_ms):
                del sender._words[0]
                self._words_sent -= 1
            sender._changed.notify_all()

    def _begin(self, start: int) -> None:
        assert self.state.accepted
        opening = self._sender._opening
        if not self._resumed and opening.source is not None and start:
            self._backlog.skip(start)
            self._sender.start = start
            self._sender._note(f"this call lost its sender at {start / opening.rate:.1f} s: it goes on from there")
        if not (0 if self._again else self._backlog.start) <= start <= self._backlog.end:
            raise LinkError(
                f"{self._sender._endpoint}: the server asks for sound that was never sent, or not kept"
            )
        self._backlog.cursor = self._next = start
        self._step = piece_samples(opening.rate, len(opening.channels), self.state.accepted.window_ms)
        self._sender._opened = True
        if self._resumed:
            seconds, at = time.monotonic() - self._lost_at, start / opening.rate
            self._sender._note(f"connected again after {seconds:.1f} s: the call goes on from {at:.1f} s")

    def _send_what_may_be_sent(self) -> None:
        sender = self._sender
        while self._words_sent < len(sender._words):
            self._say(sender._words[self._words_sent])
            self._words_sent += 1
        while (audio := self._next_audio()) is not None:
            self._say(audio)
            with sender._changed:
                self._seq += 1
                self._next = audio.start + len(audio.samples_NC)
                self._backlog.cursor = max(self._backlog.cursor, self._next)
                sender._changed.notify_all()
        if sender._closing and not self._close_sent and not self._backlog.unsent:
            self._say(Close())
            self._close_sent = True

    def _next_audio(self) -> Audio | None:
        """What to send next; None where there is nothing, or the server has no room for it."""
        with self._sender._changed:
            cursor, count = self._backlog.cursor, min(self._step, self._backlog.unsent)
            if cursor != self._next:
                raise ConnectionLostError("the server was too far behind: the oldest sound was given up")
            if not count or not self.state.may_send(cursor + count):
                return None
            kept_NC = self._backlog.piece(count) if cursor >= self._backlog.start else None
            told = tuple(self._sender._missing)
        if kept_NC is None:
            assert self._again, "only what can be read again is sent from before the backlog"
            kept_NC = self._again.piece(cursor, count)
        missing = tuple(one for one in told if cursor <= one.start < cursor + len(kept_NC))
        return Audio(self._seq, cursor, kept_NC, missing=missing)


def _is_over(message: TextUpdate, settled_ms: int) -> bool:
    """Whether these words will not be asked for again; what says that they were the last ones always is."""
    return not message.last and all(words.end_ms < settled_ms for words in message.words)
