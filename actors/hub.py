"""HubActor: the journal and the public event socket. An event is journalled, then published."""

import asyncio
from collections.abc import Sequence
from typing import Any

from actors.config import HubConfig
from bcaf_stream.events.bus import EventPublisher
from bcaf_stream.events.journal import Journal
from bcaf_stream.events.messages import Event


class HubActor:
    """Takes events from the owners of the calls and answers when they are on disk and on the wire.

    Raises (at creation): EventError, when the port or the journal cannot be opened.
    """

    def __init__(self, config: HubConfig) -> None:
        self._journal = Journal(config.journal)
        self._publisher = EventPublisher(config.bus)
        self._heartbeat_s = config.heartbeat_s
        self._published = 0

    async def endpoint(self) -> str:
        return self._publisher.endpoint

    async def publish(self, events: Sequence[Event]) -> list[int]:
        """Journal `events`, publish them, and return their offsets. Known ids are stored once.

        Raises:
            EventError: the journal cannot be written; then nothing of it is published.
        """
        journalled = self._journal.append(events)
        for event in journalled:
            self._publisher.publish(event)
        self._published += len(journalled)
        return [event.offset for event in journalled if event.offset is not None]

    async def has_ended(self, call: str) -> bool:
        """Whether the journal already holds this call's end."""
        return any(event.type == "call.end" for event in self._journal.read(call=call))

    async def beat(self) -> None:
        """Publish heartbeats for ever: a subscriber knows from them that silence is silence."""
        while True:
            self._publisher.heartbeat()
            await asyncio.sleep(self._heartbeat_s)

    async def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Whether somebody listens within `timeout_s`, so that a first listener misses nothing."""
        return await asyncio.to_thread(self._publisher.wait_for_subscriber, timeout_s)

    async def stats(self) -> dict[str, Any]:
        return {
            "events": self._published,
            "offset": self._journal.last_offset,
            "subscribers": self._publisher.subscribers,
        }

    async def close(self) -> None:
        """Send what is queued and close the journal."""
        self._publisher.close()
        self._journal.close()
