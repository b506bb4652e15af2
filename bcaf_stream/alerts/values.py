"""What a rule looks at: its value at a second of the call, of the utterances that had ended by then.

A pure function of the utterances and the second: the order in which they came does not matter.
"""

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bcaf_stream.alerts.rules import Rule
from bcaf_stream.summary import Floor, Said, mass, trend
from bcaf_stream.types import FOREIGN, UNSURE, Role

# Whether somebody speaks is known when the utterance is over, which may take as long as the longest one does
# (SegmenterConfig.max_ms): silence is told so much later.
LONGEST_UTTERANCE_MS = 15_000
MOST_EVIDENCE = 16


class Evidence(NamedTuple):
    """An utterance that an alert is about: the `probability` of its emotions, and its share as `weight`."""

    said: Said
    probability: float | None
    weight: float

    def to_map(self) -> dict[str, Any]:
        said = self.said
        return {
            "id": said.id,
            "channel": said.channel,
            "utterance": said.index,
            "revision": said.revision,
            "start_ms": said.start_ms,
            "end_ms": said.end_ms,
            "emotion": said.emotion,
            "probability": None if self.probability is None else round(self.probability, 6),
            "weight": round(self.weight, 6),
        }


@dataclass
class History:
    """The utterances of a call, as they were told last, and the sound that was lost."""

    of: dict[str, list[Said]] = field(default_factory=dict)  # by channel, by end
    roles: dict[str, Role | None] = field(default_factory=dict)
    lost: list[tuple[int, int, str]] = field(default_factory=list)  # begin, end, channel
    forgotten_ms: int = 0
    _by_key: dict[tuple[str, int], Said] = field(default_factory=dict)

    def put(self, said: Said) -> None:
        """Take an utterance, or its revision."""
        before = self._by_key.get(said.key)
        own = self.of.setdefault(said.channel, [])
        self.roles[said.channel] = said.role
        if before is not None:
            own.remove(before)
        self._by_key[said.key] = said
        insort(own, said, key=_end)

    def get(self, key: tuple[str, int]) -> Said | None:
        return self._by_key.get(key)

    def forget_before(self, at_ms: int) -> None:
        """What ended before it is never asked for again."""
        self.forgotten_ms = max(self.forgotten_ms, at_ms)
        for own in self.of.values():
            gone = bisect_left(own, at_ms, key=_end)
            for said in own[:gone]:
                del self._by_key[said.key]
            del own[:gone]
        self.lost = [span for span in self.lost if span[1] >= at_ms]

    def within(self, channels: Iterable[str], from_ms: int, to_ms: int) -> list[Said]:
        """What ended after `from_ms` and by `to_ms`, in that order."""
        found: list[Said] = []
        for channel in channels:
            own = self.of.get(channel, [])
            found += own[bisect_right(own, from_ms, key=_end) : bisect_right(own, to_ms, key=_end)]
        return sorted(found, key=lambda one: (one.end_ms, one.channel, one.index))

    def quiet_since(self, channels: Iterable[str], at_ms: int) -> int:
        """Since when, at that time, nobody has spoken in these channels and no sound was lost."""
        since = self.forgotten_ms
        for channel in channels:
            for said in reversed(self.of.get(channel, [])):
                if said.start_ms <= at_ms:
                    since = max(since, min(said.end_ms, at_ms))
                    break
        for start_ms, end_ms, channel in self.lost:
            if channel in channels and start_ms <= at_ms:
                since = max(since, min(end_ms, at_ms))
        return since


def _end(said: Said) -> int:
    return said.end_ms


