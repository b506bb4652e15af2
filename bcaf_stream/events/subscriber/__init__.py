"""One subscriber, with and without replay: `follow` decides, `position` remembers, `client` moves bytes.

    from pathlib import Path
    from bcaf_stream.events.subscriber import EventSubscriber

    place = Path("my-place.json")  # delete it to begin again
    with EventSubscriber(start="start", position=place) as subscriber:
        for event in subscriber:
            if event.emotion is not None:
                print(event.call, event.channel, event.emotion, event.confidence)
            if event.type == "call.end":
                break

It may be used from one thread; AsyncEventSubscriber from one event loop.
"""

from bcaf_stream.events.subscriber.client import AsyncEventSubscriber, EventSubscriber
from bcaf_stream.events.subscriber.follow import EventGap

__all__ = ["AsyncEventSubscriber", "EventGap", "EventSubscriber"]
