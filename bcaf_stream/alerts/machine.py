"""One rule on one channel as a state machine on the call's clock: a value each second in, states out. Pure.

    inactive -> pending -> firing -> recovering -> inactive
                   `for`     ^---------'  `keep_firing_for`, then `cool_down`

A state is a value: who knows the one of some second, and the values since, knows the present one. That is how a
revision is taken into account: the machine goes back to before it.
"""

from dataclasses import dataclass, replace
from typing import Literal

from bcaf_stream.alerts.rules import Rule

Phase = Literal["inactive", "pending", "firing", "recovering"]
ACTIVE = ("firing", "recovering")  # somebody was told, and it is not over


@dataclass(frozen=True, slots=True)
class State:
    """`since_ms` is when the phase began, `began_ms` when the first value was high enough, `fired_to_ms` until
    when the last firing lasted; `value` is the one that changed the phase."""

    phase: Phase = "inactive"
    since_ms: int = 0
    began_ms: int = 0
    fired_to_ms: int | None = None
    value: float | None = None


def step(rule: Rule, state: State, at_ms: int, value: float | None) -> State:
    """The state at `at_ms`, of the one a moment before and the value now; None is no data."""
    if value is None:
        # What has begun to recover goes on with that: nothing says otherwise.
        if state.phase == "inactive" or (rule.no_data == "keep" and state.phase != "recovering"):
            return state
        value_now, is_high, is_low = None, False, True
    else:
        value_now = value
        is_high = value >= rule.fire
        is_low = not is_high and value <= rule.recover_level
    new = replace(state, since_ms=at_ms, value=value_now)
    match state.phase:
        case "inactive":
            cools = state.fired_to_ms is not None and at_ms < state.fired_to_ms + rule.cool_down
            if not is_high or cools:
                return state
            return replace(new, phase="pending" if rule.for_ else "firing", began_ms=at_ms)
        case "pending":
            if not is_high:
                return replace(new, phase="inactive")
            return replace(new, phase="firing") if at_ms - state.began_ms >= rule.for_ else state
        case "firing":
            if not is_low:
                return state
            return replace(new, phase="recovering") if rule.keep_firing_for else _over(new, at_ms)
        case "recovering":
            if not is_low:
                return replace(new, phase="firing")
            return _over(new, at_ms) if at_ms - state.since_ms >= rule.keep_firing_for else state


def _over(state: State, at_ms: int) -> State:
    return replace(state, phase="inactive", fired_to_ms=at_ms)