class RuleValue:
    """The value of a rule on channels, at any second.

    Args:
        passes: the rule's `when`, asked of each utterance.
    """

    def __init__(self, rule: Rule, passes: Callable[[Said], bool]) -> None:
        self._rule, self._passes = rule, passes
        self._words = _pattern(rule.value.words) if rule.value.words else None

    def at(self, history: History, channels: Sequence[str], at_ms: int) -> float | None:
        """None where there is less evidence than the rule needs."""
        value = self._rule.value
        from_ms = at_ms - value.over_ms
        if value.kind == "silence":
            as_of_ms = at_ms - LONGEST_UTTERANCE_MS
            return max(0, as_of_ms - history.quiet_since(channels, as_of_ms)) / 1000
        if value.kind == "talk_over":
            return _talk_over_ms(history.within(channels, from_ms, at_ms), from_ms, at_ms) / value.over_ms
        said = self._usable(history, channels, from_ms, at_ms)
        need = self._rule.need
        speech_ms = sum(one.within_ms(from_ms, at_ms) for one in said)
        if len(said) < need.utterances or speech_ms < need.speech:
            return None
        match value.kind:
            case "mass":
                return mass(said, from_ms, at_ms, value.emotions, value.weight)
            case "trend":
                return trend(said, from_ms, at_ms, value.emotions, value.weight)
            case "share":
                ours = sum(one.within_ms(from_ms, at_ms) for one in said if one.emotion in value.emotions)
                return ours / speech_ms if speech_ms else None
            case _:
                return float(len(self._counted(said)))

    def evidence(self, history: History, channels: Sequence[str], at_ms: int) -> list[Evidence]:
        """The utterances that make the value, those first that weigh most."""
        value = self._rule.value
        from_ms = at_ms - value.over_ms
        if value.kind == "silence":
            last = history.within(channels, 0, at_ms)[-1:]
            return [Evidence(one, None, 1.0) for one in last]
        if value.kind == "talk_over":
            said = history.within(channels, from_ms, at_ms)
            over = [(_overlap_ms(one, said), one) for one in said]
            total = sum(ms for ms, _ in over)
            found = [Evidence(one, None, ms / total) for ms, one in over if ms]
        else:
            said = self._usable(history, channels, from_ms, at_ms)
            if value.kind in ("count", "words"):
                said = self._counted(said)
            speech_ms = sum(one.within_ms(from_ms, at_ms) for one in said) or 1
            alike = value.weight == "utterances" or value.kind in ("count", "words")
            found = [
                Evidence(
                    one,
                    one.mass(value.emotions) if value.emotions else None,
                    1 / len(said) if alike else one.within_ms(from_ms, at_ms) / speech_ms,
                )
                for one in said
            ]
        found.sort(key=lambda one: (-(one.probability or 1) * one.weight, one.said.end_ms, one.said.key))
        return found[:MOST_EVIDENCE]

    def _usable(self, history: History, channels: Sequence[str], from_ms: int, at_ms: int) -> list[Said]:
        """The utterances that count as evidence: judged, sure enough, and passed by `when`."""
        said = history.within(channels, from_ms, at_ms)
        return [one for one in said if self._is_sure(one) and self._passes(one)]

    def _is_sure(self, one: Said) -> bool:
        if self._words is None:
            return one.emotion is not None and (one.confidence or 0.0) >= self._rule.need.confidence
        if one.text is None or UNSURE in one.degraded or FOREIGN in one.degraded:
            return False
        return one.text_confidence is None or one.text_confidence >= self._rule.need.confidence

    def _counted(self, said: Sequence[Said]) -> list[Said]:
        if self._words is not None:
            return [one for one in said if one.text and self._words.search(one.text)]
        return [one for one in said if one.emotion in self._rule.value.emotions]


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Whole words and phrases, in any case; what is between the words of a phrase may be any space."""
    phrases = [r"\s+".join(re.escape(part) for part in phrase.split()) for phrase in words]
    return re.compile(r"(?<!\w)(?:" + "|".join(phrases) + r")(?!\w)", re.IGNORECASE)


def _talk_over_ms(said: Iterable[Said], from_ms: int, to_ms: int) -> float:
    floor = Floor()
    for one in said:
        floor.add(one.start_ms, one.end_ms, one.who)
    return floor.talk_over_between(from_ms, to_ms)


def _overlap_ms(one: Said, others: Iterable[Said]) -> float:
    return sum(other.within_ms(one.start_ms, one.end_ms) for other in others if other.who != one.who)
