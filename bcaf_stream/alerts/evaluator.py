"""The rules on one call: its events in, and the time; what changes in its alerts out. Pure.

Every second of the call's clock each rule is asked, of the utterances that had ended by then. So the outcome
depends on what was said alone, not on when it became known: what comes later than the second that it belongs to,
and what is revised, takes the rules back to before it. What somebody was told and is not so any more is
`retracted`.

An alert that is over and would have been raised, had the words been there in time, is told all the same, with its
times, unless something else was told of that time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from bcaf_stream.alerts.machine import ACTIVE, Phase, State, step
from bcaf_stream.alerts.rules import AlertRules, Rule
from bcaf_stream.alerts.values import LONGEST_UTTERANCE_MS, Evidence, History, RuleValue
from bcaf_stream.alerts.when import compiled, fields_of
from bcaf_stream.events.event import AlertState, Event
from bcaf_stream.summary import JUDGED, Said, said_of
from bcaf_stream.types import Role

TICK_MS = 1000
SETTLE_MS = 1000  # after an utterance's end it is known: the segmenter's stop window, and some more
REVISABLE_MS = 600_000  # what is older is not judged anew
MOST_STATES = 256  # of one rule and channel, to go back to

LAPSED = "it did not last long enough"
CALL_ENDED = "the call has ended"
REVISED = "a revision took the evidence away"

_CACHED = 4096


@dataclass(frozen=True, slots=True)
class AlertChange:
    """An alert has another state, from `at_ms` on; `began_ms` is when its value was high enough first."""

    rule: Rule
    call: str
    channel: str  # "" where it is of the call
    role: Role | None
    state: AlertState
    value: float | None
    began_ms: int
    at_ms: int
    evidence: tuple[Evidence, ...] = ()
    reason: str | None = None

    @property
    def threshold(self) -> float:
        return self.rule.fire if self.state in ("pending", "firing") else self.rule.recover_level

    def to_fields(self) -> dict[str, Any]:
        """The fields of the `alert` event."""
        names = {
            "alert": self.rule.alert,
            "call": self.call,
            "channel": self.channel,
            "role": self.role or "",
            "state": self.state,
            "value": self.rule.shown(self.value),
            "threshold": self.rule.shown(self.threshold),
        }
        return {
            "rule": self.rule.alert,
            "state": self.state,
            "value": None if self.value is None else round(self.value, 6),
            "threshold": self.threshold,
            "labels": dict(self.rule.labels),
            "annotations": self.rule.annotated(names),
            "evidence": tuple(evidence.to_map() for evidence in self.evidence),
            "rule_hash": self.rule.hash,
            "notify": tuple(self.rule.notify),
            "channel": self.channel,
            "role": self.role,
            "start_ms": self.began_ms,
            "end_ms": self.at_ms,
            "reason": self.reason,
        }


@dataclass
class _Watch:
    """A rule on one channel, or on all that match; `states` are those of each change, the first one from 0 on."""

    rule: Rule
    channel: str
    value: RuleValue
    states: list[State] = field(default_factory=lambda: [State()])

    @property
    def state(self) -> State:
        return self.states[-1]

    def back_to(self, at_ms: int) -> list[State]:
        """Forget the changes from that time on, and return them, after the state before them."""
        kept = max(1, sum(state.since_ms < at_ms for state in self.states))
        gone = self.states[kept:]
        del self.states[kept:]
        return [self.state, *gone]


class AlertEvaluator:
    """Args:
    rules: of the file.
    call: its id.
    """

    def __init__(self, rules: AlertRules, call: str) -> None:
        self._call = call
        self._rules = rules.rules
        self._passes = [_filter(rule) for rule in self._rules]
        self._remembered_ms = REVISABLE_MS + max(rule.value.over_ms for rule in self._rules)
        self._settled_ms = LONGEST_UTTERANCE_MS + max(_longest_ms(rule) for rule in self._rules)
        self.reset()

    def reset(self) -> None:
        """Begin the call anew."""
        self._history = History()
        self._watches: dict[tuple[int, str], _Watch] = {}
        self.now_ms = 0  # the second that was looked at last
        for number, rule in enumerate(self._rules):
            if rule.value.is_of_time:
                self._watch(number, "")

    def push(self, event: Event) -> list[AlertChange]:
        """Take the next event of the call; return what it changes for the seconds that have been looked at."""
        if event.type == "audio.gap":
            return self._lose(event)
        said = said_of(event)
        if said is None or said.interim or event.type not in ("emotion.final", "emotion.revised", "degraded"):
            return []
        before = self._history.get(said.key)
        if said.end_ms < self._history.forgotten_ms or (
            before is not None and (said.revision, said.seq) <= (before.revision, before.seq)
        ):
            return []
        if before is not None and said.emotion is None and before.emotion is not None:
            # A revision that could not be judged: what was felt in it stands, its words are the new ones.
            said = replace(said, **{name: getattr(before, name) for name in JUDGED})
        self._history.put(said)
        self._watch_channel(said.channel, said.role)
        from_ms = min(said.start_ms, before.start_ms if before else said.start_ms)
        return self._look_again(from_ms, said.channel)

    def tick(self, to_ms: int) -> list[AlertChange]:
        """Look at every second up to that time, by which all that ended before it is known."""
        last = to_ms // TICK_MS * TICK_MS
        if last <= self.now_ms:
            return []
        changes: list[AlertChange] = []
        for at_ms in self._seconds(self.now_ms + TICK_MS, last):
            for watch in self._in_order():
                before = watch.state
                if self._step(watch, at_ms):
                    changes.append(self._change(watch, before, watch.state))
        self.now_ms = last
        if last - self._history.forgotten_ms > 2 * self._remembered_ms:
            self._history.forget_before(last - self._remembered_ms)
        return changes

    @property
    def states(self) -> dict[tuple[str, str], State]:
        """By alert and channel ("" for those of the call)."""
        return {(watch.rule.alert, watch.channel): watch.state for watch in self._in_order()}

    def end(self, to_ms: int) -> list[AlertChange]:
        """The call is over at that time: so are its alerts."""
        changes = self.tick(to_ms)
        for watch in self._in_order():
            if watch.state.phase != "inactive":
                before = watch.state
                watch.states.append(replace(before, phase="inactive", since_ms=self.now_ms))
                changes.append(replace(self._change(watch, before, watch.state), reason=CALL_ENDED))
        return changes

    def restore(self, events: Iterable[Event]) -> list[AlertChange]:
        """Go on with a call of which somebody else has told these events: its last utterances and its alerts.

        The seconds before are looked at once more where all that they depend on is known, so that a later revision
        can go back to any of them. What follows from the events and was not told any more is returned.
        """
        told: dict[tuple[int, str], State] = {}
        for event in events:
            if event.type == "alert":
                self._restore_alert(event, told)
            else:
                said = said_of(event)
                if said is not None and not said.interim:
                    self._history.put(said)
                    self.now_ms = max(self.now_ms, (said.end_ms - SETTLE_MS) // TICK_MS * TICK_MS)
        for own in self._history.of.values():
            for said in own:
                self._watch_channel(said.channel, said.role)
        known = [said for own in self._history.of.values() for said in own]
        whole = all(any(said.index == 0 for said in own) for own in self._history.of.values())
        known_ms = 0 if whole else min(said.end_ms for said in known)
        changes: list[AlertChange] = []
        for key in sorted(self._watches):
            watch, last = self._watches[key], told.get(key)
            from_ms = known_ms and (known_ms + watch.rule.value.over_ms) // TICK_MS * TICK_MS
            if last is not None and last.since_ms < from_ms:
                watch.states.append(last)
            for at_ms in self._seconds(from_ms + TICK_MS, self.now_ms):
                self._step(watch, at_ms)
            changes += self._untold(watch, last)
        return changes

    # How

    def _untold(self, watch: _Watch, last: State | None) -> list[AlertChange]:
        """What is to be said where `last` is the state that was told last; None: none was."""
        found = watch.states
        if last is None:
            return [self._change(watch, a, b) for a, b in pairwise(found)]
        if last.since_ms > self.now_ms:  # the second that the call is in: the others are not known to be looked at
            if not _alike(last, watch.state):
                found.append(last)
            return []
        same = next((n for n in reversed(range(len(found))) if _alike(found[n], last)), None)
        if same is None:
            return self._reconciled(watch, [found[0], last], found)
        return [self._change(watch, a, b) for a, b in pairwise(found[same:])]

    def _restore_alert(self, event: Event, told: dict[tuple[int, str], State]) -> None:
        number = next((n for n, rule in enumerate(self._rules) if rule.hash == event.rule_hash), None)
        if number is None:
            return  # of a rule that is not there any more
        self._watch(number, event.channel)
        key = (number, event.channel)
        phase: Phase = "inactive"
        if event.state is not None and event.state != "resolved" and event.state != "retracted":
            phase = event.state
        at_ms = event.end_ms or 0
        self.now_ms = max(self.now_ms, at_ms - TICK_MS)  # others may have changed at the same second
        fired = event.state == "resolved" and event.reason != LAPSED
        before = told.get(key)
        fired_to_ms = at_ms if fired else (before.fired_to_ms if before else None)
        told[key] = State(phase, at_ms, event.start_ms or 0, fired_to_ms, event.value)

    def _watch_channel(self, channel: str, role: Role | None) -> None:
        for number, rule in enumerate(self._rules):
            if not rule.value.is_of_time and _fits(rule, channel, role):
                self._watch(number, channel)

    def _watch(self, number: int, channel: str) -> _Watch:
        key = (number, channel)
        if key not in self._watches:
            value = RuleValue(self._rules[number], self._passes[number])
            self._watches[key] = _Watch(self._rules[number], channel, value)
        return self._watches[key]

    def _in_order(self) -> list[_Watch]:
        return [self._watches[key] for key in sorted(self._watches)]

    def _channels(self, watch: _Watch) -> Sequence[str]:
        if watch.channel:
            return (watch.channel,)
        return [name for name, role in self._history.roles.items() if _fits(watch.rule, name, role)]

    def _step(self, watch: _Watch, at_ms: int) -> bool:
        """Whether the state has changed at that second."""
        if at_ms <= watch.state.since_ms and len(watch.states) > 1:
            return False  # told before the call was resumed
        value = watch.value.at(self._history, self._channels(watch), at_ms)
        state = step(watch.rule, watch.state, at_ms, value)
        if state == watch.state:
            return False
        watch.states.append(state)
        if len(watch.states) > MOST_STATES:
            del watch.states[0]
        return True

    def _seconds(self, from_ms: int, to_ms: int) -> Iterator[int]:
        """The seconds between the two at which anything can change: not long after something happened."""
        if to_ms - from_ms <= self._settled_ms:
            yield from range(from_ms, to_ms + 1, TICK_MS)
            return
        ends = {from_ms, *(end for _, end, _ in self._history.lost)}
        ends |= {said.end_ms for own in self._history.of.values() for said in own}
        at_ms = from_ms
        for end_ms in sorted(ends):
            at_ms = max(at_ms, end_ms // TICK_MS * TICK_MS)
            until_ms = min(to_ms, end_ms + self._settled_ms)
            yield from range(at_ms, until_ms + 1, TICK_MS)
            at_ms = max(at_ms, (until_ms // TICK_MS + 1) * TICK_MS)

    def _lose(self, event: Event) -> list[AlertChange]:
        start_ms, end_ms = event.start_ms or 0, event.end_ms or 0
        if end_ms < self._history.forgotten_ms:
            return []
        self._history.lost.append((start_ms, end_ms, event.channel))
        self._history.roles.setdefault(event.channel, event.role)
        return self._look_again(start_ms, event.channel)

    def _look_again(self, from_ms: int, channel: str) -> list[AlertChange]:
        """Go through the seconds from that time on once more, for the rules that see the channel."""
        if from_ms > self.now_ms:
            return []
        changes = []
        for watch in self._in_order():
            if channel not in self._channels(watch):
                continue
            told = watch.back_to(from_ms)
            begin = max(-(-from_ms // TICK_MS) * TICK_MS, TICK_MS)
            found = [watch.state]
            found += [watch.state for at_ms in self._seconds(begin, self.now_ms) if self._step(watch, at_ms)]
            changes += self._reconciled(watch, told, found)
        return changes

    def _reconciled(self, watch: _Watch, told: list[State], found: list[State]) -> list[AlertChange]:
        """What is to be said where `told` was said, and `found` is so; both begin with the same state."""
        same = 0
        while same < min(len(told), len(found)) and _alike(told[same], found[same]):
            same += 1
        wrong, new = told[same:], found[same:]
        if not wrong:
            return [self._change(watch, a, b) for a, b in pairwise([found[same - 1], *new])]
        changes = []
        fired = [state for state in told[max(0, same - 1) :] if state.phase in ACTIVE]
        stands = any(state.phase in ACTIVE for state in found[max(0, same - 1) :])
        if fired and not stands:
            gone = State("inactive", self.now_ms)
            retracted = self._change(watch, fired[-1], gone)
            changes.append(replace(retracted, state="retracted", reason=REVISED))
            told = [gone]
        both_over = told[-1].phase == found[-1].phase == "inactive"
        if not both_over and not _alike(told[-1], found[-1]):
            changes.append(self._change(watch, told[-1], found[-1]))
        return changes

    def _change(self, watch: _Watch, before: State, after: State) -> AlertChange:
        began_ms = before.began_ms if after.phase == "inactive" else after.began_ms
        phase: AlertState = "resolved" if after.phase == "inactive" else after.phase
        evidence: Sequence[Evidence] = ()
        if phase in ("pending", "firing"):
            evidence = watch.value.evidence(self._history, self._channels(watch), after.since_ms)
        return AlertChange(
            rule=watch.rule,
            call=self._call,
            channel=watch.channel,
            role=self._history.roles.get(watch.channel) if watch.channel else watch.rule.match.role,
            state=phase,
            value=after.value,
            began_ms=began_ms,
            at_ms=after.since_ms,
            evidence=tuple(evidence),
            reason=LAPSED if before.phase == "pending" and phase == "resolved" else None,
        )


def evaluate(rules: AlertRules, events: Iterable[Event], call: str | None = None) -> list[AlertChange]:
    """The alerts of one call by its events, in their order: as if the rules had been there when they were told."""
    evaluator: AlertEvaluator | None = None
    changes: list[AlertChange] = []
    end_ms = 0
    for event in events:
        evaluator = evaluator or AlertEvaluator(rules, call or event.call)
        if event.type in ("emotion.interim", "alert", "heartbeat"):
            continue
        if event.end_ms is not None:
            end_ms = max(end_ms, event.end_ms)
            is_gap = event.type == "audio.gap"  # which is told when it begins
            changes += evaluator.tick((event.start_ms or 0) if is_gap else event.end_ms - SETTLE_MS)
        changes += evaluator.push(event)
    if evaluator is not None:
        changes += evaluator.end(end_ms)
    return changes


def _alike(a: State, b: State) -> bool:
    return (a.phase, a.since_ms) == (b.phase, b.since_ms)


def _fits(rule: Rule, channel: str, role: Role | None) -> bool:
    return rule.match.role in (None, role) and rule.match.channel in (None, channel)


def _longest_ms(rule: Rule) -> int:
    """After so much time without an utterance the rule's state stays as it is."""
    silence_ms = round(rule.fire * 1000) if rule.value.kind == "silence" else 0
    return rule.value.over_ms + silence_ms + rule.for_ + rule.keep_firing_for + rule.cool_down + 2 * TICK_MS


def _filter(rule: Rule) -> Callable[[Said], bool]:
    if rule.when is None:
        return lambda said: True
    passes = compiled(rule.when)
    known: dict[tuple[str, int, int, int], bool] = {}

    def cached(said: Said) -> bool:
        key = (*said.key, said.revision, said.seq)
        if key not in known:
            if len(known) > _CACHED:
                known.clear()
            known[key] = passes(fields_of(said))
        return known[key]

    return cached
