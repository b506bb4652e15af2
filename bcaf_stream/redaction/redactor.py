"""Takes cards, accounts, phones, e-mail addresses and identity numbers out of the words of a call.

Pure; `{card}` stands in their place. Three kinds of evidence, the first that decides:
check digits and formats (Luhn, IBAN, national numbers: python-stdnum; numbering plans: phonenumbers); the word
nearest to a number in its utterance ("card", "flight"); what was spoken of shortly before, by anybody in the call,
because a number is asked for by one and read out by the other, in groups that are utterances of their own.

What is read out digit by digit, or long, and is nothing else is taken for an account: a number too many that is
hidden costs less than one that is stored.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import phonenumbers
from stdnum import iban, luhn
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.it import codicefiscale
from stdnum.us import ssn

from bcaf_stream.redaction.numbers import NUMERIC, Number, numbers
from bcaf_stream.types import Redacted

REGIONS = ("US", "GB")  # of phone numbers without their country
CONTEXT_MS = 45_000  # of stream time after which what was spoken of is over
LONG = 8  # digits that are nobody's age, price or year
LONG_SPOKEN = 6
LEAST = {"card": 3, "account": 4, "phone": 6, "id_number": 4}  # digits of a number that its context names

CONTEXT: dict[str, str] = {
    "card": r"cards?|visa|mastercard|master card|amex|american express|cvv\d?|cvc\d?"
    r"|(?:digits|numbers?|code|ones?) on (?:the|its|my|your) (?:back|front|reverse)|long number"
    r"|(?:security|verification) (?:code|value)|pin|expir\w+",
    "account": r"accounts?|acct|sort code|routing|iban|bank\w*|member(?:ship)? (?:number|id)|policy number"
    r"|customer number",
    "phone": r"(?:tele)?phone|mobile|cell|landline|call me|call back|callback|reach (?:me|you)|text me"
    r"|contact number|whatsapp|ring me|fax",
    "id_number": r"social(?: security)?|ssn|passport|national insurance|driv(?:er|ing)\S* licen[cs]e"
    r"|licen[cs]e number|tax (?:id|number)|identity (?:card|number)|national id|id (?:card|number)",
    "": r"orders?|tickets?|flights?|zip|post ?code|postal code|references?|tracking|invoices?|models?|versions?"
    r"|rooms?|extension|ext|case|serial|train|bus|gate|seat|page|channel|code|building|apartment|street",
}
_CONTEXT = re.compile(
    "|".join(rf"(?P<k{n}>\b(?:{words})\b)" for n, words in enumerate(CONTEXT.values())), re.IGNORECASE
)
_KINDS = tuple(CONTEXT)
_SHOWN = re.compile(r"\{(card|account|phone|email|id_number)\}")

_EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
_TOP = r"(?:com|org|net|edu|gov|io|co|uk|de|fr|it|es|nl|eu|us|ca|au|me|info|biz|ie|in|ch|at|pl|se)"
_JOIN = (
    r"(?:\s*(?:[._-]|\b(?:dot|point|period|underscore|dash|hyphen|plus)\b)\s*|(?<=\b[a-z0-9])\s+(?=[a-z0-9]\b))"
)
_SPOKEN_EMAIL = re.compile(
    rf"(?:(?<=\bis\s)(?:\w+\s+){{0,5}})?"  # "my address is john smith at ...": all that is read out
    rf"\b(?!(?:website|site|page|store|shop|online|looks?|looked|looking|bought|ordered|found|it|me|us|you|them)\b)"
    rf"\w+(?:{_JOIN}\w+)*(?:\s+(?:{NUMERIC}|\d+))*\s+at\s+(?:the\s+)?\w+(?:[\s-]\w+)?"
    rf"(?:\s*(?:\.|\bdot\b|\bpoint\b)\s*\w+)*?(?:\s*(?:\.|\bdot\b|\bpoint\b)\s*{_TOP}\b)+",
    re.IGNORECASE,
)
_MIXED = re.compile(r"\b(?=(?:\w[ -]?)*\d)[A-Z][A-Z0-9](?:[ -]?[A-Z0-9]){6,32}\b", re.IGNORECASE)
_LETTERED = re.compile(r"\b[A-Z]{1,3}-?\d{5,12}[A-Z]?\b", re.IGNORECASE)  # of a passport, a licence, a policy
_IN_YEAR = re.compile(r"(?<!ends )(?<!ending )\b(?:in|since|of|year|until|before|after)\s*$", re.IGNORECASE)
_FILLERS = re.compile(
    r"\b(?:uh|um|er|erm|yeah|yes|yep|okay|ok|so|sure|it's|it is|that's|then|and|well)\b", re.IGNORECASE
)
_WORD = re.compile(r"\w+")
_SSN = re.compile(r"\b\d{3}-\d{2}-\d{4}\b")
_NINO = re.compile(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]")  # National Insurance
_DNI = re.compile(r"\b\d{8}[ -]?[A-Z]\b", re.IGNORECASE)


class _Span(NamedTuple):
    start: int
    end: int
    kind: str


class Redactor:
    """Args:
    kinds: what is taken out.
    """

    def __init__(self, kinds: Sequence[Redacted]) -> None:
        self._kinds = frozenset[str](kinds)
        self.reset()

    def reset(self) -> None:
        """Begin the call anew."""
        self._topic = ("", -CONTEXT_MS)  # the kind that was spoken of last, and when
        self._open: dict[str, str] = {}  # digits at the end of a channel's last utterance

    def push(self, channel: str, text: str, at_ms: int) -> tuple[str, int]:
        """The next words of a channel without what is taken out, and how many spans that was."""
        spoken = numbers(text)
        found = self._found(channel, text, at_ms, spoken)
        self._heed(channel, text, at_ms, [span.kind for span in found], spoken)
        return self._cut(text, found)

    def peek(self, channel: str, text: str, at_ms: int) -> tuple[str, int]:
        """The same, of words that may still change."""
        return self._cut(text, self._found(channel, text, at_ms, numbers(text)))

    def _cut(self, text: str, found: Sequence[_Span]) -> tuple[str, int]:
        ours = [span for span in found if span.kind in self._kinds]
        for span in reversed(ours):
            text = f"{text[: span.start]}{{{span.kind}}}{text[span.end :]}"
        return text, len(ours)

    def _heed(self, channel: str, text: str, at_ms: int, kinds: Sequence[str], spoken: Sequence[Number]) -> None:
        topics = [_KINDS[(match.lastindex or 1) - 1] for match in _CONTEXT.finditer(text)]
        topics = [topic for topic in [*topics, *_SHOWN.findall(text), *kinds] if topic in LEAST]
        if topics:
            self._topic = (topics[-1], at_ms)
        ends = bool(spoken) and _is_blank(text[spoken[-1].end :])
        self._open[channel] = spoken[-1].digits if ends else ""

    def _found(self, channel: str, text: str, at_ms: int, spoken: Sequence[Number]) -> list[_Span]:
        found: list[_Span] = []

        def add(start: int, end: int, kind: str) -> None:
            if all(end <= span.start or start >= span.end for span in found):
                found.append(_Span(start, end, kind))

        for pattern in (_EMAIL, _SPOKEN_EMAIL):
            for match in pattern.finditer(text):
                add(*match.span(), "email")
        for word in _WORD.finditer(text):
            for pattern, kind, is_one in _FORMATS:
                candidate = pattern.match(text, word.start())
                if candidate is None:
                    continue
                lengths = [end.end() for end in _WORD.finditer(candidate[0])]
                length = next((n for n in reversed(lengths) if is_one(candidate[0][:n])), None)
                if length is not None:
                    add(word.start(), word.start() + length, kind)
        for match in _LETTERED.finditer(text):
            named = _nearest(text, *match.span())
            if named in ("id_number", "account"):
                add(*match.span(), named)
        topic = self._topic[0] if at_ms - self._topic[1] <= CONTEXT_MS else ""
        for number in spoken:
            kind = self._kind(channel, text, number, topic)
            if kind:
                add(number.start, number.end, kind)
        return sorted(found)

    def _kind(self, channel: str, text: str, number: Number, topic: str) -> str:
        digits, count = number.digits, len(number.digits)
        starts, ends = _is_blank(text[: number.start]), _is_blank(text[number.end :])
        joined = self._open.get(channel, "") + digits if starts else digits
        if count == 4 and digits[:2] in ("19", "20") and _IN_YEAR.search(text[: number.start]):
            return ""
        if any(_is_card(one) for one in (digits, joined)):
            return "card"
        named = _nearest(text, number.start, number.end)
        if named is not None and (named in LEAST or count < 13) and not number.amount:
            if named in ("card", "account") and count >= 10 and number.plus and _is_phone(number):
                return "phone"
            if named == "" and not (number.spoken and count >= 10):
                return ""
            if named and count >= LEAST[named]:
                return named
        if number.amount:
            return ""
        if _is_phone(number):
            return "phone"
        alone, edge = starts and ends, starts or ends
        if topic and (alone or (edge and number.spoken)) and count >= LEAST[topic] - 2 * alone:
            return topic
        if topic and count >= max(4, LEAST[topic]) and (number.spoken or count >= 6):
            return topic
        if count >= LONG or (number.spoken and (count >= LONG_SPOKEN or (edge and count >= 4))):
            return topic or "account"
        return ""


def _is_blank(text: str) -> bool:
    """Whether nothing is said in it."""
    return not re.search(r"\w", _FILLERS.sub("", text))


def _nearest(text: str, start: int, end: int) -> str | None:
    """What the words of the utterance say of the number: a kind, "" for something else, None for nothing."""
    best, distance = None, 10_000
    for match in _CONTEXT.finditer(text):
        after = match.start() >= end
        away = match.start() - end if after else start - match.end()
        kind = _KINDS[(match.lastindex or 1) - 1]
        if kind == "" and (after or away > 20):
            continue  # "flight 1234", not "four four seven nine in the order"
        away += 30 * after
        if away < distance:
            best, distance = kind, away
    return best


def _is_card(digits: str) -> bool:
    """Whether a card's number is in it; what follows is when it expires."""
    return any(
        digits[:length][0] in "3456" and luhn.is_valid(digits[:length])
        for length in (16, 15, 14, 13, 19, 18, 17)
        if len(digits) >= length and len(set(digits[:length])) > 1
    )


def _is_phone(number: Number) -> bool:
    if not 9 <= len(number.digits) <= 15:
        return False
    for region in (None,) if number.plus else REGIONS:
        try:
            parsed = phonenumbers.parse(f"{'+' * number.plus}{number.digits}", region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(parsed):
            return True
    return False


def _is_national(text: str) -> bool:
    compact = re.sub(r"[ -]", "", text).upper()
    checks = (dni.is_valid, nie.is_valid, codicefiscale.is_valid)
    return bool(_NINO.fullmatch(compact)) or any(check(compact) for check in checks)


_FORMATS: tuple[tuple[re.Pattern[str], str, Callable[[str], bool]], ...] = (
    (_MIXED, "account", iban.is_valid),
    (_MIXED, "id_number", _is_national),
    (_DNI, "id_number", _is_national),
    (_SSN, "id_number", ssn.is_valid),
    (re.compile(r"\b[12] ?\d\d ?\d\d ?\d\d ?\d{3} ?\d{3} ?\d\d\b"), "id_number", nir.is_valid),
)
