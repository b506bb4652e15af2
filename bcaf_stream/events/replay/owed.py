"""Short answers for which a client had no room when they were given: kept in order, few, and not for long."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Literal

from bcaf_stream.events.replay.job import HOLD_S

EACH = 64  # answers; a client that asks for more and takes none misses the rest
CLIENTS = 256  # the one that has been owed some for longest goes first

Sent = Literal["sent", "full", "gone"]


class OwedAnswers:
    """`missed` counts the answers that their client never took."""

    def __init__(self) -> None:
        self.missed = 0
        self._answers: OrderedDict[bytes, deque[list[bytes]]] = OrderedDict()
        self._since: dict[bytes, float] = {}  # when the client last took one, seconds of a monotonic clock

    def __contains__(self, client: bytes) -> bool:
        return client in self._answers

    def __len__(self) -> int:
        return sum(map(len, self._answers.values()))

    def add(self, client: bytes, answer: list[bytes], now: float) -> None:
        """Keep an answer behind those that the client is owed already."""
        if client not in self._answers and len(self._answers) >= CLIENTS:
            self._forget(next(iter(self._answers)))
        self._since.setdefault(client, now)
        waiting = self._answers.setdefault(client, deque())
        if len(waiting) < EACH:
            waiting.append(answer)
        else:
            self.missed += 1

    def give(self, send: Callable[[list[bytes]], Sent], now: float) -> None:
        """Send what there is room for."""
        for client, waiting in list(self._answers.items()):
            result: Sent = "sent"
            while waiting and (result := send(waiting[0])) == "sent":
                waiting.popleft()
                self._since[client] = now
            if not waiting or result == "gone" or now - self._since[client] > HOLD_S:
                self._forget(client)

    def _forget(self, client: bytes) -> None:
        self.missed += len(self._answers.pop(client))
        del self._since[client]
