"""HubActor: the event hub, lent to Ray. An event is journalled, then published, then acknowledged."""

import asyncio
from collections.abc import Sequence
from typing import Any

from actors.config import HubConfig
from bcaf_stream.events.hub import EventHub
from bcaf_stream.events.messages import Event
from bcaf_stream.events.progress import Progress


class HubActor:
    """Takes events from the owners of the calls and answers when they are on disk and on the wire.

    Raises (at creation): EventError, when a port or the journal cannot be opened.
    """

    def __init__(self, config: HubConfig) -> None:
        self._hub = EventHub(config)

    async def endpoint(self) -> str:
        return self._hub.bus.endpoint

    async def replay_endpoint(self) -> str:
        return self._hub.replay.endpoint

    async def publish(self, events: Sequence[Event]) -> list[int]:
        """Journal `events`, publish them, and return their offsets. Known ids are stored once.

        Raises:
            EventError: the journal cannot be written; then nothing of it is published.
        """
        return await asyncio.wrap_future(self._hub.publish(events))

    async def progress(self, call: str) -> Progress | None:
        """How far this call has got in the journal, None where there is nothing of it; one erased has ended."""
        return await asyncio.to_thread(self._hub.progress, call)

    async def unfinished(self) -> list[str]:
        """The calls of the journal that have no end."""
        return await asyncio.to_thread(self._hub.journal.unfinished)

    async def beat(self) -> None:
        """For ever: as long as this does not end, the hub, which beats by itself, is alive."""
        await asyncio.Event().wait()

    async def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Whether somebody listens within `timeout_s`, so that a first listener misses nothing."""
        return await asyncio.to_thread(self._hub.bus.wait_for_subscriber, timeout_s)

    async def stats(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._hub.stats)

    async def close(self) -> None:
        """Send what is queued and close the journal."""
        await asyncio.to_thread(self._hub.close)
