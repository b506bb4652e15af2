"""Numbers in a sentence, as they are written or read out: "4479 1234", "double five", "oh", "forty-four".

Pure text. What is plainly an amount, a date or a time ("$45.99", "10:30", "twenty dollars") is told apart.
"""

import re
from dataclasses import dataclass

ONES = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], "0123456789", strict=True
    )
)
ONES |= {"oh": "0", "o": "0", "nought": "0", "naught": "0", "nil": "0", "niner": "9"}
TEENS = [
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TEENS_DIGITS = {word: str(n) for n, word in enumerate(TEENS, 10)}
TENS = {
    word: n
    for n, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
SCALES = {"hundred": "00", "thousand": "000"}
REPEATS = {"double": 2, "triple": 3, "treble": 3}

NUMERIC = "|".join([*ONES, *TEENS, *TENS, *SCALES, *REPEATS])
_TOKEN = re.compile(rf"(?<![\w.])(?:\d+|(?:{NUMERIC}))(?!\w)|(?<=[.])\d+(?!\w)", re.IGNORECASE)
_BETWEEN = re.compile(
    r"(?:[\s,.;()/–—-]|\b(?:uh|um|er|erm|dash|hyphen|space|and|then|okay|ok|yeah)\b)*", re.IGNORECASE
)
_YEAR = (  # not at the begin of an utterance, nor among other digits, nor where a number is told
    r"(?<!\A)(?<!\d[ -])(?<!\bends in )(?<!ending in )(?<!ending )(?<!\bis )(?<!\bare )(?<!number )(?<!'s )"
    r"\b(?:19|20)\d\d\b(?![ -]\d)"
)
_AMOUNT = re.compile(  # also dates, times, shares
    r"[$£€]\s?\d[\d,.]*|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|(?<![\d.])\d+\.\d{1,2}(?![\d.])|\d[\d.]*\s?%"
    r"|\d{1,2}:\d{2}|\b\d{1,2}/\d{1,2}(?:/\d{2,4})?\b|\b(?:19|20)\d\d-\d\d-\d\d\b|" + _YEAR
)
_UNIT = re.compile(
    r"\s*(?:dollars?|pounds?|euros?|bucks|quid|pence|cents?|percent|per cent|seconds?|minutes?|hours?|days?|weeks?"
    r"|months?|years?|people|times|items?|units?|miles|kilomet\w+|met(?:er|re)s|degrees|megabytes?|gigabytes?|points?"
    r"|o'clock|a\.?m\b|p\.?m\b|million|billion)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Number:
    """`digits` from `start` to before `end` of a text; `spoken` where all of it is read out digit by digit."""

    start: int
    end: int
    digits: str
    spoken: bool
    amount: bool
    plus: bool  # "+" or "plus" stands before it


def numbers(text: str) -> list[Number]:
    """The numbers of a text, in order; groups of digits that follow each other are one."""
    amounts = [match.span() for match in _AMOUNT.finditer(text)]
    tokens = [
        token for token in _TOKEN.finditer(text) if not any(start <= token.start() < end for start, end in amounts)
    ]
    groups: list[list[re.Match[str]]] = []
    for token in tokens:
        if groups and _BETWEEN.fullmatch(text, groups[-1][-1].end(), token.start()):
            groups[-1].append(token)
        else:
            groups.append([token])
    return [number for group in groups if (number := _number(text, group)) is not None]


def _number(text: str, tokens: list[re.Match[str]]) -> Number | None:
    digits, spoken, scaled, repeat, tens = "", True, False, 1, False
    for token in tokens:
        word = token[0].lower()
        if word in REPEATS:
            repeat = REPEATS[word]
            continue
        if word in TENS:
            digits, tens, spoken = digits + f"{TENS[word]}0" * repeat, True, False
        elif word in ONES:
            one = ONES[word]
            # "forty four" is 44, "forty oh four" is 4004
            digits = digits[:-1] + one if tens and one != "0" else digits + one * repeat
            tens = False
        else:
            written = word.isdigit()
            spoken = spoken and written and len(word) == 1
            scaled |= word in SCALES
            digits += (word if written else SCALES.get(word) or TEENS_DIGITS[word]) * repeat
            tens = False
        repeat = 1
    if not digits:
        return None
    start, end = tokens[0].start(), tokens[-1].end()
    before = text[:start].rstrip()
    plus = before.endswith("+") or before.lower().endswith("plus")
    if plus:
        start = len(before) - (1 if before.endswith("+") else 4)
    if before.endswith("(") and ")" in text[start:end]:
        start = before.rindex("(")
    amount = (scaled and len(digits) < 10) or bool(_UNIT.match(text, end)) or before.endswith(("$", "£", "€"))
    return Number(start, end, digits, spoken, amount, plus)
