"""Captions that show again what they showed before: each line, and each word, is to be read once.

It is the way of a whole file, or it is none: somebody may well say the same sentence twice.
"""

from dataclasses import dataclass
from itertools import pairwise

LEAST_STEPS = 3  # of a file whose captions grow, and
STEPS_IN = 3  # one of so many
NEXT_MS = 100  # a caption that grows is on the screen without a break


@dataclass(slots=True)
class Screen:
    """What a subtitle file shows at once: the lines of its payload, with and without markup."""

    where: str
    start_ms: int
    end_ms: int
    lines: list[tuple[str, str]]  # as it stands, as it is read
    name: str | None


def unrolled(screens: list[Screen]) -> list[Screen]:
    """The same without what is shown again.

    Captions roll (the last line stands again above, or instead of, the new one), or grow (a caption of live speech
    has the words of the one before and some more).
    """
    return _ungrown(_without_lines(screens))


def _without_lines(screens: list[Screen]) -> list[Screen]:
    texts = [[read for _, read in screen.lines if read] for screen in screens]
    pairs = [(a, b) for a, b in pairwise(texts) if a and b]
    rolled = [b for a, b in pairs if a[-1] == b[0]]
    if len(pairs) < 2 or 2 * len(rolled) < len(pairs) or all(len(b) == 1 for b in rolled):
        return screens
    before: list[str] = []
    for screen, shown in zip(screens, texts, strict=True):
        again = next((n for n in range(min(len(before), len(shown)), 0, -1) if before[-n:] == shown[:n]), 0)
        screen.lines = [line for line in screen.lines if line[1]][again:]
        before = shown or before
    return [screen for screen in screens if screen.lines]


def _ungrown(screens: list[Screen]) -> list[Screen]:
    texts = [[word for _, read in screen.lines for word in read.split()] for screen in screens]
    again = [0]
    for (before, shown), (old, new) in zip(pairwise(screens), pairwise(texts), strict=True):
        known = [_plain(word) for word in new[: len(old)]] == [_plain(word) for word in old]
        again.append(len(old) if known and shown.start_ms <= before.end_ms + NEXT_MS else 0)
    steps = sum(0 < count < len(text) for count, text in zip(again, texts, strict=False))
    if steps < LEAST_STEPS or STEPS_IN * steps < len(screens) - 1:
        return screens
    for screen, text, count in zip(screens, texts, again, strict=False):
        if count:
            left = " ".join(text[count:])
            screen.lines = [(left, left)] if left else []
    return [screen for screen in screens if screen.lines]


def _plain(word: str) -> str:
    """Without case and marks, which live captions change as they grow."""
    return "".join(letter for letter in word.casefold() if letter.isalnum()) or word
