"""What holds in the end of a stream of events: no interim results, revised utterances in their last version."""

from collections.abc import Iterable

from bcaf_stream.events.event import Event


def settled(events: Iterable[Event]) -> list[Event]:
    """Each utterance's last word on its emotion, in the order of the first."""
    last: dict[tuple[str, str, int | None], Event] = {}
    for event in events:
        if event.type in ("emotion.final", "emotion.revised"):
            key = (event.call, event.channel, event.utterance)
            if key not in last or event.revision >= last[key].revision:
                last[key] = event
    return list(last.values())
