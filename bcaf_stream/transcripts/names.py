"""The names of speakers that stand in the text itself: "Name:", "[SPEAKER_00]:", ">> Caller:".

"Note: my number is 4711" is speech. So a prefix is a name only by evidence: its form (a tag, a role, the call's
own names), or the way of the whole file (most cues begin with one, they come again, they are written as names).
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from bcaf_stream.transcripts.cleanup import SOUND

ROLE_WORDS = {
    "customer": "customer",
    "caller": "customer",
    "client": "customer",
    "agent": "agent",
    "representative": "agent",
    "rep": "agent",
    "advisor": "agent",
    "adviser": "agent",
}
_TAG = r"(?:unknown |unidentified )?(?:speaker|spk|participant|channel)(?:[ _-]?(?:\d{1,3}|[A-Z]))?|S\d{1,2}"
TAG = re.compile(rf"(?:{_TAG})$", re.IGNORECASE)
ROLE = re.compile(rf"(?:{'|'.join(ROLE_WORDS)})(?:[ _#-]*\d{{1,3}})?$", re.IGNORECASE)
PREFIX = re.compile(
    r"(?P<turn>[^\S\n]*(?:>+|[-\u2013\u2014])?[^\S\n]*)"
    r"(?:[\[(](?P<boxed>[^\[\]()\n:]{1,40})[\])](?P<mark>[^\S\n]*[:\uff1a])?"
    r"|(?P<name>[^\W\d_][^:\uff1a\n\[\]<>{}|=]{0,59}?)[^\S\n]*(?::(?=\s|$)|\uff1a))"
)
PLACE = re.compile(r"(?m)^|(?<=[.?!\u2026])[^\S\n]+(?=\S)|(?<=\s)(?=>>)|(?=\[)|(?<=\s)(?=\(speaker)")
ASIDE = re.compile(r"\s*\([^()]*\)\s*$")
PARTICLE = re.compile(
    r"(?:de|da|di|du|del|della|der|den|van|von|la|le|al|bin|ben|el|y|of|zu|ten|ter|dos|das)$", re.IGNORECASE
)
NO_NAME = re.compile(  # what people begin a sentence with
    r"(?:"
    r"note|look|listen|question|answer|remember|warning|attention|reminder|example|first|second|third"
    r"|fourth|finally|option|step|result|conclusion|problem|update|tip|fact|plus|ps|re|subject|to|from|date"
    r"|time|address|phone|email|e-mail|number|name|total|price|well|so|and|but|okay|ok|yes|no|yeah|yep|nope"
    r"|sure|right|hi|hello|hey|sorry|please|thanks|wait|see|here|now|then|today|tomorrow|yesterday|also"
    r"|again|or|because|if|when|where|what|why|who|how|monday|tuesday|wednesday|thursday|friday|saturday"
    r"|sunday|january|february|march|april|may|june|july|august|september|october|november|december"
    r"|important|anyway|actually|basically|honestly|seriously|besides|however|therefore|meanwhile|otherwise"
    r"|next|last|one|two|three|four|five|six|seven|eight|nine|ten|summary|title|chapter|source|website|url"
    r"|web|password|username|pin|code|id|account|reference|ref|case|ticket|order|invoice|item|amount"
    r"|balance|reason|issue|solution|caution|danger|disclaimer|translation|subtitles|captions|transcript"
    r"|kind|language|guess|imagine|quote|unquote|meaning|namely|point|truth|bottom"
    r")$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a text, [start, end), said by `speaker`; None where the text names nobody."""

    speaker: str | None
    start: int
    end: int


