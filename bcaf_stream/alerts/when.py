"""A rule's `when:`: an expression of CEL (cel.dev) over an utterance's event, which passes it or not.

The library has no bound on time of its own. Without the macros that loop, an expression costs no more than its
length, which is bounded: so these are refused. Regular expressions are linear in it (RE2's kind).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from bcaf_stream.summary import Said

LOOPS = re.compile(r"\.\s*(all|exists|exists_one|map|filter|reduce|sortBy|transform\w*)\s*\(")
MISSING = "when needs the CEL library: pip install 'bcaf-stream[alerts]'"

# Every field that an expression may ask for, in its usual type: tried when the rules are read.
SAMPLE: dict[str, Any] = {
    "channel": "customer",
    "role": "customer",
    "utterance": 1,
    "revision": 0,
    "seq": 2,
    "start_ms": 1000,
    "end_ms": 3000,
    "text": "some words",
    "text_source": "asr",
    "text_confidence": 0.9,
    "emotion": "anger",
    "confidence": 0.8,
    "probs": {},
    "modalities": ["audio", "text"],
    "degraded": [],
    "reason": "",
    "speaker": "",
}


def compiled(expression: str) -> Callable[[Mapping[str, Any]], bool]:
    """The expression as a filter of events; what it cannot be asked of does not pass.

    Raises:
        ValueError: it is no expression of CEL, loops, or the library is not installed.
    """
    program = _program(expression)

    def passes(event: Mapping[str, Any]) -> bool:
        try:
            return program.execute({"event": dict(event)}) is True
        except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, OverflowError):
            return False  # a field that this event does not have

    return passes


def _program(expression: str) -> Any:
    try:
        import cel
    except ModuleNotFoundError:
        raise ValueError(MISSING) from None
    if LOOPS.search(expression):
        raise ValueError(
            "when: has a macro that loops (all, exists, map, filter), which is not bounded: leave it out"
        )
    try:
        return cel.compile(expression)
    except ValueError as error:
        raise ValueError(f"when: not an expression of CEL: {_one_line(error)}") from None


def check(expression: str) -> None:
    """Try the expression on an event with every field.

    Raises:
        ValueError: as `compiled`; or it asks for a field that no event has, or does not give true or false.
    """
    program = _program(expression)
    named = re.findall(r"probs\s*(?:\.\s*(\w+)|\[\s*['\"](\w+)['\"]\s*\])", expression)
    probs = {one or other: 0.5 for one, other in named}
    try:
        found = program.execute({"event": {**SAMPLE, "probs": probs}})
    except KeyError as error:
        raise ValueError(f"when: an event has no field {error}; it has {', '.join(SAMPLE)}") from None
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"when: {_one_line(error)[:200]}; it is asked of `event`") from None
    if not isinstance(found, bool):
        raise ValueError(f"when: must give true or false, and gives {type(found).__name__}")


def fields_of(said: Said) -> dict[str, Any]:
    """What an expression sees of an utterance: the fields of SAMPLE; what is not there is empty, and no null."""
    return {
        "channel": said.channel,
        "role": said.role or "",
        "utterance": said.index,
        "revision": said.revision,
        "seq": said.seq,
        "start_ms": said.start_ms,
        "end_ms": said.end_ms,
        "text": said.text or "",
        "text_source": said.text_source,
        "text_confidence": 1.0 if said.text_confidence is None else said.text_confidence,
        "emotion": said.emotion or "",
        "confidence": said.confidence or 0.0,
        "probs": said.probs,
        "modalities": list(said.modalities),
        "degraded": list(said.degraded),
        "reason": said.reason or "",
        "speaker": "" if said.who == said.channel else said.who,
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
