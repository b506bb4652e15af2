"""Who has the floor: time in which several people speak, who talked over whom, and the longest silence."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple


class Floor:
    """Who speaks when: talk-over and silence, in bounded memory.

    Spans may come in any order, as long as they end after `folded_ms`.
    """

    def __init__(self, keep: int | None = None) -> None:
        self._keep = keep
        self._spans: list[tuple[int, int, str]] = []  # start, end, channel; "" is lost sound
        self._over_ms = 0  # before folded_ms
        self._talked_over: Counter[str] = Counter()  # before it, by who did
        self._quiet = (0, 0)  # the longest silence before it
        self._spoken_to: int | None = None  # the end of all speech before it
        self.folded_ms = 0

    def add(self, start_ms: int, end_ms: int, channel: str) -> None:
        if end_ms > start_ms and end_ms > self.folded_ms:
            self._spans.append((start_ms, end_ms, channel))
        if self._keep and len(self._spans) > 2 * self._keep:
            self._fold(sorted(start for start, *_ in self._spans)[-self._keep])

    def relabel(self, names: Mapping[str, str]) -> None:
        """Who was taken for somebody else is that one, in all that is remembered span by span."""
        self._spans = [(a, b, names.get(who, who)) for a, b, who in self._spans]
        for was, who in names.items():
            self._talked_over[who] += self._talked_over.pop(was, 0)

    @property
    def talk_over_ms(self) -> int:
        """Time in which two channels and more are spoken in."""
        return self._swept(float("inf")).over_ms

    @property
    def talked_over_ms(self) -> Counter[str]:
        """Time of it by who did: who began to speak while somebody else was speaking."""
        return self._swept(float("inf")).talked_over

    @property
    def longest_silence(self) -> tuple[int, int]:
        """Begin and end, in ms, of the longest time between utterances without speech or lost sound."""
        return self._swept(float("inf")).quiet

    def talk_over_between(self, from_ms: float, to_ms: float) -> float:
        """Time between the two in which two channels and more are spoken in, as far as it is remembered."""
        swept = _swept(self._spans, from_ms, to_ms)
        return sum(b - a for a, b, channels in swept if len([c for c in channels if c]) > 1)

    def _fold(self, to_ms: int) -> None:
        swept = self._swept(to_ms)
        self._over_ms, self._talked_over, self._quiet, self._spoken_to = swept
        # Begins stay as they were: who spoke first has the floor.
        self._spans = [span for span in self._spans if span[1] > to_ms]
        self.folded_ms = to_ms

    def _swept(self, to_ms: float) -> "_Swept":
        over_ms, talked_over = self._over_ms, Counter(self._talked_over)
        quiet, spoken_to = self._quiet, self._spoken_to
        for a, b, channels in _swept(self._spans, self.folded_ms, to_ms):
            speaking = [channel for channel in channels if channel]
            if len(speaking) > 1:
                over_ms += int(b - a)
                talked_over.update({channel: int(b - a) for channel in speaking[1:]})
            if spoken_to is not None and a - spoken_to > quiet[1] - quiet[0]:
                quiet = (spoken_to, int(a))
            if spoken_to is not None or speaking:
                spoken_to = int(b)
        return _Swept(over_ms, talked_over, quiet, spoken_to)


class _Swept(NamedTuple):
    over_ms: int
    talked_over: Counter[str]
    quiet: tuple[int, int]
    spoken_to: int | None


def _swept(
    spans: Iterable[tuple[float, float, str]], from_ms: float, to_ms: float
) -> Iterator[tuple[float, float, list[str]]]:
    """Begin, end and speakers of each stretch between two times; who began first comes first."""
    edges = sorted([(a, 1, c) for a, b, c in spans if b > a] + [(b, -1, c) for a, b, c in spans if b > a])
    now: dict[str, int] = {}  # in the order in which they began
    last = 0.0
    for at, change, channel in edges:
        begin, end = max(last, from_ms), min(at, to_ms)
        if now and end > begin:
            yield begin, end, list(now)
        now[channel] = now.get(channel, 0) + change
        if not now[channel]:
            del now[channel]
        last = at
