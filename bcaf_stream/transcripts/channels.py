"""Which channel of the call a transcript means by its own label: the name itself, else A/1 and B/2.

Transcript formats carry "1", "A", a speaker or a voice. A label that fits no channel is an error, never a guess:
words on the wrong side of a call would turn the agent's mood into the customer's.
"""

from collections.abc import Sequence

from bcaf_stream.errors import TranscriptError

POSITIONS = {"a": 0, "1": 0, "b": 1, "2": 1}


def resolve_channel(labels: Sequence[str], channels: Sequence[str]) -> str | None:
    """Return the channel that the first fitting label means; None if there is no label at all.

    Exact names are tried for every label before positions ("A" or "1" is the first channel, "B" or "2" the
    second), so that a speaker's name wins over the channel column beside it. Case does not matter unless two
    channels differ in nothing else.

    Raises:
        TranscriptError: labels are given and none fits; the message names the allowed ones.
    """
    if not labels:
        return None
    for label in labels:
        if label in channels:
            return label
        alike = [name for name in channels if name.casefold() == label.casefold()]
        if len(alike) == 1:
            return alike[0]
    for label in labels:
        position = POSITIONS.get(label.casefold())
        if position is not None and position < len(channels):
            return channels[position]
    positions = ", ".join(("A or 1", "B or 2")[: len(channels)])
    given = " / ".join(repr(label[:40]) for label in labels)
    raise TranscriptError(
        f"channel {given} is not in this call: name one of {', '.join(channels)} (or, by position, {positions})"
    )
