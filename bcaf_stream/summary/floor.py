"""Who has the floor: time in which several channels are spoken in, and the longest silence."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping


class Floor:
    """Who speaks when: talk-over and silence, in bounded memory.

    Spans may come in any order, as long as they end after `folded_ms`.
    """

    def __init__(self, keep: int | None = None) -> None:
        self._keep = keep
        self._spans: list[tuple[int, int, str]] = []  # start, end, channel; "" is lost sound
        self._over_ms = 0  # before folded_ms
        self._quiet = (0, 0)  # the longest silence before it
        self._spoken_to: int | None = None  # the end of all speech before it
        self.folded_ms = 0

    def add(self, start_ms: int, end_ms: int, channel: str) -> None:
        if end_ms > start_ms and end_ms > self.folded_ms:
            self._spans.append((max(start_ms, self.folded_ms), end_ms, channel))
        if self._keep and len(self._spans) > 2 * self._keep:
            self._fold(sorted(start for start, *_ in self._spans)[-self._keep])

    def relabel(self, names: Mapping[str, str]) -> None:
        """Who was taken for somebody else is that one, in all that is remembered span by span."""
        self._spans = [(a, b, names.get(who, who)) for a, b, who in self._spans]

    @property
    def talk_over_ms(self) -> int:
        """Time in which two channels and more are spoken in."""
        return self._over_ms + self._swept(float("inf"))[0]

    @property
    def longest_silence(self) -> tuple[int, int]:
        """Begin and end, in ms, of the longest time between utterances without speech or lost sound."""
        return self._swept(float("inf"))[1]

    def talk_over_between(self, from_ms: float, to_ms: float) -> float:
        """Time between the two in which two channels and more are spoken in, as far as it is remembered."""
        clipped = [(max(a, from_ms), min(b, to_ms), c) for a, b, c in self._spans if a < to_ms and b > from_ms]
        return sum(b - a for a, b, channels in _swept(clipped) if len(channels - {""}) > 1)

    def _fold(self, to_ms: int) -> None:
        over_ms, self._quiet, self._spoken_to = self._swept(to_ms)
        self._over_ms += over_ms
        self._spans = [(max(a, to_ms), b, channel) for a, b, channel in self._spans if b > to_ms]
        self.folded_ms = to_ms

    def _swept(self, to_ms: float) -> tuple[int, tuple[int, int], int | None]:
        over_ms, quiet, spoken_to = 0, self._quiet, self._spoken_to
        for a, b, channels in _swept([(a, min(b, to_ms), c) for a, b, c in self._spans if a < to_ms]):
            if len(channels - {""}) > 1:
                over_ms += int(b - a)
            if spoken_to is not None and a - spoken_to > quiet[1] - quiet[0]:
                quiet = (spoken_to, int(a))
            if spoken_to is not None or channels - {""}:
                spoken_to = int(b)
        return over_ms, quiet, spoken_to


def _swept(spans: Iterable[tuple[float, float, str]]) -> Iterator[tuple[float, float, set[str]]]:
    """The stretches in which somebody speaks, and who, in the order of time."""
    edges = sorted([(a, 1, c) for a, b, c in spans if b > a] + [(b, -1, c) for a, b, c in spans if b > a])
    now: Counter[str] = Counter()
    last = 0.0
    for at, change, channel in edges:
        if +now and at > last:
            yield last, at, set(+now)
        now[channel] += change
        last = at
