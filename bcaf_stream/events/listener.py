"""The name of a subscriber without replay until everybody uses `EventSubscriber(endpoint, None)`."""

from pathlib import Path

from bcaf_stream.events.event import EVERYTHING, topic_prefix
from bcaf_stream.events.subscriber import EventSubscriber


class EventListener(EventSubscriber):
    def __init__(self, endpoint: str, call: str | None = None, key: Path | None = None) -> None:
        topics = [EVERYTHING if call is None else topic_prefix(call)]
        super().__init__(endpoint, None, topics, key=key, high_water_mark=100_000)
