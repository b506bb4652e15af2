"""When two runs gave the same events: every field but the wall clock, the place in the journal and the way in.

Probabilities may differ by 2e-6: they are rounded to six decimals, and another batch size moves a float32.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bcaf_stream.events.event import Event

_NUMBERS = ("probs", "audio_probs", "text_probs")


def assert_same_events(found: Sequence[Event], expected: Sequence[Event]) -> None:
    assert [_fixed(event) for event in found] == [_fixed(event) for event in expected]
    for a, b in zip(found, expected, strict=True):
        assert (a.confidence or 0) == pytest.approx(b.confidence or 0, abs=2e-6)
        for name in _NUMBERS:
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            assert dict(x or {}) == pytest.approx(dict(y or {}), abs=2e-6)
        assert _measured(a) == pytest.approx(_measured(b), abs=4e-6)


def _fixed(event: Event) -> Event:
    nothing = dict.fromkeys(_NUMBERS) | {"probs": {}, "confidence": None, "offset": None}
    nothing |= {"valence": None, "arousal": None, "protocol": None}
    evidence = event.evidence and tuple({**one, "probability": None, "weight": None} for one in event.evidence)
    return replace(event, emitted_at=0, speech_ended_at=None, value=None, evidence=evidence, **nothing)


def _measured(event: Event) -> list[float]:
    """What follows from probabilities: valence and arousal, and what an alert says."""
    evidence = [one[name] or 0 for one in event.evidence or () for name in ("probability", "weight")]
    return [event.value or 0, event.valence or 0, event.arousal or 0, *evidence]