class Names:
    """Which prefixes of these texts are names; then `split` takes them off.

    Args:
        texts: all cues of a file that name no speaker beside the text.
        known: names that are certain: those of the call's channels, and those that the user gave.
    """

    def __init__(self, texts: Sequence[str], known: Collection[str] = ()) -> None:
        self._known = {_folded(name) for name in known}
        spoken = [text for text in texts if text.strip()]
        openings = [_openings(text) for text in spoken]
        self._names = self._evident(openings, len(spoken))

    def split(self, text: str) -> list[Part]:
        """The text in stretches of one speaker, without the names. What stands before the first name has none."""
        parts: list[Part] = []
        for found in _prefixes(text):
            name = _named(found)
            likely = _folded(name) in self._names and (not found["boxed"] or _stands_alone(found))
            if not (likely or self._certain(found)):
                continue
            if not parts and text[: found.start()].strip():
                parts.append(Part(None, 0, found.start()))
            elif parts:
                parts[-1] = Part(parts[-1].speaker, parts[-1].start, found.start())
            parts.append(Part(name, found.end(), len(text)))
        return parts or [Part(None, 0, len(text))]

    def _certain(self, found: re.Match[str]) -> bool:
        """By its form alone."""
        name = _named(found)
        bare = ASIDE.sub("", name)
        if _folded(name) in self._known or _folded(bare) in self._known:
            return not found["boxed"] or bool(found["mark"])
        if found["boxed"]:
            return bool(TAG.match(name) or (found["mark"] and not NO_NAME.match(name)))
        if ">" in found["turn"] and _written_as_name(name):
            return not NO_NAME.match(name)
        return bool(TAG.match(bare) or ROLE.match(bare))

    def _evident(self, openings: list[list[re.Match[str]]], cues: int) -> set[str]:
        """Names by the way of the file."""
        certain = [f for found in openings for f in found if self._certain(f)]
        guessed = [f for found in openings for f in found if not self._certain(f)]
        named = sum(1 for found in openings if found)
        usual = 2 * named >= cues  # most cues begin with one
        always = named == cues and cues >= 4
        counts = Counter(_folded(_named(f)) for f in guessed)
        repeated = sum(1 for count in counts.values() if count > 1) + bool(certain)
        several = len(counts) + bool(certain) > 1
        names: set[str] = set()
        for found in guessed:
            name = _named(found)
            count, key = counts[_folded(name)], _folded(name)
            strong = _written_as_name(name) and (" " in name or name.isupper())
            if found["boxed"] and not (_stands_alone(found) and count > 1):
                continue
            if NO_NAME.match(name) or (not _written_as_name(name) and not (always and count > 1)):
                continue
            if usual:
                evident = count > 1 or several or strong
            else:
                evident = (count > 1 and (repeated > 1 or strong)) or (strong and bool(certain))
            if evident:
                names.add(key)
        return names


def _prefixes(text: str) -> Iterable[re.Match[str]]:
    """What may be a name: at the beginning of a line, behind the end of a sentence, or with a tag or arrows."""
    at = 0
    for place in PLACE.finditer(text):
        found = PREFIX.match(text, place.end()) if place.end() >= at else None
        if found:
            at = found.end()
            yield found


def _stands_alone(found: re.Match[str]) -> bool:
    """Whether it is as captions of meetings have it: (Maria Lopez) on a line of its own."""
    opened = found.string[found.start("boxed") - 1] == "("
    return opened and found.string[found.end() : found.end() + 1] in ("", "\n") and not SOUND.search(_named(found))


def _openings(text: str) -> list[re.Match[str]]:
    """The prefixes of the lines."""
    return [found for found in (PREFIX.match(line) for line in text.split("\n")) if found]


def _named(found: re.Match[str]) -> str:
    return " ".join((found["boxed"] or found["name"]).split())


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def _written_as_name(name: str) -> bool:
    """Up to five words, each with a capital (or in a script without), but for particles; no sentence."""
    words = ASIDE.sub("", name).replace(",", " ").split()
    if not 0 < len(words) <= 5 or name.count(",") > 1:
        return False
    for place, word in enumerate(words):
        plain = word.strip(".'\u2019\"")
        if (
            not plain
            or any(mark in plain for mark in "?!;\u2026")
            or ("." in plain and not re.match(r"(\w\.)+\w$", plain))
        ):
            return False
        if plain[0].islower() and (place == 0 or not PARTICLE.match(plain)):
            return False
        if word.endswith(".") and len(plain) > 3:
            return False
        if plain[0].isdigit() and place == 0:
            return False
    return True
